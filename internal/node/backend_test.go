package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// promoted returns a cluster whose r0 is created on n1 and n2 and served by n1.
func promoted(t *testing.T) *fakeCluster {
	t.Helper()
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPromote_MakesThisProcessPrimaryOfANewEpoch(t *testing.T) {
	c := promoted(t)
	rec := c.record("r0")
	if rec.Epoch != 1 || rec.Primary.Node != "n1" || rec.Primary.Process != c.nodes["n1"].m.self.Process {
		t.Errorf("record %+v", rec)
	}
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil || c.record("r0").Epoch != 1 {
		t.Errorf("a second promote: %v, epoch %d", err, c.record("r0").Epoch)
	}
}

func TestPromote_RefusedWhileAnotherNodeIsPrimary(t *testing.T) {
	c := promoted(t)
	n2 := c.nodes["n2"]
	err := n2.Promote(t.Context(), "r0", control.PromoteOptions{})
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(control.AsError(err).Hint, "switchover r0 --to n2") {
		t.Fatalf("%v", err)
	}
	if err := n2.Promote(t.Context(), "r0", control.PromoteOptions{TakeOver: true}); !errors.Is(err, control.ErrRefused) {
		t.Fatalf("took over from a primary that answers: %v", err)
	}
	c.kill("n1")
	if err := n2.Promote(t.Context(), "r0", control.PromoteOptions{}); !errors.Is(err, control.ErrRefused) {
		t.Fatalf("promoted without the operator's word: %v", err)
	}
	if err := n2.Promote(t.Context(), "r0", control.PromoteOptions{TakeOver: true}); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); rec.Primary.Node != "n2" || rec.Epoch != 2 {
		t.Errorf("record %+v", rec)
	}
}

func TestPromote_OwnEarlierProcessNeedsNoWord(t *testing.T) {
	c := promoted(t)
	n1 := c.start("n1", 999, c.kill("n1").opener)
	eventually(t, n1, "no state", func(*quorum.State) bool { return n1.m.find("r0") != nil })
	if err := n1.Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); rec.Epoch != 2 || rec.Primary.Process != 999 {
		t.Errorf("record %+v", rec)
	}
}

func TestPromote_EpochIsAboveWhatAReachableReplicaAccepted(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	rep := c.nodes["n2"].opener.replica("r0")
	rep.mu.Lock()
	rep.accepted = 41
	rep.mu.Unlock()
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.record("r0").Epoch; got != 42 {
		t.Errorf("epoch %d", got)
	}
}

func TestPromote_LostAnswerIsFoundByItsGeneration(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	c.ledger.mu.Lock()
	c.ledger.fates = []fate{lostAfter}
	c.ledger.mu.Unlock()
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); rec.Epoch != 1 || len(rec.Lineage) != 1 {
		t.Errorf("promoted twice: epoch %d, lineage %v", rec.Epoch, rec.Lineage)
	}
}

func TestPromote_ThatDoesNotServeInTimeSaysWhy(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	rep := c.nodes["n1"].opener.replica("r0")
	rep.mu.Lock()
	rep.stuck = true
	rep.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	c.ledger.subscribe(func(st *quorum.State) {
		if r := st.Find("r0"); r != nil && !r.Primary.None() {
			cancel() // the caller's patience ends when the promotion is applied
		}
	})
	err := c.nodes["n1"].Promote(ctx, "r0", control.PromoteOptions{})
	if !errors.Is(err, control.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
}

// As when the cluster promotes by itself in the moment in which an operator does.
func TestPromote_OfWhoIsAboutToServe_BeginsNoOtherEpoch(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	n1 := c.nodes["n1"]
	rep := n1.opener.replica("r0")
	rep.mu.Lock()
	rep.stuck = true
	rep.mu.Unlock()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := n1.Promote(ctx, "r0", control.PromoteOptions{}); !errors.Is(err, control.ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
		cancel()
	}
	if rec := c.record("r0"); rec.Epoch != 1 || len(rec.Lineage) != 1 {
		t.Errorf("promoted twice: epoch %d, lineage %v", rec.Epoch, rec.Lineage)
	}
}

func TestPromote_NoQuorumChangesNothing(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.create("n1", "n2")
	c.ledger.down = errors.New("no leader")
	before := c.record("r0").Version
	if err := c.nodes["n1"].Promote(t.Context(), "r0", control.PromoteOptions{}); !errors.Is(err, control.ErrNoQuorum) {
		t.Errorf("%v", err)
	}
	if c.record("r0").Version != before {
		t.Error("the record changed")
	}
}

func TestDemote_HoldsAndSwitchoverDoesNot(t *testing.T) {
	c := promoted(t)
	if err := c.nodes["n2"].Demote(t.Context(), "r0"); !errors.Is(err, control.ErrNotPrimary) {
		t.Errorf("demoted on the secondary: %v", err)
	}
	if err := c.nodes["n1"].Demote(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); !rec.Hold || !rec.Primary.None() {
		t.Errorf("record %+v", rec)
	}
	if err := c.nodes["n2"].Promote(t.Context(), "r0", control.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["n2"].Switchover(t.Context(), "r0", "n1"); err != nil {
		t.Fatal(err)
	}
	if rec := c.record("r0"); rec.Hold || rec.Primary.Node != "n1" || rec.Epoch != 3 {
		t.Errorf("record %+v", rec)
	}
}

func TestSwitchover_TargetThatRefusesLeavesTheOldPrimary(t *testing.T) {
	c := promoted(t)
	// n2 looks fit until it is asked to promote: then it is stopping.
	c.nodes["n2"].m.closing.Store(true)
	err := c.nodes["n1"].Switchover(t.Context(), "r0", "n2")
	if !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "n1 is primary again") {
		t.Fatalf("%v", err)
	}
	if rec := c.record("r0"); rec.Primary.Node != "n1" || rec.Epoch != 2 {
		t.Errorf("record %+v", rec)
	}
	if !c.nodes["n1"].opener.replica("r0").Serving() {
		t.Error("n1 does not serve")
	}
}

func TestSwitchover_UnfitTargetIsRefusedBeforeAnythingStops(t *testing.T) {
	c := promoted(t)
	rep := c.nodes["n2"].opener.replica("r0")
	rep.mu.Lock()
	rep.unclean = true
	rep.mu.Unlock()
	if err := c.nodes["n1"].Switchover(t.Context(), "r0", "n2"); !errors.Is(err, control.ErrRefused) {
		t.Fatalf("%v", err)
	}
	if rec := c.record("r0"); rec.Epoch != 1 || rec.Primary.None() {
		t.Errorf("record %+v", rec)
	}
}

func TestCreate_NodeThatCannotMakeItsReplicaUndoesTheRest(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.nodes["n2"].opener.failWith = errors.New("no space left")
	err := c.nodes["n1"].CreateResource(t.Context(), createRequest("r0", "n1", "n2"))
	if !errors.Is(err, control.ErrFailed) || !strings.Contains(err.Error(), "n2") || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("%v", err)
	}
	eventually(t, c.nodes["n1"], "the record stays", func(st *quorum.State) bool { return st.Find("r0") == nil })
	if files := c.nodes["n1"].opener.files; len(files) != 0 {
		t.Errorf("n1 kept %v", files)
	}
	c.nodes["n2"].opener.mu.Lock()
	c.nodes["n2"].opener.failWith = nil
	c.nodes["n2"].opener.mu.Unlock()
	c.create("n1", "n2")
}

func TestCreate_LostAnswerMakesOneResource(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.ledger.fates = []fate{lostAfter}
	c.create("n1", "n2")
}

func TestCreate_SilentNodeIsRefusedBeforeAnythingIsMade(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	c.kill("n2")
	err := c.nodes["n1"].CreateResource(t.Context(), createRequest("r0", "n1", "n2"))
	if !errors.Is(err, control.ErrUnreachable) || c.record("r0") != nil {
		t.Errorf("%v", err)
	}
}

func TestCheckCreate(t *testing.T) {
	st := newFakeLedger(t, "n1", "n2", "w").State()
	cases := []struct {
		name   string
		change func(*control.CreateRequest)
		want   error
	}{
		{"as it is", func(*control.CreateRequest) {}, nil},
		{"capital letters", func(r *control.CreateRequest) { r.Resource = "R0" }, control.ErrUsage},
		{"begins with a dot", func(r *control.CreateRequest) { r.Resource = ".r0" }, control.ErrUsage},
		{"a slash", func(r *control.CreateRequest) { r.Resource = "r/0" }, control.ErrUsage},
		{"63 bytes", func(r *control.CreateRequest) { r.Resource = strings.Repeat("a", 63) }, nil},
		{"64 bytes", func(r *control.CreateRequest) { r.Resource = strings.Repeat("a", 64) }, control.ErrUsage},
		{"no name", func(r *control.CreateRequest) { r.Resource = "" }, control.ErrUsage},
		{"size of no whole blocks", func(r *control.CreateRequest) { r.SizeBytes = 1<<20 + 512 }, control.ErrUsage},
		{"smallest size", func(r *control.CreateRequest) { r.SizeBytes = MinSize }, nil},
		{"below it", func(r *control.CreateRequest) { r.SizeBytes = MinSize - 4096 }, control.ErrUsage},
		{"negative size", func(r *control.CreateRequest) { r.SizeBytes = -4096 }, control.ErrUsage},
		{"no replica", func(r *control.CreateRequest) { r.Replicas = nil }, control.ErrUsage},
		{"one node twice", func(r *control.CreateRequest) { r.Replicas[1].Node = "n1" }, control.ErrUsage},
		{"unknown node", func(r *control.CreateRequest) { r.Replicas[1].Node = "n9" }, control.ErrNotFound},
		{"a witness", func(r *control.CreateRequest) { r.Replicas[1].Node = "w" }, control.ErrUsage},
		{"unknown source", func(r *control.CreateRequest) { r.Source = "n9" }, control.ErrUsage},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req := createRequest("r0", "n1", "n2")
			c.change(&req)
			if err := checkCreate(req, st); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestResize_EveryReplicaGrowsBeforeTheRecord(t *testing.T) {
	c := promoted(t)
	n1 := c.nodes["n1"]
	if err := n1.ResizeResource(t.Context(), "r0", 1<<20); !errors.Is(err, control.ErrUsage) {
		t.Errorf("shrunk: %v", err)
	}
	if err := c.nodes["n2"].ResizeResource(t.Context(), "r0", 8<<20); !errors.Is(err, control.ErrNotPrimary) {
		t.Errorf("resized on the secondary: %v", err)
	}
	if err := n1.ResizeResource(t.Context(), "r0", 8<<20); err != nil {
		t.Fatal(err)
	}
	for name, n := range c.nodes {
		if got := n.opener.replica("r0").Size(); got != 8<<20 {
			t.Errorf("%s has %d bytes", name, got)
		}
	}
	c.kill("n2")
	if err := n1.ResizeResource(t.Context(), "r0", 16<<20); !errors.Is(err, control.ErrRefused) {
		t.Errorf("resized without n2: %v", err)
	}
	if got := c.record("r0").SizeBytes; got != 8<<20 {
		t.Errorf("recorded size %d", got)
	}
}

func TestInvalidate_AsksThePrimaryToDropThisNode(t *testing.T) {
	c := promoted(t)
	if err := c.nodes["n1"].Invalidate(t.Context(), "r0"); !errors.Is(err, control.ErrRefused) {
		t.Errorf("the primary's own replica: %v", err)
	}
	if err := c.nodes["n2"].Invalidate(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	if got := c.nodes["n1"].opener.replica("r0").invalids; len(got) != 1 || got[0] != "n2" {
		t.Errorf("the core was asked to invalidate %v", got)
	}
	c.kill("n1")
	if err := c.nodes["n2"].Invalidate(t.Context(), "r0"); !errors.Is(err, control.ErrOutcomeUnknown) {
		t.Errorf("without the primary: %v", err)
	}
}

func TestVerify_ReportsAdjacentBlocksAsOne(t *testing.T) {
	c := promoted(t)
	res, err := c.nodes["n1"].Verify(t.Context(), "r0", control.VerifyOptions{Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	want := control.Difference{Node: "n2", OffBytes: 0, LenBytes: 8192, Repaired: true}
	if len(res.Differences) != 1 || res.Differences[0] != want || res.RepairedBytes != 8192 || res.CheckedBytes != 8192 {
		t.Errorf("%+v", res)
	}
	if _, err := c.nodes["n1"].Verify(t.Context(), "r0", control.VerifyOptions{Source: "n2"}); !errors.Is(err, control.ErrUnsupported) {
		t.Errorf("repair from a secondary: %v", err)
	}
}

func TestVerb_OneAtATime(t *testing.T) {
	c := promoted(t)
	w := c.nodes["n1"].m.find("r0")
	end, err := w.begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["n1"].Demote(t.Context(), "r0"); !errors.Is(err, control.ErrBusy) {
		t.Errorf("%v", err)
	}
	end()
	if err := c.nodes["n1"].Demote(t.Context(), "r0"); err != nil {
		t.Error(err)
	}
}

func TestStatus_SecondaryShowsWhatThePrimaryKnows(t *testing.T) {
	c := promoted(t)
	rep := c.nodes["n1"].opener.replica("r0")
	rep.mu.Lock()
	rep.peers = []replication.PeerStatus{{Node: "n2", Connection: "Connected", State: replication.Inconsistent, Dirty: 40960,
		Resync: &replication.ResyncStatus{Total: 100, Done: 25, Rate: 1000, ETA: 1500 * time.Millisecond}}}
	rep.mu.Unlock()
	st, err := c.nodes["n2"].Status(t.Context(), "r0")
	if err != nil {
		t.Fatal(err)
	}
	var mine control.Replica
	for _, r := range st.Resources[0].Replicas {
		if r.Node == "n2" {
			mine = r
		}
	}
	if mine.DirtyBytes != 40960 || mine.Resync == nil || mine.Resync.Percent != 25 || mine.Resync.ETASeconds != 2 || mine.Connection != control.ConnLocal {
		t.Errorf("%+v, resync %+v", mine, mine.Resync)
	}
	if _, err := c.nodes["n2"].Status(t.Context(), "r9"); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("a resource that is not there: %v", err)
	}
}

func TestConnect_UnknownPeerIsNamed(t *testing.T) {
	c := promoted(t)
	if err := c.nodes["n1"].Disconnect(t.Context(), "r0", "n1"); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := c.nodes["n1"].Disconnect(t.Context(), "r0", "n2"); err != nil {
		t.Fatal(err)
	}
	st, _ := c.nodes["n1"].Status(t.Context(), "r0")
	if got := st.Resources[0].Replicas[1].Connection; got != control.ConnDisconnected {
		t.Errorf("connection %s", got)
	}
}
