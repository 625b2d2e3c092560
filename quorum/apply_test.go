package quorum

import (
	"slices"
	"strings"
	"testing"
)

func TestCreate_EmptyResource_StartsOnlyWhenAllAreRegistered(t *testing.T) {
	x := newScript(t, "A", "B", "W")
	x.must(x.createCmd("", "B", "A"))
	if r := x.r0(); r.Replicas[0].Node != "A" || len(r.Set()) != 0 || r.LongestLease != 300*millisecond {
		t.Fatalf("new record %+v", r)
	}
	x.must(x.register("A", instanceOf("A")))
	x.refused(x.promote(inc("A", 1)), ErrNotRegistered)
	x.must(x.register("B", instanceOf("B")))
	if got := x.r0().Set(); !slices.Equal(got, []string{"A", "B"}) {
		t.Fatalf("set %v", got)
	}
	x.must(x.promote(inc("A", 1)))
}

func TestCreate_WithSource_OnlyTheSourceIsInTheSet(t *testing.T) {
	x := newScript(t, "A", "B")
	x.must(x.createCmd("A", "A", "B"))
	x.must(x.register("B", instanceOf("B")))
	x.refused(x.promote(inc("B", 1)), ErrNotInSet)
	x.refused(x.promote(inc("A", 1)), ErrNotInSet)
	x.must(x.register("A", instanceOf("A")))
	x.must(x.promote(inc("A", 1)))
	if got := x.r0().Set(); !slices.Equal(got, []string{"A"}) {
		t.Fatalf("set %v", got)
	}
	x.must(x.join("B"))
}

func TestCreate_Refusals(t *testing.T) {
	x := newScript(t, "A", "B", "W")
	edit := func(f func(c *Command)) Command {
		c := x.createCmd("", "A", "B")
		f(&c)
		return c
	}
	for name, tc := range map[string]struct {
		c    Command
		want error
	}{
		"bad name":        {edit(func(c *Command) { c.Resource = "-x" }), ErrInvalid},
		"no id":           {edit(func(c *Command) { c.ResourceID = 0 }), ErrInvalid},
		"odd size":        {edit(func(c *Command) { c.CreateResource.SizeBytes = 5000 }), ErrInvalid},
		"no replica":      {edit(func(c *Command) { c.CreateResource.Replicas = nil }), ErrInvalid},
		"node twice":      {x.createCmd("", "A", "A"), ErrInvalid},
		"unknown node":    {x.createCmd("", "A", "Z"), ErrUnknown},
		"on a witness":    {x.createCmd("", "A", "W"), ErrInvalid},
		"strange source":  {x.createCmd("W", "A", "B"), ErrInvalid},
		"old catalogue":   {edit(func(c *Command) { c.Version-- }), ErrStale},
		"bad policy":      {edit(func(c *Command) { c.CreateResource.Policy.Lease = 1 }), ErrInvalid},
		"two kinds":       {edit(func(c *Command) { c.NoOp = &NoOp{} }), ErrInvalid},
		"no kind":         {edit(func(c *Command) { c.CreateResource = nil }), ErrInvalid},
		"control in path": {edit(func(c *Command) { c.CreateResource.Replicas[0].DataPath = "/a\nb" }), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			x.TB = t
			x.refused(tc.c, tc.want)
		})
	}
	x.TB = t
	x.must(x.createCmd("", "A"))
	x.refused(x.createCmd("", "A"), ErrExists)
}

func TestDelete_NameIsFreeOnlyWhenEveryReplicaIsGone(t *testing.T) {
	x := started(t, "A", "B")
	create := x.createCmd("", "A", "B")
	del := func(c *Command) { c.DeleteResource = &DeleteResource{} }
	gone := func(n ...string) func(c *Command) {
		return func(c *Command) { c.ResourceGone = &ResourceGone{Nodes: n} }
	}
	x.refused(x.on(del), ErrPrimary)
	x.refused(x.on(gone("A")), ErrInUse)
	x.must(x.stepDown(StepDown{}))
	x.must(x.on(del))
	x.refused(x.promote(inc("A", 2)), ErrDeleted)
	x.refused(x.register("A", 5), ErrDeleted)
	x.refused(create, ErrExists)
	x.refused(x.on(gone("Z")), ErrUnknown)
	x.must(x.on(gone("B")))
	last := x.on(gone("A"))
	if r := x.must(last); r != nil {
		t.Fatalf("the record is still there: %+v", r)
	}
	x.refused(last, ErrUnknown)
	x.must(create)
	x.refused(x.on(func(c *Command) { c.ResourceID++; c.NoOp = &NoOp{} }), ErrUnknown)
}

func TestDelete_LateCreateDoesNotBringItBack(t *testing.T) {
	x := newScript(t, "A", "B")
	create := x.createCmd("", "A")
	x.must(create)
	x.must(x.on(func(c *Command) { c.DeleteResource = &DeleteResource{} }))
	x.must(x.on(func(c *Command) { c.ResourceGone = &ResourceGone{Nodes: []string{"A"}} }))
	x.refused(create, ErrStale)
}

func TestPromote_Refusals(t *testing.T) {
	x := started(t, "A", "B", "C")
	x.must(x.drop("C"))
	edit := func(who Incumbent, f func(p *Promote)) Command {
		c := x.promote(who)
		f(c.Promote)
		return c
	}
	same := func(*Promote) {}
	x.refused(edit(inc("C", 1), same), ErrNotInSet)
	x.refused(edit(inc("Z", 1), same), ErrUnknown)
	x.refused(edit(inc("B", 1), func(p *Promote) { p.NewEpoch = 1 }), ErrInvalid)
	x.refused(edit(inc("B", 1), func(p *Promote) { p.Candidate.Instance++ }), ErrInstance)
	x.refused(edit(inc("B", 1), func(p *Promote) { p.TakeOver = false }), ErrPrimary)
	x.refused(edit(inc("B", 1), func(p *Promote) { p.Generation = x.r0().Lineage[0] }), ErrExists)
	x.refused(edit(inc("B", 1), func(p *Promote) { p.Generation = 0 }), ErrInvalid)
	x.refused(edit(inc("B", 0), same), ErrInvalid)
	r := x.must(edit(inc("B", 1), func(p *Promote) { p.NewEpoch = 40; p.Unclean = true }))
	if r.Epoch != 40 || !r.ChosenUnclean {
		t.Fatalf("record %+v", r)
	}
}

func TestHold_OnlyAnOperatorPromotesAgain(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.stepDown(StepDown{Hold: true}))
	c := x.promote(inc("B", 1))
	x.refused(c, ErrHold)
	c.Promote.Operator = true
	if x.must(c).Hold {
		t.Fatal("an operator's promote leaves the hold")
	}
	x.must(x.on(func(c *Command) { c.Hold = &Hold{On: true} }))
	if r := x.r0(); !r.Hold || r.Primary.None() {
		t.Fatalf("hold on a primary: %+v", r)
	}
	x.must(x.on(func(c *Command) { c.Hold = &Hold{} }))
	x.must(x.promote(inc("A", 3)))
}

func TestStepDown_FailedLastMemberStaysInTheSet(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.drop("B"))
	r := x.must(x.stepDown(StepDown{Failed: true}))
	if !r.Replica("A").InSet || !r.Replica("A").Failed || r.LastPrimary != inc("A", 1) {
		t.Fatalf("record %+v", r)
	}
	x.refused(x.promote(inc("A", 2)), ErrFailed)
	x.refused(x.stepDown(StepDown{}), ErrInvalid) // nobody to step down
	c := x.stepDown(StepDown{})
	c.StepDown.Incumbent = inc("A", 1)
	x.refused(c, ErrNotPrimary)
}

func TestDrop_Refusals(t *testing.T) {
	x := started(t, "A", "B", "C")
	x.refused(x.drop("A"), ErrLastMember)
	x.refused(x.drop("B", "A"), ErrLastMember)
	x.refused(x.drop("B", "B"), ErrInvalid)
	x.refused(x.drop(), ErrInvalid)
	x.refused(x.drop("Z"), ErrUnknown)
	c := x.drop("B", "C")
	c.DropReplica.Failed = true
	r := x.must(c)
	if !slices.Equal(r.Set(), []string{"A"}) || !r.Replica("C").Failed {
		t.Fatalf("record %+v", r)
	}
	x.refused(c, ErrStale)
	x.refused(x.drop("B"), ErrNotInSet)
}

func TestJoin_Refusals(t *testing.T) {
	x := started(t, "A", "B", "C")
	x.must(x.drop("B"))
	x.refused(x.join("C"), ErrExists)
	x.refused(x.join("Z"), ErrUnknown)
	c := x.join("B")
	c.JoinReplica.Instance++
	x.refused(c, ErrInstance)
	c = x.join("B")
	c.JoinReplica.Incumbent.Process++
	x.refused(c, ErrNotPrimary)
	x.must(x.join("B"))
}

func TestResizeAndPolicy(t *testing.T) {
	x := started(t, "A", "B")
	size := func(n int64) Command {
		return x.on(func(c *Command) { c.Resize = &Resize{Incumbent: inc("A", 1), SizeBytes: n} })
	}
	x.refused(size(gib), ErrInvalid)
	x.refused(size(gib-SizeUnit), ErrInvalid)
	x.refused(size(gib+1), ErrInvalid)
	x.must(size(2 * gib))
	policy := func(p Policy) Command {
		return x.on(func(c *Command) { c.SetPolicy = &SetPolicy{Policy: p} })
	}
	x.refused(policy(Policy{Lease: 1}), ErrInvalid)
	x.must(policy(Policy{Lease: 2 * second}))
	r := x.must(policy(Policy{Lease: 100 * millisecond}))
	if r.LongestLease != 2*second || r.Policy.Lease != 100*millisecond {
		t.Fatalf("a shortened lease hides the longer one that may still be out: %+v", r)
	}
}

func TestReplicaError_IsShownAndCleared(t *testing.T) {
	x := started(t, "A", "B")
	say := func(n, text string) Command {
		return x.on(func(c *Command) { c.ReplicaError = &ReplicaError{Node: n, Text: text} })
	}
	x.refused(say("Z", "x"), ErrUnknown)
	x.refused(say("A", strings.Repeat("x", MaxText+1)), ErrInvalid)
	if r := x.must(say("B", "no such file")); r.Replica("B").Error != "no such file" || !r.Replica("B").InSet {
		t.Fatalf("record %+v", r)
	}
	if r := x.must(say("B", "")); r.Replica("B").Error != "" {
		t.Fatalf("record %+v", r)
	}
}

func TestNodes_AddReplaceRemove(t *testing.T) {
	x := started(t, "A", "B")
	add := func(n Node, replaces uint64) Command {
		return Command{Version: x.s.Version, AddNode: &AddNode{Node: n, Replaces: replaces}}
	}
	rm := func(n string) Command { return Command{Version: x.s.Version, RemoveNode: &RemoveNode{Name: n}} }
	c := Node{Name: "C", VoterID: 300, Addr: "C:1"}
	late := add(c, 0)
	x.must(late)
	x.refused(late, ErrStale)
	x.refused(add(c, 0), ErrExists)
	c.VoterID = 301
	x.refused(add(c, 0), ErrExists)
	x.refused(add(c, 299), ErrStale)
	x.must(add(c, 300))
	if n := x.s.Node("C"); n.VoterID != 301 || x.s.Voter(300) != nil {
		t.Fatalf("node %+v", n)
	}
	x.refused(add(Node{Name: "D", VoterID: 302, Addr: "D:1"}, 5), ErrUnknown)
	x.refused(add(Node{Name: "C", VoterID: 302, Addr: "C:1", Witness: true}, 301), ErrInvalid)
	x.refused(rm("A"), ErrInUse)
	x.refused(rm("Z"), ErrUnknown)
	x.must(rm("C"))
	x.must(rm("W"))
	if len(x.s.Nodes) != 2 {
		t.Fatalf("nodes %+v", x.s.Nodes)
	}
}

func TestLineage_IsCutAtItsOldEndAndCounted(t *testing.T) {
	x := started(t, "A", "B")
	for range MaxLineage + 5 {
		x.s, _ = Apply(x.s, x.promote(inc("A", 1)))
	}
	r := x.r0()
	if len(r.Lineage) != MaxLineage || r.LineageCut != 6 || r.Lineage[MaxLineage-1] != x.nextGen {
		t.Fatalf("%d generations, %d cut", len(r.Lineage), r.LineageCut)
	}
}

func TestApply_LeavesTheOldStateAlone(t *testing.T) {
	x := started(t, "A", "B")
	old := x.s
	before, err := EncodeState(old)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.drop("B"))
	x.must(x.join("B"))
	x.must(x.promote(inc("B", 1)))
	after, _ := EncodeState(old)
	if string(before) != string(after) {
		t.Fatal("a State changed after it was returned")
	}
}

func TestKinds_EachHasANameAndACode(t *testing.T) {
	for k := KindNone; k < kindEnd; k++ {
		if k.String() == "" || strings.Contains(k.String(), "(") {
			t.Errorf("kind %d has no name", k)
		}
	}
	for c := Code(1); c < codeEnd; c++ {
		if codeOf(codeErrs[c]) != c {
			t.Errorf("code %d is not its own error's", c)
		}
	}
	if (Result{Code: 200}).Err() == nil || Kind(200).String() != "kind(200)" || Code(200).String() != "code(200)" {
		t.Error("unknown codes and kinds are not named")
	}
}
