package voter

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/quorum"
)

func TestPropose_ThroughEachNodeAndSeenByAll(t *testing.T) {
	c := newCluster(t, 1, "A", "B", "W")
	c.leader()
	for i, n := range c.names {
		c.create(n, "r"+n, uint64(i+1))
		if c.hosts[n].State().Find("r"+n) == nil {
			t.Errorf("%s does not see what it has just proposed", n)
		}
	}
	want, err := quorum.EncodeState(c.fresh("A"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.names {
		if got, err := quorum.EncodeState(c.fresh(n)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has another state: %v", n, err)
		}
	}
	res := c.propose("B", createCmd(c.hosts["B"].State(), "rA", 9))
	if !errors.Is(res.Err(), quorum.ErrExists) || res.Resource == nil || res.Index == 0 {
		t.Errorf("refusal %+v", res)
	}
}

func TestLead_GoesToTheWitnessAndAwayOnRequest(t *testing.T) {
	c := newCluster(t, 2, "A", "B", "W")
	c.until("W leads", func() bool { return c.hosts["W"].Leads() && c.hosts["A"].Leader() == "W" })
	gone := false
	c.hosts["W"].TransferAway(func(err error) { gone = err == nil && !c.hosts["W"].Leads() })
	c.until("W does not lead any more", func() bool { return gone })
}

// History 22: the link between the primary and the leader is cut, and both reach the witness.
func TestHistory22_ProposalsAndStatePassThroughTheWitness(t *testing.T) {
	c := newCluster(t, 3, "A", "B", "W")
	c.toLeader("B")
	c.split("A", "B")
	c.create("A", "r0", 1) // its own copy goes on, too: the next command is bound to it
	if err := c.propose("A", note(c.hosts["A"].State(), "x")).Err(); err != nil {
		t.Fatal(err)
	}
	if c.fresh("B"); c.text("B") != "x" {
		t.Fatalf("B has %q", c.text("B"))
	}
}

func TestPropose_CopiesOfOneProposalHaveOneOutcome(t *testing.T) {
	c := newCluster(t, 4, "A", "B", "W")
	c.toLeader("B")
	c.create("A", "r0", 1)
	a := c.hosts["A"]
	cmd, err := quorum.EncodeCommand(note(c.fresh("A"), "x"))
	if err != nil {
		t.Fatal(err)
	}
	var got []quorum.Result
	p := &Proposal{id: proposalID{1, 2, 3}, command: cmd, resource: "r0", done: func(res quorum.Result, err error) { got = append(got, res) }}
	for range 5 { // as after lost answers
		a.advance(p)
		p.sentTo, p.accepted = leadership{}, leadership{}
	}
	a.register(p)
	c.until("it is answered", func() bool { return len(got) > 0 })
	if got[0].Err() != nil {
		t.Fatalf("a copy was answered as if it were another proposal: %v", got[0].Err())
	}
	version := c.fresh("A").Find("r0").Version
	// The leader knows the id and puts no copy into its log, even much later.
	a.register(&Proposal{id: p.id, command: cmd, resource: "r0", done: p.done})
	c.steps(30)
	if now := c.fresh("A").Find("r0").Version; now != version || len(got) != 1 {
		t.Fatalf("version %d after a copy, %d before, %d answers", now, version, len(got))
	}
}

func TestWithdraw_SaysWhatIsKnown(t *testing.T) {
	c := newCluster(t, 5, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	s := c.hosts["A"].State()
	c.isolate("A")
	p, a := c.begin("A", note(s, "lost")) // A still believes that it leads
	c.until("A is deposed", func() bool { return !c.hosts["A"].Status().HasQuorum })
	if err := c.hosts["A"].Withdraw(p, errDisk); !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotProposed) || !errors.Is(err, errDisk) {
		t.Fatalf("a proposal in the log of a leader without a quorum: %v", err)
	}
	p, b := c.begin("A", note(s, "never"))
	c.steps(10)
	if err := c.hosts["A"].Withdraw(p, errDisk); !errors.Is(err, ErrNotProposed) || errors.Is(err, ErrOutcomeUnknown) {
		t.Fatalf("a proposal without a leader: %v", err)
	}
	read := false
	w := c.hosts["A"].Barrier(func(error) { read = true })
	c.steps(10)
	c.hosts["A"].Forget(w)
	// The others go on; a no-op makes sure that the lost command cannot apply later.
	c.leader("B", "W")
	noop := quorum.On(c.fresh("B").Find("r0"))
	noop.NoOp = &quorum.NoOp{}
	if err := c.propose("B", noop).Err(); err != nil {
		t.Fatal(err)
	}
	c.heal()
	c.leader()
	if c.fresh("A"); c.text("A") != "" || a.done || b.done || read {
		t.Fatalf("A has %q; answered %t %t %t", c.text("A"), a.done, b.done, read)
	}
}

func TestStop_AnswersWhoWaits(t *testing.T) {
	c := newCluster(t, 6, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	s := c.hosts["A"].State()
	c.isolate("A")
	_, inLog := c.begin("A", note(s, "x"))
	var read error
	c.hosts["A"].Barrier(func(err error) { read = err })
	h := c.hosts["A"]
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(inLog.err, ErrOutcomeUnknown) || !errors.Is(read, ErrClosed) {
		t.Errorf("%v, %v", inLog.err, read)
	}
	if _, err := h.Propose(note(s, "y"), nil); !errors.Is(err, ErrNotProposed) || !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := h.Ready(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestPropose_InvalidIsNotProposed(t *testing.T) {
	c := newCluster(t, 7, "A")
	c.leader()
	if _, err := c.hosts["A"].Propose(quorum.Command{}, nil); !errors.Is(err, ErrNotProposed) || !errors.Is(err, quorum.ErrInvalid) {
		t.Error(err)
	}
}

// What is written lazily is lost with the process, and harmless; what was acknowledged is not.
func TestRestart_KilledAndStoppedNodesKeepTheState(t *testing.T) {
	c := newCluster(t, 8, "A", "B", "W")
	c.leader()
	c.create("A", "r0", 1)
	for i := range 30 { // more than a snapshot's worth
		name := c.names[i%3]
		before := c.hosts[name].Status()
		if i%2 == 0 {
			c.kill(name)
		} else if err := c.hosts[name].Stop(); err != nil {
			t.Fatal(err)
		}
		c.start(name)
		if now := c.hosts[name].Status(); i%2 != 0 && now.Applied != before.Applied || now.Applied > before.Applied || now.Voter != before.Voter {
			t.Fatalf("%+v after %+v", now, before)
		}
		c.leader()
		want := strings.Repeat("x", i)
		if err := c.propose(name, note(c.fresh(name), want)).Err(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.names {
			if c.fresh(n); c.text(n) != want {
				t.Fatalf("%s has %q", n, c.text(n))
			}
		}
	}
	if first, err := c.hosts["A"].book.mem.FirstIndex(); err != nil || first < 20 {
		t.Errorf("the log was not cut: it begins at %d, %v", first, err)
	}
}

func TestSnapshot_LaggingNodeCatchesUp(t *testing.T) {
	c := newCluster(t, 9, "A", "B", "W")
	c.leader()
	c.create("A", "r0", 1)
	c.kill("W")
	c.leader("A", "B")
	for i := range 40 {
		if err := c.propose("A", note(c.hosts["A"].State(), strings.Repeat("y", i+1))).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.start("W")
	c.leader()
	if c.fresh("W"); len(c.text("W")) != 40 {
		t.Fatalf("W has %q", c.text("W"))
	}
}

// A write that fails ends the voter before anything leaves, and the next start finds all of it or
// nothing.
func TestStorage_FailedWriteSendsNothing(t *testing.T) {
	for _, effect := range []bool{false, true} {
		c := newCluster(t, 10, "A", "B", "W")
		c.toLeader("A")
		c.create("A", "r0", 1)
		h := c.hosts["B"]
		sent := 0
		c.sent = func(p packet) bool {
			if p.from == "B" {
				sent++
			}
			return true
		}
		last := h.book.last()
		h.mem.FailNext(errDisk, effect)
		before := sent
		c.begin("A", note(c.hosts["A"].State(), "x"))
		if !errors.Is(h.fault, errDisk) || sent != before {
			t.Fatalf("B ended with %v and sent %d frames", h.fault, sent-before)
		}
		c.start("B")
		if now := h.book.last(); (now > last) != effect {
			t.Errorf("effect %t: B's log ended at %d and ends at %d", effect, last, now)
		}
		c.until("B has it", func() bool { return c.text("B") == "x" })
	}
}

// History 8: Drop(B) is committed on {A,W}; W is reinstalled empty under its name; A dies; B and
// W would be a majority that knows {A,B}.
func TestHistory8_EmptyLedgerUnderAKnownNameGetsNoVote(t *testing.T) {
	c := amnesia(t)
	for range 400 {
		if c.step(); c.hosts["B"].Leader() != "" || c.hosts["B"].Status().HasQuorum {
			t.Fatalf("B was elected with an empty ledger's vote: %+v", c.hosts["B"].Status())
		}
	}
	// A comes back, and the operator replaces the voter.
	c.start("A")
	c.leader("A", "B")
	s := c.fresh("A")
	if s.Find("r0") == nil {
		t.Fatal("the committed command is lost")
	}
	w := quorum.Node{Name: "W", Addr: "W:1", Witness: true, VoterID: c.hosts["W"].Status().Voter}
	add := quorum.Command{Version: s.Version, AddNode: &quorum.AddNode{Node: w, Replaces: s.Node("W").VoterID}}
	if err := c.propose("A", add).Err(); err != nil {
		t.Fatal(err)
	}
	c.until("W votes", func() bool { return c.votes("W", 3) })
	if c.fresh("W").Find("r0") == nil {
		t.Fatal("W did not get the state")
	}
}

// amnesia is history 8 up to where B and the empty W are alone.
func amnesia(t testing.TB) *cluster {
	t.Helper()
	c := newCluster(t, 11, "A", "B", "W")
	c.toLeader("A")
	c.kill("B")
	c.create("A", "r0", 1) // on {A,W} only
	c.kill("A", "W")
	c.hosts["W"].mem = NewMemory()
	c.start("W", "B")
	return c
}

func TestRule14_RestoredLedgerStopsVoting(t *testing.T) {
	c := newCluster(t, 12, "A", "B", "W")
	c.toLeader("A")
	old := c.hosts["W"].mem.Clone()
	c.create("W", "r0", 1) // W acknowledges this
	c.toLeader("A")
	c.kill("W")
	c.hosts["W"].mem = old
	c.start("W")
	confessed := func() bool { return strings.Contains(c.hosts["W"].Status().Problem, "no longer votes") }
	c.until("W confesses", confessed)
	c.kill("W")
	c.start("W")
	if !confessed() {
		t.Fatal("W forgot that it is lost")
	}
	// It is no help against the loss of the other one.
	c.kill("B")
	c.until("A is deposed", func() bool { return !c.hosts["A"].Leads() })
	for range 200 {
		if c.step(); c.hosts["A"].Leads() {
			t.Fatal("A was elected with a lost ledger's vote")
		}
	}
}

func TestFound_ByQuestionsAndPledges(t *testing.T) {
	c := empty(t, 13, "A", "B", "W")
	c.start("A", "B", "W")
	ask := func(pledge uint64, of ...string) map[string]Reply {
		replies := map[string]Reply{}
		for _, n := range of {
			r, err := c.hosts[n].Answer("A", c.hosts["A"].Question(pledge))
			if err != nil || CheckReply(r) != nil {
				t.Fatal(err, CheckReply(r))
			}
			replies[n] = r
		}
		return replies
	}
	a := c.hosts["A"]
	if a.Judge(ask(0, "W"), []string{"B"}) || !strings.Contains(a.Status().Problem, "no answer yet from B") {
		t.Fatalf("without B: %q", a.Status().Problem)
	}
	if !a.Judge(ask(0, "B", "W"), nil) || c.hosts["B"].Judge(ask(0, "A", "W"), nil) {
		t.Fatal("not A alone founds")
	}
	id, err := a.Pledge()
	if err != nil {
		t.Fatal(err)
	}
	pledges := ask(id, "B", "W")
	if again := ask(id+1, "B")["B"]; again.Incarnation != id {
		t.Fatalf("B pledged itself twice: %+v", again)
	}
	short := map[string]Reply{"B": pledges["B"]}
	if ok, err := a.Found(short, nil); ok || err != nil {
		t.Fatalf("founded without W: %v", err)
	}
	if ok, err := a.Found(pledges, map[string]string{"A": "A:1", "B": "B:1", "W": "W:1"}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.ready(a)
	c.create(c.leader(), "r0", 1)
	if c.fresh("W").Incarnation.ID != id || a.Status().Problem != "" {
		t.Errorf("incarnation %+v, problem %q", c.fresh("W").Incarnation, a.Status().Problem)
	}
	r, err := c.hosts["B"].Answer("A", a.Question(0))
	if err != nil || r.Empty || r.KnownAs != a.Status().Voter {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := c.hosts["B"].Answer("W", a.Question(0)); !errors.Is(err, ErrFrame) {
		t.Errorf("a question under another name: %v", err)
	}
}

func TestNew_Refusals(t *testing.T) {
	c := newCluster(t, 14, "A", "B")
	c.leader()
	c.create("A", "r0", 1)
	if err := c.hosts["A"].Stop(); err != nil {
		t.Fatal(err)
	}
	open := func(edit func(*Config, *Memory)) error {
		cfg, mem := c.config("A"), c.hosts["A"].mem.Clone()
		edit(&cfg, mem)
		_, err := New(cfg, mem, NewRouter("A", links{c.hosts["A"]}), c.rng.Uint64)
		return err
	}
	for name, want := range map[string]struct {
		edit func(*Config, *Memory)
		err  error
	}{
		"as it is":      {func(*Config, *Memory) {}, nil},
		"other node":    {func(cfg *Config, _ *Memory) { cfg.Node = "B" }, ErrForeign},
		"other cluster": {func(cfg *Config, _ *Memory) { cfg.Cluster = "d" }, ErrForeign},
		"format":        {func(_ *Config, m *Memory) { m.saved.Identity.Format = 9 }, ErrCorrupt},
		"no voter":      {func(_ *Config, m *Memory) { m.saved.Identity.Voter = 0 }, ErrCorrupt},
		"a gap":         {func(_ *Config, m *Memory) { m.saved.Entries = m.saved.Entries[1:] }, ErrCorrupt},
		"a short log":   {func(_ *Config, m *Memory) { m.saved.Entries = m.saved.Entries[:1] }, ErrCorrupt},
		"ahead":         {func(_ *Config, m *Memory) { m.saved.Position.Applied += 1000 }, ErrCorrupt},
		"incarnation":   {func(_ *Config, m *Memory) { m.saved.Identity.Incarnation++ }, ErrCorrupt},
	} {
		if err := open(want.edit); !errors.Is(err, want.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
