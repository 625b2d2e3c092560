package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// lonely is a pair without a witness whose n2 is gone; n1 sees no majority.
func lonely(t *testing.T) *fakeCluster {
	t.Helper()
	c := newFakeCluster(t, "n1", "n2")
	c.create("n1", "n2")
	c.kill("n2")
	c.ledgerIs("n1", false)
	return c
}

// ledgerIs sets what the ledger of node says of itself; n1 and n2 vote.
func (c *fakeCluster) ledgerIs(node string, quorum bool) {
	st := ledger.Status{HasQuorum: quorum, Voters: []ledger.Voter{{Node: "n1"}, {Node: "n2"}}}
	c.nodes[node].facts.ledger = func() ledger.Status { return st }
}

func (c *fakeCluster) fateOf(node string) *fakeFate { return c.nodes[node].fate.(*fakeFate) }

func TestConfirmDown_OpensAnIncarnationWithTheOperatorsWord(t *testing.T) {
	c := lonely(t)
	if err := c.nodes["n1"].ConfirmDown(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	if got := c.fateOf("n1").calls; len(got) != 1 || got[0] != "open: an operator confirmed to n1 that n2 is down" {
		t.Errorf("%q", got)
	}
}

func TestConfirmDown_Refusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(c *fakeCluster)
		node   string
		want   error
		says   string
	}{
		"itself":     {func(*fakeCluster) {}, "n1", control.ErrUsage, "name the one that is down"},
		"unknown":    {func(*fakeCluster) {}, "n9", control.ErrNotFound, "no node n9"},
		"a majority": {func(c *fakeCluster) { c.ledgerIs("n1", true) }, "n2", control.ErrRefused, "has a majority"},
		"no vote": {func(c *fakeCluster) {
			st := ledger.Status{HasQuorum: true, Voters: []ledger.Voter{{Node: "n1", Learner: true}, {Node: "n2"}}}
			c.nodes["n1"].facts.ledger = func() ledger.Status { return st }
		}, "n2", control.ErrRefused, "no vote"},
		"it answers": {func(c *fakeCluster) { c.start("n2", 999, newFakeOpener()) }, "n2", control.ErrRefused, "it answers"},
		"not held": {func(c *fakeCluster) {
			rep := c.nodes["n1"].opener.replica("r0")
			rep.mu.Lock()
			defer rep.mu.Unlock()
			rep.alone = errors.New("this process stood still")
		}, "n2", control.ErrRefused, "may not go on alone with r0: this process stood still"},
		"the ledger refuses": {func(c *fakeCluster) { c.fateOf("n1").err = ledger.ErrAlone }, "n2", control.ErrRefused, "only voter already"},
		"the ledger broke":   {func(c *fakeCluster) { c.fateOf("n1").err = errors.New("disk") }, "n2", control.ErrOutcomeUnknown, "did not say"},
	} {
		t.Run(name, func(t *testing.T) {
			c := lonely(t)
			tc.change(c)
			err := c.nodes["n1"].ConfirmDown(t.Context(), tc.node)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v", err)
			}
			if f := c.fateOf("n1"); f.err == nil && len(f.calls) > 0 {
				t.Errorf("and yet: %q", f.calls)
			}
		})
	}
	c := newFakeCluster(t, "n1", "n2", "w")
	c.kill("n2")
	c.ledgerIs("n1", false)
	if err := c.nodes["n1"].ConfirmDown(t.Context(), "n2"); !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "start w") {
		t.Errorf("with a witness: %v", err)
	}
}

func TestDecideLedger_CarriesTheChoiceOut(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2")
	n1 := c.nodes["n1"]
	for _, keep := range []bool{true, false} {
		if err := n1.DecideLedger(t.Context(), keep); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(c.fateOf("n1").calls, ","); got != "keep,give up" {
		t.Errorf("%s", got)
	}
	c.fateOf("n1").err = ledger.ErrNoConflict
	if err := n1.DecideLedger(t.Context(), true); !errors.Is(err, control.ErrRefused) {
		t.Errorf("%v", err)
	}
}

func TestRegistrar_RegistersOnceAndLeavesALaterProcessAlone(t *testing.T) {
	l := newFakeLedger(t, "n1", "n2")
	l.fates = []fate{notDone, lostAfter}
	self := quorum.Incumbent{Node: "n1", Boot: "b", Process: 7}
	r := newRegistrar(self, l, newJournal("n1", 8), slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() { r.run(t.Context()); close(ended) }()
	l.subscribe(r.apply)
	if err := r.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ended
	if n := l.State().Node("n1"); n.Boot != "b" || n.Process != 7 {
		t.Fatalf("%+v", n)
	}
	cmd := quorum.Command{Version: l.State().Version, NodeStarted: &quorum.NodeStarted{Node: "n1", Boot: "b", Process: 8}}
	if res, err := l.Propose(t.Context(), cmd); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	if n := l.State().Node("n1"); n.Process != 8 {
		t.Errorf("it fights with a later process: %+v", n)
	}
}

func TestRegistrar_RefusedByAFenceSaysSoAndTriesAgainWithANewerState(t *testing.T) {
	l := newFakeLedger(t, "n1", "n2")
	for _, c := range []quorum.Command{
		{NodeStarted: &quorum.NodeStarted{Node: "n1", Boot: "b", Process: 6}},
		{FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "b", Executor: "n2", ID: 5}},
		{FenceConfirmed: &quorum.FenceConfirmed{Target: "n1", Boot: "b", ID: 5, Proof: "off"}},
	} {
		c.Version = l.State().Version
		if res, err := l.Propose(t.Context(), c); err != nil || res.Err() != nil {
			t.Fatal(err, res.Err())
		}
	}
	j := newJournal("n1", 8)
	r := newRegistrar(quorum.Incumbent{Node: "n1", Boot: "b", Process: 7}, l, j, slog.New(slog.DiscardHandler))
	if r.register(t.Context()) {
		t.Fatal("registered in spite of the fence")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := r.await(ctx); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "unfence") {
		t.Errorf("%v", err)
	}
	if evs, _ := j.after(0); len(evs) != 1 || evs[0].Kind != "not_registered" {
		t.Errorf("%+v", evs)
	}
	if res, err := l.Propose(t.Context(), quorum.Command{Version: l.State().Version, Unfence: &quorum.Unfence{Target: "n1"}}); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	if !r.register(t.Context()) || l.State().Node("n1").Process != 7 {
		t.Error("not registered after the fence was lifted")
	}
}
