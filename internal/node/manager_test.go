package node

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// eventually waits for a state of the ledger in which ok holds.
func eventually(t *testing.T, n *fakeNode, what string, ok func(*quorum.State) bool) {
	t.Helper()
	for {
		st, more := n.m.watch()
		if st != nil && ok(st) {
			return
		}
		select {
		case <-more:
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}

func TestManager_NewResourceIsCreatedRegisteredAndOpened(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	rec := c.record("r0")
	if !rec.Registered() || len(rec.Set()) != 2 {
		t.Fatalf("record %+v", rec)
	}
	for _, n := range []string{"n1", "n2"} {
		rep := c.nodes[n].opener.replica("r0")
		if rep.Instance() != rec.Replica(n).Instance {
			t.Errorf("%s opened instance %d, recorded is %d", n, rep.Instance(), rec.Replica(n).Instance)
		}
	}
}

func TestManager_CrashBetweenCreateAndRegister_RegistersWhatIsThere(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	n2 := c.kill("n2")
	// n2 made its metadata for the resource and died before it could tell.
	id := uint64(4711)
	c.ledger.must(t, quorum.Command{Resource: "r0", ResourceID: id, Version: c.ledger.State().Version, CreateResource: &quorum.CreateResource{
		SizeBytes: 4 << 20, Replicas: []quorum.NewReplica{{Node: "n1", DataPath: "/n1/r0"}, {Node: "n2", DataPath: "/n2/r0"}},
	}})
	if err := n2.opener.Create(specOf(c.record("r0"), "n2")); err != nil {
		t.Fatal(err)
	}
	made := n2.opener.files["/n2/r0.meta"].Instance
	again := c.start("n2", 999, n2.opener)
	eventually(t, again, "never registered", func(st *quorum.State) bool { return st.Find("r0").Registered() })
	if got := c.record("r0").Replica("n2").Instance; got != made {
		t.Errorf("instance %d registered, want the one that was made, %d", got, made)
	}
}

func TestManager_RestartOpensTheSameReplicaAsSecondary(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	before := c.record("r0")
	n1 := c.kill("n1")
	if !n1.opener.replica("r0").closed {
		t.Error("the replica was left open")
	}
	again := c.start("n1", 999, n1.opener)
	eventually(t, again, "no state", func(*quorum.State) bool { return again.m.find("r0") != nil })
	rep, f := again.m.find("r0").await(t.Context())
	if rep == nil {
		t.Fatal(f.reason)
	}
	if rep.Serving() {
		t.Error("a process that starts is primary (rule 3)")
	}
	if got := c.record("r0"); got.Version != before.Version {
		t.Errorf("the restart changed the record from version %d to %d", before.Version, got.Version)
	}
}

func TestManager_AnotherInstanceThanRecordedIsNotOpened(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n2 := c.kill("n2")
	id := n2.opener.files["/n2/r0.meta"]
	id.Instance++
	n2.opener.files["/n2/r0.meta"] = id
	again := c.start("n2", 999, n2.opener)
	eventually(t, again, "no state", func(*quorum.State) bool { return again.m.find("r0") != nil })
	rep, f := again.m.find("r0").await(t.Context())
	if rep != nil || !strings.Contains(f.reason, "another one") {
		t.Fatalf("replica %v, fault %+v", rep, f)
	}
	st, err := again.Status(t.Context(), "r0")
	if err != nil || st.Resources[0].DiskState != control.DiskFailed {
		t.Errorf("status %+v, %v", st.Resources, err)
	}
}

func TestManager_DeletedResourceIsClosedAndItsFilesStay(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n1 := c.nodes["n1"]
	if err := n1.Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := n1.DeleteResource(t.Context(), "r0"); !errors.Is(err, control.ErrRefused) {
		t.Fatalf("deleted under its primary: %v", err)
	}
	if err := n1.Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if err := n1.DeleteResource(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, n1, "the record stays", func(st *quorum.State) bool { return st.Find("r0") == nil })
	for name, n := range c.nodes {
		if !n.opener.replica("r0").closed {
			t.Errorf("%s left it open", name)
		}
		if len(n.opener.removed) > 0 {
			t.Errorf("%s removed %v", name, n.opener.removed)
		}
	}
	// The name is free, the files are in the way.
	err := n1.CreateResource(t.Context(), createRequest("r0", "n1", "n2"))
	if !errors.Is(err, control.ErrFailed) || c.record("r0") != nil {
		t.Errorf("created over the files of another resource: %v", err)
	}
}

func TestManager_FaultIsRetriedUntilItIsGone(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n2 := c.kill("n2")
	n2.opener.openWith = errors.New("disk is away")
	again := c.start("n2", 999, n2.opener)
	eventually(t, again, "no state", func(*quorum.State) bool { return again.m.find("r0") != nil })
	w := again.m.find("r0")
	if rep, f := w.await(t.Context()); rep != nil || f.reason != "disk is away" {
		t.Fatalf("replica %v, fault %+v", rep, f)
	}
	n2.opener.mu.Lock()
	n2.opener.openWith = nil
	n2.opener.mu.Unlock()
	for {
		more := w.notices()
		if rep, _ := w.open(); rep != nil {
			return
		}
		select {
		case <-more:
		case <-t.Context().Done():
			t.Fatal("never opened")
		}
	}
}

func TestManager_ReplicaThatGrewWhileAwayGrowsBeforeItSeesTheRecord(t *testing.T) {
	c := newFakeCluster(t, "n1")
	c.create("n1")
	n1 := c.nodes["n1"]
	if err := n1.Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	rec := c.record("r0")
	cmd := quorum.On(rec)
	cmd.Resize = &quorum.Resize{Incumbent: rec.Primary, SizeBytes: 8 << 20}
	files := n1.opener
	c.kill("n1")
	c.ledger.must(t, cmd)
	again := c.start("n1", 999, files)
	eventually(t, again, "no state", func(*quorum.State) bool { return again.m.find("r0") != nil })
	rep, f := again.m.find("r0").await(t.Context())
	if rep == nil {
		t.Fatal(f.reason)
	}
	if got := rep.Size(); got != 8<<20 {
		t.Errorf("size %d", got)
	}
}

func TestManager_StopServingGivesEveryRoleUp(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n1 := c.nodes["n1"]
	if err := n1.Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	n1.m.stopServing(context.Background(), nil)
	if rec := c.record("r0"); !rec.Primary.None() || rec.Hold {
		t.Errorf("after the stop: primary %v, hold %v", rec.Primary, rec.Hold)
	}
}

func TestWorker_FaultStateTellsAbsentFromUnusable(t *testing.T) {
	if s := stateOf(errors.New("checksum")); s != replication.Failed {
		t.Errorf("%v", s)
	}
}
