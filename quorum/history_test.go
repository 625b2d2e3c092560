package quorum

import (
	"slices"
	"testing"
)

// The histories are numbered as in the list of histories that break naive designs.

func TestHistory1_LateDuplicateJoinIsRefused(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.drop("B"))
	first := x.join("B")
	second := first // proposed again after a timeout
	x.must(first)
	x.must(x.drop("B")) // B died; A acknowledges alone from here
	x.refused(second, ErrStale)
	if got := x.r0().Set(); !slices.Equal(got, []string{"A"}) {
		t.Fatalf("set %v: B could be promoted without A's last writes", got)
	}
	x.refused(x.promote(inc("B", 1)), ErrNotInSet)
}

func TestHistory1_NoOpKillsAProposalOfUnknownOutcome(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.drop("B"))
	lost := x.join("B")
	x.must(x.noOp())
	x.refused(lost, ErrStale)
}

func TestHistory2_JoinOfADeposedPrimaryIsRefused(t *testing.T) {
	x := started(t, "A", "B", "C")
	x.must(x.drop("B"))
	late := x.join("B") // A is cut off before it commits
	x.must(x.promote(inc("C", 1)))
	x.refused(late, ErrStale)
	// Even with the record's present version, A is not the one to say it.
	late.Epoch, late.Version = x.r0().Epoch, x.r0().Version
	x.refused(late, ErrNotPrimary)
}

func TestHistory3_RestartedPrimaryIsNoPrimaryUntilPromoted(t *testing.T) {
	x := started(t, "A", "B")
	again := inc("A", 2) // same node, instance and boot; another process
	c := x.drop("B")
	c.DropReplica.Incumbent = again
	x.refused(c, ErrNotPrimary)
	p := x.promote(again)
	p.Promote.TakeOver = false
	x.refused(p, ErrPrimary)
	p.Promote.TakeOver = true
	if r := x.must(p); r.Epoch != 2 || r.Primary != again || r.LastPrimary != inc("A", 1) {
		t.Fatalf("record after the restart: %+v", r)
	}
	p = x.promote(inc("B", 1))
	p.Promote.NewEpoch = 2
	x.refused(p, ErrInvalid)
}

func TestHistory13_LateStepDownIsRefused(t *testing.T) {
	x := started(t, "A", "B")
	lost := x.stepDown(StepDown{})
	// A may not serve again in epoch 1; it is promoted again in epoch 2.
	x.must(x.promote(inc("A", 1)))
	x.refused(lost, ErrStale)
	if x.r0().Primary != inc("A", 1) {
		t.Fatal("the late StepDown ended the role of the new epoch")
	}
}

func TestHistory18_FailedMemberIsHealedOnlyByANewInstance(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.stepDown(StepDown{Failed: true}))
	if r := x.r0(); r.Replica("A").InSet || !r.Replica("A").Failed || !slices.Equal(r.Set(), []string{"B"}) {
		t.Fatalf("after a failed step-down: %+v", r.Replicas)
	}
	x.must(x.promote(inc("B", 1)))
	x.refused(x.join("A"), ErrFailed)
	x.refused(x.register("A", instanceOf("A")), ErrExists)
	x.must(x.register("A", 999))
	c := x.join("A")
	x.refused(c, ErrInstance)
	c.JoinReplica.Instance = 999
	x.must(c)
}

func TestHistory21_EveryPromoteAndDropAddsAGeneration(t *testing.T) {
	x := started(t, "A", "B")
	atA := slices.Clone(x.r0().Lineage)
	x.must(x.drop("B"))
	withDrop := x.r0().Lineage
	if len(withDrop) != len(atA)+1 || !slices.Equal(withDrop[:len(atA)], atA) {
		t.Fatalf("lineage %v after a drop, %v before", withDrop, atA)
	}
	// B forced in the same epoch would continue atA, which is now a strict prefix of A's: a fork
	// at the drop is visible although the epoch is the same.
	x.must(x.join("B"))
	if !slices.Equal(x.r0().Lineage, withDrop) {
		t.Fatal("a join changed the lineage")
	}
}

func TestHistory23_ReplacedDiskUnderTheSameNameIsNoMember(t *testing.T) {
	x := started(t, "A", "B")
	x.refused(x.register("B", 4711), ErrInSet)
	p := x.promote(inc("B", 1))
	p.Promote.Candidate.Instance = 4711
	x.refused(p, ErrInstance)
}
