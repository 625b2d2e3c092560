package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/coordinator"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// fakeArms is a fencer whose devices are told what to say.
type fakeArms struct {
	can     []string
	fired   []string // "n2 boot"
	err     error    // of Fence
	letBack error    // of Unfence
}

func (a *fakeArms) Can(node string) bool { return slices.Contains(a.can, node) }

func (a *fakeArms) Fence(ctx context.Context, req fencing.Request) (string, error) {
	if req.Still != nil {
		if err := req.Still(ctx); err != nil {
			return "", fmt.Errorf("%w: %w", fencing.ErrWithdrawn, err)
		}
	}
	a.fired = append(a.fired, req.Node+" "+req.Boot)
	return "the plug is off", a.err
}

func (a *fakeArms) Test(_ context.Context, t fencing.Target) fencing.Report {
	works := a.Can(t.Node)
	return fencing.Report{Node: t.Node, Works: works, Findings: []fencing.Finding{{Device: "plug", Severity: fencing.Good, Text: "boot " + t.Boot}}}
}

func (a *fakeArms) Unfence(context.Context, fencing.Target) ([]fencing.Attempt, error) {
	return []fencing.Attempt{{Node: "n2", Device: "plug", Action: "on"}}, a.letBack
}

func (a *fakeArms) History() []fencing.Attempt {
	return []fencing.Attempt{{Node: "n2", Device: "plug", Action: "off", Failure: "no answer in time"}}
}

// armedNode is the file of n1 with a hook for n2 that does as script says, and a watchdog for n3.
func armedNode(t *testing.T, script string) config.Node {
	t.Helper()
	hook := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := config.DefaultNode()
	cfg.Name = "n1"
	cfg.Fences = []config.Fence{{Name: "dog", Watchdog: true}, {Name: "hook", Exec: hook, Timeout: time.Minute}}
	cfg.Fencing.Nodes = []config.FenceNode{
		{Node: "n1", Levels: [][]string{{"hook"}}}, {Node: "n2", Levels: [][]string{{"dog"}, {"hook"}}},
		{Node: "n3", Levels: [][]string{{"dog"}}}, {Node: "n4", Levels: [][]string{{"hook", "dog"}}},
	}
	return cfg
}

func TestDevices_FireByTheNodeFile(t *testing.T) {
	d, err := newDevices(armedNode(t, `[ "$LOCKSTEP_NODE/$LOCKSTEP_BOOT_ID/$LOCKSTEP_ACTION" = n2/b2/off ]`), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// Nobody declares a watchdog to another node, so one proves nothing.
	for node, can := range map[string]bool{"n1": false, "n2": true, "n3": false, "n4": false, "n5": false} {
		if d.Can(node) != can {
			t.Errorf("can %s: %v", node, !can)
		}
	}
	proof, err := d.Fence(t.Context(), fencing.Request{Target: fencing.Target{Node: "n2", Boot: "b2"}})
	if err != nil || !strings.Contains(proof, "says that it is off") {
		t.Errorf("%q, %v", proof, err)
	}
	if _, err := d.Fence(t.Context(), fencing.Request{Target: fencing.Target{Node: "n2", Boot: "b3"}}); !errors.Is(err, fencing.ErrUnproven) {
		t.Errorf("a hook that exits 1: %v", err)
	}
	for node, want := range map[string]error{"n1": fencing.ErrSelf, "n3": fencing.ErrNotArmed, "n5": fencing.ErrNoDevice} {
		if _, err := d.Fence(t.Context(), fencing.Request{Target: fencing.Target{Node: node, Boot: "b"}}); !errors.Is(err, want) {
			t.Errorf("%s: %v", node, err)
		}
	}
}

// leaderless is a fakeLedger for a failover that only fires.
type leaderless struct{ *fakeLedger }

func (leaderless) Status() ledger.Status           { return ledger.Status{} }
func (leaderless) Note(string, []byte) bool        { return false }
func (leaderless) SinceHeard(string) time.Duration { return -1 }

// ordered is a failover on n1 that the ledger asks to turn n2 off.
func ordered(t *testing.T, arms *fakeArms) (*failover, *fakeLedger, quorum.Fence) {
	t.Helper()
	l := newFakeLedger(t, "n1", "n2", "w")
	l.must(t, quorum.Command{Version: l.State().Version, NodeStarted: &quorum.NodeStarted{Node: "n2", Boot: "b2", Process: 7}})
	l.must(t, quorum.Command{Version: l.State().Version, FenceRequested: &quorum.FenceRequested{Target: "n2", Boot: "b2", Executor: "n1", ID: 5}})
	self := quorum.Incumbent{Node: "n1", Boot: "b1", Process: 1}
	log := slog.New(slog.DiscardHandler)
	m := newManager(self, l, newFakeOpener(), newJournal("n1", 8), log, randomID)
	cfg := coordinator.DefaultConfig()
	cfg.Node, cfg.NewID = "n1", randomID
	f, err := newFailover(cfg, self, leaderless{l}, m, arms, func() time.Duration { return 0 }, log)
	if err != nil {
		t.Fatal(err)
	}
	return f, l, *l.State().Fence("n2")
}

func TestFire_OnlyWhatTheLedgerAsksForAtThatMoment(t *testing.T) {
	for name, tc := range map[string]struct {
		arms   fakeArms
		change func(f *failover, l *fakeLedger)
		want   coordinator.FenceResult
		text   string
		fires  int
	}{
		"it works":     {fakeArms{can: []string{"n2"}}, func(*failover, *fakeLedger) {}, coordinator.FenceOK, "the plug is off", 1},
		"it fails":     {fakeArms{can: []string{"n2"}, err: fmt.Errorf("%w: on", fencing.ErrUnproven)}, func(*failover, *fakeLedger) {}, coordinator.FenceError, "not proven off", 1},
		"it hangs":     {fakeArms{can: []string{"n2"}, err: fmt.Errorf("off: %w", fencing.ErrTimeout)}, func(*failover, *fakeLedger) {}, coordinator.FenceTimedOut, "no answer", 1},
		"no device":    {fakeArms{}, func(*failover, *fakeLedger) {}, coordinator.FenceError, "no way to turn n2 off", 0},
		"no quorum":    {fakeArms{can: []string{"n2"}}, func(_ *failover, l *fakeLedger) { l.down = errors.New("no majority") }, coordinator.FenceError, "no majority", 0},
		"taken back":   {fakeArms{can: []string{"n2"}}, func(_ *failover, l *fakeLedger) { lift(t, l) }, coordinator.FenceError, "does not ask for it any more", 0},
		"proven by us": {fakeArms{can: []string{"n2"}}, func(f *failover, _ *fakeLedger) { f.proofs.put(5, "shot before") }, coordinator.FenceOK, "shot before", 0},
		"proven for another request": {fakeArms{can: []string{"n2"}}, func(f *failover, _ *fakeLedger) { f.proofs.put(6, "shot before") }, coordinator.FenceOK,
			"the plug is off", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f, l, order := ordered(t, &tc.arms)
			tc.change(f, l)
			f.fire(t.Context(), order)
			ev := <-f.events
			if ev.Kind != coordinator.EvFenceDone || ev.ID != 5 || ev.Fenced != tc.want || !strings.Contains(ev.Text, tc.text) {
				t.Errorf("%+v", ev)
			}
			if len(tc.arms.fired) != tc.fires {
				t.Errorf("fired %v", tc.arms.fired)
			}
		})
	}
}

// lift has an operator take the request back.
func lift(t *testing.T, l *fakeLedger) {
	l.must(t, quorum.Command{Version: l.State().Version, Unfence: &quorum.Unfence{Target: "n2"}})
}

func TestLeaves_AreOfTheProcessThatIsRegistered(t *testing.T) {
	l := newFakeLedger(t, "n1", "n2")
	l.must(t, quorum.Command{Version: l.State().Version, NodeStarted: &quorum.NodeStarted{Node: "n2", Boot: "b2", Process: 7}})
	var who leaves
	if who.left(l.State(), "n2") {
		t.Error("it has said nothing")
	}
	who.note("n2", 7, true)
	who.note("n1", 8, true) // never registered
	if !who.left(l.State(), "n2") || who.left(l.State(), "n1") || who.left(l.State(), "n9") {
		t.Error("n2 alone has left")
	}
	who.note("n2", 8, false) // the next process, which is not registered yet
	if !who.left(l.State(), "n2") {
		t.Error("another process took the word back")
	}
	who.note("n2", 7, false)
	if who.left(l.State(), "n2") {
		t.Error("it is still there")
	}
}

// armed is a fake cluster with a witness whose nodes have registered boots, and can turn whom they
// are given off.
func armed(t *testing.T, can map[string][]string) *fakeCluster {
	t.Helper()
	c := newFakeCluster(t, "n1", "n2", "n3")
	for i, n := range []string{"n1", "n2", "n3"} {
		c.ledger.must(t, quorum.Command{Version: c.ledger.State().Version, NodeStarted: &quorum.NodeStarted{Node: n, Boot: "b" + n, Process: uint64(100 + i)}})
		c.nodes[n].arms = &fakeArms{can: can[n]}
	}
	return c
}

// answers has the first fence that is asked for end with phase, and returns who was to fire.
func (c *fakeCluster) answers(phase quorum.FencePhase) (executor <-chan string) {
	out := make(chan string, 1)
	c.ledger.subscribe(func(st *quorum.State) {
		for _, f := range st.Fences {
			if f.Phase != quorum.FenceAsked {
				continue
			}
			select {
			case out <- f.Executor:
				cmd := quorum.Command{Version: st.Version, FenceConfirmed: &quorum.FenceConfirmed{Target: f.Target, Boot: f.Boot, ID: f.ID, Proof: "the plug is off"}}
				if phase == quorum.FenceMissed {
					cmd = quorum.Command{Version: st.Version, FenceFailed: &quorum.FenceFailed{Target: f.Target, Boot: f.Boot, ID: f.ID, Text: "the plug says on"}}
				}
				if _, err := c.ledger.Propose(context.Background(), cmd); err != nil {
					c.t.Error(err)
				}
			default:
			}
		}
	})
	return out
}

func TestFence_GoesByTheLedgerAndNamesWhoCan(t *testing.T) {
	for name, tc := range map[string]struct {
		can  map[string][]string
		by   string
		want string
	}{
		"the node that is asked":      {map[string][]string{"n1": {"n2"}, "n3": {"n2"}}, "", "n1"},
		"another one":                 {map[string][]string{"n3": {"n2"}}, "", "n3"},
		"the one that is wanted":      {map[string][]string{"n1": {"n2"}, "n3": {"n2"}}, "n3", "n3"},
		"the one that is asked again": {map[string][]string{"n1": {"n2"}}, "n1", "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := armed(t, tc.can)
			executor := c.answers(quorum.FenceProven)
			rec, err := c.nodes["n1"].Fence(t.Context(), "n2", control.FenceOptions{By: tc.by})
			if err != nil || rec != (control.FenceRecord{Node: "n2", Boot: "bn2", By: tc.want, Phase: control.FenceConfirmed, Text: "the plug is off"}) {
				t.Fatalf("%+v, %v", rec, err)
			}
			if got := <-executor; got != tc.want {
				t.Errorf("%s fired", got)
			}
			if again, err := c.nodes["n3"].Fence(t.Context(), "n2", control.FenceOptions{By: tc.want}); err != nil || again != rec {
				t.Errorf("once more: %+v, %v", again, err)
			}
			for n, node := range c.nodes {
				if fired := node.arms.(*fakeArms).fired; len(fired) > 0 {
					t.Errorf("the verb itself fired on %s: %v", n, fired)
				}
			}
		})
	}
}

func TestFence_Refusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(c *fakeCluster)
		node   string
		by     string
		want   error
		says   string
	}{
		"itself":           {func(*fakeCluster) {}, "n1", "", control.ErrRefused, "does not turn itself off"},
		"by itself":        {func(*fakeCluster) {}, "n2", "n2", control.ErrRefused, "cannot turn itself off"},
		"unknown":          {func(*fakeCluster) {}, "n9", "", control.ErrNotFound, "no node n9"},
		"no quorum":        {func(c *fakeCluster) { c.ledger.down = errors.New("none") }, "n2", "", control.ErrNoQuorum, "no majority"},
		"nobody can":       {func(c *fakeCluster) { c.nodes["n1"].arms = nil }, "n2", "", control.ErrRefused, "no node that answers has a way"},
		"that one cannot":  {func(*fakeCluster) {}, "n2", "n3", control.ErrRefused, "n3 has no way to turn n2 off"},
		"never registered": {func(c *fakeCluster) { c.ledger.state = newFakeLedger(c.t, "n1", "n2", "n3").state }, "n2", "", control.ErrRefused, "never registered"},
		"it is not proven": {func(c *fakeCluster) { c.answers(quorum.FenceMissed) }, "n2", "", control.ErrFailed, "n1 says: the plug says on"},
		"it would be a duel": {func(c *fakeCluster) {
			c.ledger.must(c.t, quorum.Command{Version: c.ledger.State().Version, FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "bn1", Executor: "n2", ID: 9}})
		}, "n2", "", control.ErrRefused, "is to be turned off itself"},
	} {
		t.Run(name, func(t *testing.T) {
			c := armed(t, map[string][]string{"n1": {"n2", "n9"}})
			tc.change(c)
			if _, err := c.nodes["n1"].Fence(t.Context(), tc.node, control.FenceOptions{By: tc.by}); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestFence_WithoutAnAnswerTheOutcomeIsUnknown(t *testing.T) {
	c := armed(t, map[string][]string{"n1": {"n2"}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.nodes["n1"].Fence(ctx, "n2", control.FenceOptions{}); !errors.Is(err, control.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
}

func TestUnfence_DevicesFirst_ThenTheRecord(t *testing.T) {
	c := armed(t, map[string][]string{"n1": {"n2"}})
	c.answers(quorum.FenceProven)
	if _, err := c.nodes["n1"].Fence(t.Context(), "n2", control.FenceOptions{}); err != nil {
		t.Fatal(err)
	}
	arms := c.nodes["n1"].arms.(*fakeArms)
	arms.letBack = errors.New("the switch does not answer")
	if _, err := c.nodes["n1"].Unfence(t.Context(), "n2"); !errors.Is(err, control.ErrFailed) || c.ledger.State().Fence("n2") == nil {
		t.Errorf("a device that does not let it back: %v; recorded %+v", err, c.ledger.State().Fence("n2"))
	}
	arms.letBack = nil
	c.ledger.fates = []fate{notDone, lostAfter}
	res, err := c.nodes["n1"].Unfence(t.Context(), "n2")
	if err != nil || res.Was == nil || res.Was.Phase != control.FenceConfirmed || len(res.Attempts) != 1 || c.ledger.State().Fence("n2") != nil {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err := c.nodes["n1"].Unfence(t.Context(), "n2"); err != nil || res.Was != nil {
		t.Errorf("nothing is recorded: %+v, %v", res, err)
	}
	if _, err := c.nodes["n1"].Unfence(t.Context(), "n9"); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestFenceTestAndHistory_TellWhatIsKnown(t *testing.T) {
	c := armed(t, map[string][]string{"n1": {"n2"}})
	rep, err := c.nodes["n1"].FenceTest(t.Context(), "n2")
	if err != nil || !rep.Works || rep.By != "n1" || len(rep.Findings) != 1 || rep.Findings[0] != (control.FenceFinding{Device: "plug", Severity: control.FenceGood, Text: "boot bn2"}) {
		t.Errorf("%+v, %v", rep, err)
	}
	for node, want := range map[string]error{"n1": control.ErrRefused, "n9": control.ErrNotFound} {
		if _, err := c.nodes["n1"].FenceTest(t.Context(), node); !errors.Is(err, want) {
			t.Errorf("%s: %v", node, err)
		}
	}
	h, err := c.nodes["n1"].FenceHistory(t.Context())
	if err != nil || !slices.Equal(h.Can, []string{"n2"}) || len(h.Recorded) != 0 || len(h.Attempts) != 1 || h.Attempts[0].Failure != "no answer in time" {
		t.Errorf("%+v, %v", h, err)
	}
	if fencing.Good.String() != control.FenceGood || fencing.Warning.String() != control.FenceWarning || fencing.Fault.String() != control.FenceFault {
		t.Error("severities travel under other names than the API says")
	}
	for phase, want := range map[quorum.FencePhase]string{quorum.FenceAsked: control.FenceRequested, quorum.FenceProven: control.FenceConfirmed, quorum.FenceMissed: control.FenceFailed} {
		if string(phase) != want {
			t.Errorf("phase %s is not %s", phase, want)
		}
	}
}

func TestKennel_StopsPettingWhatMustStopAndCannot(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n1 := c.nodes["n1"]
	k := newKennel(config.Watchdog{}, n1.m, n1.m.self, n1.journal, slog.New(slog.DiscardHandler))
	rep := n1.opener.replica("r0")
	hang := func(on bool) {
		rep.mu.Lock()
		defer rep.mu.Unlock()
		rep.hangs = on
	}
	hang(true)
	if err := k.stopped(); err != nil {
		t.Errorf("it never had the role: %v", err)
	}
	hang(false)
	if err := n1.Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	hang(true)
	if err := k.stopped(); err != nil {
		t.Errorf("it has the role: %v", err)
	}
	if err := n1.Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if err := k.stopped(); err == nil || !strings.Contains(err.Error(), "its disk hangs with I/O of that role") {
		t.Errorf("%v", err)
	}
	hang(false)
	if err := k.stopped(); err != nil {
		t.Errorf("the I/O has ended: %v", err)
	}
}

func TestKennel_StopsPettingWhileTheLedgerWantsThisBootOff(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	n1 := c.nodes["n1"]
	k := newKennel(config.Watchdog{}, n1.m, n1.m.self, n1.journal, slog.New(slog.DiscardHandler))
	propose := func(cmd quorum.Command) {
		t.Helper()
		cmd.Version = c.ledger.State().Version
		c.ledger.must(t, cmd)
	}
	for _, step := range []struct {
		cmd  quorum.Command
		well bool
	}{
		{quorum.Command{FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "boot", Executor: "w", ID: 1}}, false},
		{quorum.Command{FenceFailed: &quorum.FenceFailed{Target: "n1", Boot: "boot", ID: 1, Text: "on"}}, true},
		{quorum.Command{FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "boot", Executor: "w", ID: 2}}, false},
		{quorum.Command{FenceConfirmed: &quorum.FenceConfirmed{Target: "n1", Boot: "boot", ID: 2, Proof: "off"}}, false},
		{quorum.Command{Unfence: &quorum.Unfence{Target: "n1"}}, true},
		{quorum.Command{FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "an earlier one", Executor: "w", ID: 3}}, true},
		{quorum.Command{FenceRequested: &quorum.FenceRequested{Target: "n2", Boot: "boot", Executor: "w", ID: 4}}, true},
	} {
		propose(step.cmd)
		if err := k.unfenced(); (err == nil) != step.well {
			t.Errorf("after %s: %v", step.cmd.String(), err)
		}
	}
}

func TestKennel_TellsSystemdThatItLives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "200000")
	c := newFakeCluster(t, "n1", "n2")
	n1 := c.nodes["n1"]
	k := newKennel(config.Watchdog{}, n1.m, n1.m.self, n1.journal, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.run(ctx) }()
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "WATCHDOG=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "")
	if k := newKennel(config.Watchdog{}, n1.m, n1.m.self, n1.journal, slog.New(slog.DiscardHandler)); len(k.dogs) != 0 {
		t.Error("nobody asked for it")
	}
}

func TestKennel_WatchdogThatIsNotThereEndsTheDaemon(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2")
	n1 := c.nodes["n1"]
	k := newKennel(config.Watchdog{Device: filepath.Join(t.TempDir(), "none")}, n1.m, n1.m.self, n1.journal, slog.New(slog.DiscardHandler))
	if err := k.run(t.Context()); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("%v", err)
	}
}
