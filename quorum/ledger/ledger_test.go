package ledger

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lockstep-ha/lockstep/quorum"
)

func TestBootstrap_OneNodeFoundsAndServesAlone(t *testing.T) {
	c := newCluster(t, nil, "A")
	c.start("A")
	c.leader("A")
	c.create("A", "r0", 1)
	id := c.nodes["A"].Status()
	c.stop("A")
	c.start("A")
	c.leader("A")
	if s := c.barrier("A"); s.Find("r0") == nil || c.nodes["A"].Status().Voter != id.Voter || s.Incarnation.ID != id.Incarnation {
		t.Fatalf("after a restart: %+v", s)
	}
}

func TestBootstrap_WaitsForEveryMember(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "W")
	s := c.until("A", "waiting for B", func(s Status) bool { return strings.Contains(s.Problem, "no answer yet from B") })
	if s.Founded || s.Incarnation != 0 {
		t.Fatalf("founded without B: %+v", s)
	}
	c.start("B")
	c.leader("A", "B", "W")
	a := c.barrier("A")
	for _, n := range c.all() {
		if st := c.barrier(n); st.Incarnation != a.Incarnation || st.Voter(c.nodes[n].Status().Voter).Name != n {
			t.Errorf("%s: %+v", n, st)
		}
		if s := c.nodes[n].Status(); len(s.Voters) != 3 || s.Problem != "" {
			t.Errorf("%s: %+v", n, s)
		}
	}
	if !a.Node("W").Witness {
		t.Error("the witness is none")
	}
}

func TestBootstrap_DifferentListsFoundNothing(t *testing.T) {
	c := newCluster(t, nil, "A", "B")
	c.edit = func(cfg *Config) {
		if cfg.Node == "B" {
			cfg.Members = []Member{cfg.Members[1], cfg.Members[0]}
		}
	}
	c.start("A", "B")
	for _, n := range []string{"A", "B"} {
		if s := c.until(n, "complaining", func(s Status) bool { return strings.Contains(s.Problem, "make them equal") }); s.Founded {
			t.Fatalf("founded: %+v", s)
		}
	}
}

func TestPropose_ThroughEachNodeAndSeenByAll(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	for i, n := range c.all() {
		name := "r" + n
		c.create(n, name, uint64(i+1))
		if c.nodes[n].State().Find(name) == nil {
			t.Errorf("%s does not see what it has just proposed", n)
		}
	}
	for _, n := range c.all() {
		if s := c.barrier(n); len(s.Resources) != 3 {
			t.Errorf("%s has %d resources", n, len(s.Resources))
		}
	}
	res := c.propose("B", createCmd(c.nodes["B"].State(), "rA", 9, "A"))
	if !errors.Is(res.Err(), quorum.ErrExists) || res.Resource == nil || res.Index == 0 {
		t.Errorf("refusal %+v", res)
	}
}

// History 22: the link between the primary and the leader is cut, and both reach the witness.
func TestHistory22_ProposalsAndStatePassThroughTheWitness(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.toLeader("B")
	c.net.split("A", "B")
	c.untilLink("A", "B", false)
	c.create("A", "r0", 1)
	r := c.barrier("A").Find("r0") // its own copy goes on, too
	if res := c.propose("A", errText(1, r)); res.Err() != nil {
		t.Fatal(res.Err())
	}
	c.net.heal("A", "B")
	c.untilLink("A", "B", true)
	if got := c.barrier("B").Find("r0").Replicas[0].Error; got != "text 1" {
		t.Fatalf("B has %q", got)
	}
}

func TestLink_OneWayCutIsPassedBy(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.toLeader("B")
	c.net.block("B", "A")
	c.untilLink("A", "B", false)
	c.create("A", "r0", 1)
}

func TestRestart_OfEachNodeKeepsTheState(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	c.create("A", "r0", 1)
	for i, n := range c.all() {
		before := c.nodes[n].Status().Voter
		c.stop(n)
		var others []string
		for _, o := range c.all() {
			if o != n {
				others = append(others, o)
			}
		}
		c.leader(others...)
		r := c.barrier(others[0]).Find("r0")
		if res := c.propose(others[0], errText(uint64(i), r)); res.Err() != nil {
			t.Fatal(res.Err())
		}
		c.start(n)
		c.leader(c.all()...)
		if got := c.barrier(n).Find("r0").Replicas[0].Error; got != "text "+string(rune('0'+i)) {
			t.Errorf("%s has %q", n, got)
		}
		if c.nodes[n].Status().Voter != before {
			t.Errorf("%s is another voter after a restart", n)
		}
	}
}

func TestSnapshot_LaggingNodeCatchesUp(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.SnapshotEntries = 10; cfg.KeepEntries = 2 }, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	c.create("A", "r0", 1)
	c.stop("W")
	c.leader("A", "B")
	for i := range 40 {
		if res := c.propose("A", errText(uint64(i), c.nodes["A"].State().Find("r0"))); res.Err() != nil {
			t.Fatal(res.Err())
		}
	}
	c.start("W")
	if got := c.barrier("W").Find("r0").Replicas[0].Error; got != "text 39" {
		t.Fatalf("W has %q", got)
	}
	var first []byte
	err := c.nodes["A"].store.db.View(func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(bucketLog).Cursor().First()
		first = bytes.Clone(k)
		return nil
	})
	if err != nil || bytes.Compare(first, indexKey(30)) < 0 {
		t.Errorf("the log was not cut: it begins at %x, %v", first, err)
	}
	for _, n := range c.all() { // and the cut log is readable
		c.stop(n)
	}
	c.start(c.all()...)
	c.leader(c.all()...)
	if got := c.barrier("W").Find("r0").Replicas[0].Error; got != "text 39" {
		t.Fatalf("W has %q after a restart", got)
	}
}

// History 8: Drop(B) is committed on {A,W}; W is reinstalled empty under its name; A dies; B and
// W would be a majority that knows {A,B}.
func TestHistory8_EmptyLedgerUnderAKnownNameGetsNoVote(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.toLeader("A")
	c.stop("B")
	c.create("A", "r0", 1) // on {A,W} only
	old := c.nodes["W"].Status().Voter
	c.stop("W")
	c.nodes["W"].dir = t.TempDir()
	c.start("W")
	s := c.until("W", "complaining", func(s Status) bool { return strings.Contains(s.Problem, "has no vote") })
	if s.Voter == old || s.Founded {
		t.Fatalf("W came back as %+v", s)
	}
	c.stop("A")
	c.start("B")
	// B and W cannot elect. Give B many times the time that an election takes, in its own ticks.
	b := c.nodes["B"]
	from := ticksOf(t, b)
	for ticksOf(t, b) < from+20*b.cfg.ElectionTicks {
		<-time.After(b.cfg.TickInterval)
	}
	if s := b.Status(); s.Leader != "" || s.HasQuorum {
		t.Fatalf("B was elected with an empty ledger's vote: %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Propose(ctx, createCmd(b.State(), "r1", 2, "A")); !errors.Is(err, ErrNotProposed) {
		t.Fatalf("proposal without a leader: %v", err)
	}
	if b.State().Find("r1") != nil {
		t.Fatal("it was applied")
	}
	// A comes back, and the operator replaces the voter.
	c.start("A")
	c.leader("A", "B")
	st := c.barrier("A")
	if st.Find("r0") == nil {
		t.Fatal("the committed command is lost")
	}
	w := *st.Node("W")
	replaces := w.VoterID
	w.VoterID = c.nodes["W"].Status().Voter
	if res := c.propose("A", quorum.Command{Version: st.Version, AddNode: &quorum.AddNode{Node: w, Replaces: replaces}}); res.Err() != nil {
		t.Fatal(res.Err())
	}
	c.until("W", "a voter", func(s Status) bool {
		for _, v := range s.Voters {
			if v.ID == s.Voter && !v.Learner {
				return len(s.Voters) == 3 && s.Problem == ""
			}
		}
		return false
	})
	if c.barrier("W").Find("r0") == nil {
		t.Fatal("W did not get the state")
	}
}

func ticksOf(t testing.TB, n *testNode) int {
	t.Helper()
	ticks := 0
	if err := n.call(context.Background(), func() { ticks = n.v.Ticks() }); err != nil {
		t.Fatal(err)
	}
	return ticks
}

func TestRule14_RestoredLedgerFileStopsVoting(t *testing.T) {
	// Slow ticks: only the leader that W has promised something to can tell that its file is older.
	c := newCluster(t, func(cfg *Config) { cfg.TickInterval = 50 * time.Millisecond }, "A", "B", "W")
	c.start("A", "B", "W")
	c.toLeader("A")
	c.stop("W")
	old, err := os.ReadFile(filepath.Join(c.nodes["W"].dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	c.start("W")
	c.leader("A", "B", "W")
	c.net.split("A", "B")
	c.net.split("W", "B")
	c.create("W", "r0", 1) // it takes W's acknowledgement, and A has got it
	c.stop("W")
	c.net.heal("A", "B")
	c.net.heal("W", "B")
	if err := os.WriteFile(filepath.Join(c.nodes["W"].dir, "ledger.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start("W")
	c.until("W", "confessing", func(s Status) bool { return strings.Contains(s.Problem, "no longer votes") })
	c.stop("W")
	c.start("W")
	c.until("W", "confessing after a restart", func(s Status) bool { return strings.Contains(s.Problem, "no longer votes") })
}

func TestLostQuorum_NothingIsAppliedAndErrorsSayWhatIsKnown(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	r := c.nodes["A"].State().Find("r0")
	c.net.split("A", "B")
	c.net.split("A", "W")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := c.nodes["A"].Propose(ctx, errText(7, r)) // A still believes that it leads
		result <- err
	}()
	c.until("A", "deposed", func(s Status) bool { return !s.HasQuorum })
	cancel()
	if err := <-result; !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotProposed) {
		t.Fatalf("a proposal in the log of a leader without a quorum: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.nodes["A"].Propose(ctx, errText(8, r)); !errors.Is(err, ErrNotProposed) || errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("a proposal without a leader: %v", err)
	}
	if err := c.nodes["A"].Barrier(ctx); !errors.Is(err, ErrNoQuorum) {
		t.Fatalf("a read without a quorum: %v", err)
	}
	if got := c.nodes["A"].State().Find("r0"); got.Version != r.Version {
		t.Fatal("something was applied without a quorum")
	}
	// The others go on; a no-op makes sure that the lost command cannot apply later.
	c.leader("B", "W")
	noop := quorum.On(c.barrier("B").Find("r0"))
	noop.NoOp = &quorum.NoOp{}
	if res := c.propose("B", noop); res.Err() != nil {
		t.Fatal(res.Err())
	}
	c.net.heal("A", "B")
	c.net.heal("A", "W")
	c.leader("A", "B", "W")
	if got := c.barrier("A").Find("r0"); got.Replicas[0].Error != "" || got.Version != r.Version+1 {
		t.Fatalf("the lost command applied late: %+v", got)
	}
}

func TestPropose_TooLargeOrInvalidIsNotProposed(t *testing.T) {
	c := newCluster(t, nil, "A")
	c.start("A")
	c.leader("A")
	if _, err := c.nodes["A"].Propose(t.Context(), quorum.Command{}); !errors.Is(err, ErrNotProposed) || !errors.Is(err, quorum.ErrInvalid) {
		t.Error(err)
	}
}

func TestSubscribe_InOrderAndNeverWithoutTheNewest(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.leader("A", "B", "W")
	var mu sync.Mutex
	var last uint64
	seen := make(chan uint64, 1000)
	cancel := c.nodes["B"].Subscribe(func(s *quorum.State) {
		mu.Lock()
		defer mu.Unlock()
		if r := s.Find("r0"); r != nil {
			if r.Version < last {
				t.Errorf("version %d after %d", r.Version, last)
			}
			last = r.Version
			seen <- last
		}
	})
	defer cancel()
	c.create("A", "r0", 1)
	var want uint64
	for i := range 20 {
		want = c.propose("A", errText(uint64(i), c.nodes["A"].State().Find("r0"))).Resource.Version
	}
	for v := range seen {
		if v == want {
			break
		}
	}
}

func TestLead_GoesToTheWitness(t *testing.T) {
	c := newCluster(t, nil, "A", "B", "W")
	c.start("A", "B", "W")
	c.until("A", "led by the witness", func(s Status) bool { return s.Leader == "W" })
	c.stop("W")
	c.leader("A", "B")
	c.start("W")
	c.until("A", "led by the witness again", func(s Status) bool { return s.Leader == "W" })
	if err := c.nodes["W"].TransferAway(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.until("W", "not leading", func(s Status) bool { return !s.IsLeader })
}

func TestOpen_Refusals(t *testing.T) {
	c := newCluster(t, nil, "A")
	cfg := c.config("A")
	cfg.Transport = c.net.host("A")
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("twice: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Propose(t.Context(), createCmd(&quorum.State{}, "r0", 1, "A")); !errors.Is(err, ErrNotProposed) || !errors.Is(err, ErrClosed) {
		t.Errorf("propose on a closed ledger: %v", err)
	}
	if err := l.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
	other := cfg
	other.Cluster = "d"
	if _, err := Open(other); !errors.Is(err, ErrForeign) {
		t.Errorf("other cluster: %v", err)
	}
	bad := Config{Members: []Member{{Name: "x y"}, {Name: "x y"}}, HeartbeatTicks: 9, ElectionTicks: 10}
	if err := bad.Validate(); !errors.Is(err, ErrConfig) || len(strings.Split(err.Error(), "\n")) < 6 {
		t.Errorf("config: %v", err)
	}
	path := filepath.Join(cfg.Dir, "ledger.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), `"cluster":"c"`)
	b[at+11] = 'e'
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a flipped byte: %v", err)
	}
}
