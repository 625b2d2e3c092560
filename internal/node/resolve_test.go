package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// parted is a cluster whose n2 was forced while n1, which had gone on alone, was down; n1 is back
// and has diverged. The ledger records the history of n2.
func parted(t *testing.T) *fakeCluster {
	t.Helper()
	c, n1 := abandoned(t)
	held := slices.Clone(c.record("r0").Lineage)
	if _, err := c.nodes["n2"].ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{"n1"}}); err != nil {
		t.Fatal(err)
	}
	n1 = c.start("n1", 999, n1.opener)
	eventually(t, n1, "no replica", func(*quorum.State) bool { return n1.m.find("r0") != nil })
	if rep, f := n1.m.find("r0").await(t.Context()); rep == nil {
		t.Fatal(f.reason)
	}
	c.set("n1", replication.Diverged, held)
	rec := c.record("r0")
	c.set("n2", replication.UpToDate, slices.Clone(rec.Lineage))
	return c
}

var noUndo = control.ResolveOptions{Undo: control.Undo{None: true}}

func TestStatus_OfADivergedReplicaShowsBothTimelinesAndBothWaysOut(t *testing.T) {
	c := parted(t)
	rep := c.nodes["n1"].opener.replica("r0")
	rep.mu.Lock()
	rep.dirty = 4096
	rep.mu.Unlock()
	n2 := c.nodes["n2"].opener.replica("r0")
	rec := c.record("r0")
	n2.mu.Lock()
	n2.peers = []replication.PeerStatus{{Node: "n1", State: replication.Diverged, Connection: "Connecting",
		Timeline: &replication.Timeline{Fork: rec.Lineage[0], Ours: rec.Lineage[1:], Theirs: []uint64{0xd2}}}}
	n2.mu.Unlock()
	for _, node := range []string{"n1", "n2"} {
		st, err := c.nodes[node].Status(t.Context(), "r0")
		if err != nil {
			t.Fatal(err)
		}
		r := st.Resources[0]
		d := r.Replicas[0].Divergence
		if d == nil || d.Own[0].ID != "d2" || d.Recorded[0].Node != "n2" || d.Bytes != 4096 || r.Replicas[1].Divergence != nil {
			t.Errorf("%s shows %+v", node, d)
		}
		advice := strings.Join(r.Advice, "\n")
		for _, want := range []string{"nothing is merged", "lockstep resolve r0 --keep n2", "lockstep demote r0, then: lockstep resolve r0 --keep n1"} {
			if !strings.Contains(advice, want) {
				t.Errorf("%s does not say %q: %s", node, want, advice)
			}
		}
	}
	// A node that does not answer is shown as it was seen last.
	c.kill("n1")
	st, err := c.nodes["n2"].Status(t.Context(), "r0")
	if err != nil {
		t.Fatal(err)
	}
	if d := st.Resources[0].Replicas[0].Divergence; d == nil || d.Own[0].ID != "d2" || d.Bytes != -1 {
		t.Errorf("%+v", d)
	}
}

func TestResolve_KeepsTheRecordedHistory_AndGivesTheOtherUp(t *testing.T) {
	c := parted(t)
	rep := c.nodes["n1"].opener.replica("r0")
	look := noUndo
	look.DryRun = true
	plan, err := c.nodes["n2"].Resolve(t.Context(), "r0", look)
	if err != nil || plan.Forced || len(plan.Lost) != 1 || plan.Lost[0].Node != "n1" || newestLost(plan.Lost[0]) != "d2" {
		t.Fatalf("%+v, %v", plan, err)
	}
	if rep.discards != 0 {
		t.Fatal("a look gave something up")
	}
	opts := noUndo
	opts.Expect = []control.Expected{{Node: "n1", Newest: "d1"}}
	if _, err := c.nodes["n2"].Resolve(t.Context(), "r0", opts); !errors.Is(err, control.ErrRefused) || rep.discards != 0 {
		t.Fatalf("something else than the operator saw was given up: %v", err)
	}
	opts.Expect[0].Newest = "d2"
	if _, err := c.nodes["n2"].Resolve(t.Context(), "r0", opts); err != nil {
		t.Fatal(err)
	}
	if rep.discards != 1 || !slices.Equal(c.nodes["n2"].opener.replica("r0").invalids, []string{"n1"}) {
		t.Errorf("%d discards, invalidated %v", rep.discards, c.nodes["n2"].opener.replica("r0").invalids)
	}
	if _, err := c.nodes["n2"].Resolve(t.Context(), "r0", noUndo); !errors.Is(err, control.ErrRefused) {
		t.Errorf("nothing is left to be settled: %v", err)
	}
}

func TestResolve_KeepsTheOtherHistory_OnlyAfterADemote(t *testing.T) {
	c := parted(t)
	_, err := c.nodes["n1"].Resolve(t.Context(), "r0", noUndo)
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "lockstep demote r0") {
		t.Fatalf("%v", err)
	}
	if err := c.nodes["n2"].Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	forced := c.record("r0").Lineage[1]
	res, err := c.nodes["n1"].Resolve(t.Context(), "r0", noUndo)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Forced || len(res.Lost) != 1 || res.Lost[0].Node != "n2" || newestLost(res.Lost[0]) != generationID(forced) {
		t.Errorf("%+v", res)
	}
	rec := c.record("r0")
	if rec.Primary.Node != "n1" || rec.Lineage[1] != 0xd2 || len(rec.Lineage) != 3 || rec.CutBy(forced) == nil {
		t.Errorf("record %+v", rec)
	}
	if n2 := c.nodes["n2"].opener.replica("r0"); n2.discards != 1 {
		t.Errorf("n2 was given up %d times", n2.discards)
	}
}

func TestResolve_OtherHistory_NeedsTheRecordedOnesNodesToAnswer(t *testing.T) {
	c := parted(t)
	if err := c.nodes["n2"].Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	c.kill("n2")
	_, err := c.nodes["n1"].Resolve(t.Context(), "r0", noUndo)
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "promote r0 --on n1 --force --confirm-down n2") {
		t.Fatalf("%v", err)
	}
	if _, err := c.nodes["n1"].ForcePromote(t.Context(), "r0", control.ForceOptions{ConfirmDown: []string{"n2"}}); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); rec.Primary.Node != "n1" || !slices.Contains(rec.Lineage, 0xd2) {
		t.Errorf("what n1 wrote is no history: %+v", rec)
	}
}

func TestResolve_Refusals(t *testing.T) {
	c := promoted(t)
	if _, err := c.nodes["n1"].Resolve(t.Context(), "r0", noUndo); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "no replica of r0 holds another history") {
		t.Errorf("nothing diverged: %v", err)
	}
	c = parted(t)
	if err := c.nodes["n2"].Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes["n2"].Resolve(t.Context(), "r0", noUndo); !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "promote r0 --on n2") {
		t.Errorf("nobody to copy from: %v", err)
	}
	c.set("n1", replication.Outdated, c.record("r0").Lineage[:1])
	if _, err := c.nodes["n1"].Resolve(t.Context(), "r0", noUndo); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "no history of its own") {
		t.Errorf("a laggard: %v", err)
	}
}

func TestGiveUp_OnlyTheDivergedReplicaThatWasMeant(t *testing.T) {
	c := parted(t)
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	undo := control.Undo{None: true}
	for _, opts := range []control.GiveUpOptions{{Undo: undo}, {Undo: undo, Newest: "d1"}} {
		if _, err := n1.GiveUp(t.Context(), "r0", opts); !errors.Is(err, control.ErrRefused) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	primary := control.GiveUpOptions{Undo: undo, Newest: newest(c.record("r0").Lineage)}
	if _, err := n2.GiveUp(t.Context(), "r0", primary); !errors.Is(err, control.ErrRefused) {
		t.Errorf("the primary gave itself up: %v", err)
	}
	if n1.opener.replica("r0").discards+n2.opener.replica("r0").discards != 0 {
		t.Error("data was given up")
	}
}

func TestKeepUndo_NamesTheCopyByItsHistory(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	data := filepath.Join(dir, "r0.img")
	if err := os.WriteFile(data, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := control.GiveUpOptions{Newest: "d2", Undo: control.Undo{Copy: true, Dir: other}}
	try := opts
	try.Try = true
	if _, err := keepUndo(t.Context(), data, try); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(other); len(left) != 0 {
		t.Errorf("a try left %v", left)
	}
	got, err := keepUndo(t.Context(), data, opts)
	if err != nil || got.Undo != filepath.Join(other, "r0.img.undo-d2") {
		t.Fatalf("%+v, %v", got, err)
	}
	if b, err := os.ReadFile(got.Undo); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	for _, o := range []control.GiveUpOptions{opts, try} {
		if _, err := keepUndo(t.Context(), data, o); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("a copy was overwritten: %v", err)
		}
	}
	opts.Undo.Dir = filepath.Join(other, "none")
	try.Undo.Dir = opts.Undo.Dir
	for _, o := range []control.GiveUpOptions{opts, try} {
		if _, err := keepUndo(t.Context(), data, o); !errors.Is(err, control.ErrFailed) {
			t.Errorf("a copy in a directory that is not there: %v", err)
		}
	}
	if _, err := keepUndo(t.Context(), "/dev/null", control.GiveUpOptions{Newest: "d2"}); !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "--undo-dir") {
		t.Errorf("beside a device: %v", err)
	}
}
