package node

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// abandoned is a cluster whose n1 dropped n2, wrote on and is gone; n2 stands at the generation
// before.
func abandoned(t *testing.T) (c *fakeCluster, n1 *fakeNode) {
	t.Helper()
	c = promoted(t)
	rec := c.record("r0")
	drop := quorum.On(rec)
	drop.DropReplica = &quorum.DropReplica{Incumbent: rec.Primary, Nodes: []string{"n2"}, Generation: 0xd2}
	first := slices.Clone(rec.Lineage)
	c.ledger.must(t, drop)
	c.set("n2", replication.Outdated, first)
	return c, c.kill("n1")
}

// set says what the replica of r0 on a node is and holds.
func (c *fakeCluster) set(node string, state replication.DiskState, lineage []uint64) {
	rep := c.nodes[node].opener.replica("r0")
	rep.mu.Lock()
	defer rep.mu.Unlock()
	rep.state, rep.lineage = state, lineage
}

func TestForcePromote_TellsWhatWouldBeLost_AndNeedsAWordOnEachMember(t *testing.T) {
	c, _ := abandoned(t)
	n2, before := c.nodes["n2"], c.record("r0").Version
	_, err := n2.ForcePromote(t.Context(), "r0", control.ForceOptions{})
	if !errors.Is(err, control.ErrRefused) || c.record("r0").Version != before {
		t.Fatalf("%v, version %d after %d", err, c.record("r0").Version, before)
	}
	e := control.AsError(err)
	if !strings.Contains(e.Message, "1 generation (the newest with n1 as primary, epoch 1") || !strings.Contains(e.Hint, "promote r0 --on n2 --force --confirm-down n1") {
		t.Errorf("%q, hint %q", e.Message, e.Hint)
	}
	res, err := n2.ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{"n1"}})
	if err != nil {
		t.Fatal(err)
	}
	if res.Epoch != 2 || len(res.Lost.Generations) != 1 || res.Lost.Generations[0].ID != "d2" {
		t.Errorf("%+v", res)
	}
	rec := c.record("r0")
	f := rec.CutBy(0xd2)
	if rec.Primary.Node != "n2" || !slices.Equal(rec.Set(), []string{"n2"}) || f == nil {
		t.Fatalf("record %+v", rec)
	}
	if d := f.Down[0]; d.Node != "n1" || !d.Operator || !strings.Contains(d.Text, "n1 is down") {
		t.Errorf("the operator's word is not recorded: %+v", f.Down)
	}
}

func TestForcePromote_AFenceStandsForTheWord(t *testing.T) {
	c, _ := abandoned(t)
	for _, cmd := range []quorum.Command{
		{NodeStarted: &quorum.NodeStarted{Node: "n1", Boot: "boot", Process: 100}},
		{FenceRequested: &quorum.FenceRequested{Target: "n1", Boot: "boot", Executor: "n2", ID: 5}},
		{FenceConfirmed: &quorum.FenceConfirmed{Target: "n1", Boot: "boot", ID: 5, Proof: "status: off"}},
	} {
		cmd.Version = c.ledger.State().Version
		c.ledger.must(t, cmd)
	}
	if _, err := c.nodes["n2"].ForcePromote(t.Context(), "r0", control.ForceOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := c.record("r0").Forced[0].Down[0]; d.Boot != "boot" || d.Operator {
		t.Errorf("recorded %+v", d)
	}
}

func TestForcePromote_Refusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(t *testing.T, c *fakeCluster, n1 *fakeNode)
		down   string
		want   error
		says   string
	}{
		"inconsistent": {func(_ *testing.T, c *fakeCluster, _ *fakeNode) {
			c.set("n2", replication.Inconsistent, nil)
		}, "n1", control.ErrRefused, "no copy of any moment"},
		"failed": {func(_ *testing.T, c *fakeCluster, _ *fakeNode) { c.set("n2", replication.Failed, nil) }, "n1", control.ErrRefused, "disk of n2 failed"},
		"the other one answers": {func(t *testing.T, c *fakeCluster, n1 *fakeNode) {
			n1 = c.start("n1", 999, n1.opener)
			eventually(t, n1, "no replica", func(*quorum.State) bool { return n1.m.find("r0") != nil })
			n1.m.find("r0").await(t.Context())
		}, "n1", control.ErrRefused, "n1 is not down"},
		"a word on itself":  {func(*testing.T, *fakeCluster, *fakeNode) {}, "n2", control.ErrUsage, "no other node"},
		"a word on nobody":  {func(*testing.T, *fakeCluster, *fakeNode) {}, "n9", control.ErrUsage, "no other node"},
		"a word on witness": {func(*testing.T, *fakeCluster, *fakeNode) {}, "w", control.ErrUsage, "no other node"},
	} {
		t.Run(name, func(t *testing.T) {
			c, n1 := abandoned(t)
			tc.change(t, c, n1)
			before := c.record("r0").Epoch
			_, err := c.nodes["n2"].ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{tc.down}})
			if !errors.Is(err, tc.want) || !strings.Contains(control.AsError(err).Message, tc.says) || c.record("r0").Epoch != before {
				t.Errorf("%v, epoch %d", err, c.record("r0").Epoch)
			}
		})
	}
}

func TestForcePromote_WhereNothingWouldBeLost_IsRefusedForTheUsualWay(t *testing.T) {
	c := promoted(t)
	c.kill("n1")
	_, err := c.nodes["n2"].ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{"n1"}})
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "promote r0 --on n2 --confirm-peer-down") {
		t.Errorf("%v", err)
	}
}

func TestForcePromote_LostAnswerIsFoundByItsGeneration(t *testing.T) {
	c, _ := abandoned(t)
	c.ledger.mu.Lock()
	c.ledger.fates = []fate{lostAfter}
	c.ledger.mu.Unlock()
	if _, err := c.nodes["n2"].ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{"n1"}}); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); len(rec.Forced) != 1 || rec.Epoch != 2 {
		t.Errorf("record %+v", rec)
	}
}
