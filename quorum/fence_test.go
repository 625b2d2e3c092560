package quorum

import (
	"testing"
)

func TestHistory24_YesterdaysProofIsNoProof(t *testing.T) {
	x := started(t, "A", "B", "C")
	x.setPolicy(Policy{Fencing: FencingStonith})
	x.refused(x.promote(inc("B", 1)), ErrNotFenced)
	x.fence("A", 1)
	if !x.s.ProvenDown("A", "boot-A") || x.s.ProvenDown("A", "boot-A2") {
		t.Fatal("a proof is about its own boot, and about no other")
	}
	x.must(x.promote(inc("B", 1)))
	// A starts again and is promoted, before it could register; then it falls silent.
	x.must(x.stepDown(StepDown{}))
	later := Incumbent{Node: "A", Instance: instanceOf("A"), Boot: "boot-A2", Process: 5}
	x.refused(x.promote(later), ErrFenced)
	x.must(x.startedCmd("A", "boot-A2", 5))
	if x.s.Fence("A") != nil {
		t.Fatal("the fence of an earlier boot outlived the start of a new one")
	}
	x.must(x.promote(later))
	x.refused(x.promote(inc("B", 1)), ErrNotFenced)
	x.refused(x.force(inc("B", 1), 0, shot("A"), word("C")), ErrNotFenced)
}

func TestHistory16_ProcessThatIsOverIsNotPromoted(t *testing.T) {
	x := started(t, "A", "B")
	x.must(x.startedCmd("B", "boot-B", 1))
	asked := x.promote(inc("B", 1)) // fitness was asked of this process
	x.must(x.startedCmd("B", "boot-B2", 2))
	x.refused(asked, ErrStale)
	x.must(x.startedCmd("A", "boot-A", 2))
	x.refused(x.promote(inc("A", 1)), ErrStale)
	r := x.must(x.promote(inc("A", 2)))
	if !r.PrimaryKnown {
		t.Fatalf("record %+v", r)
	}
}

func TestHistory12_OnlyTheEndOfThatEpochReleases(t *testing.T) {
	x := started(t, "A", "B")
	check := func(what string, epoch uint64, want bool) {
		t.Helper()
		if got := x.s.Released(x.r0(), epoch); got != want {
			t.Errorf("%s: promise of epoch %d released: %t", what, epoch, got)
		}
	}
	check("A serves", 1, false)
	check("nobody yet", 0, false)
	x.must(x.promote(inc("B", 1))) // epoch 2; A may serve on until its lease ends
	check("A was replaced", 1, false)
	x.must(x.stepDown(StepDown{}))
	check("B stepped down", 2, true)
	check("B stepped down", 1, false)
	x.must(x.promote(inc("B", 1))) // epoch 3
	check("a switchover whose StepDown was not seen by itself", 2, true)
	check("A's lease is no business of B's StepDown", 1, false)
	x.fence("B", 9)
	check("B is proven down", 3, true)
	x.must(x.promote(inc("A", 1))) // epoch 4
	x.must(x.startedCmd("B", "boot-B2", 2))
	check("the proof was good when it counted", 3, true)
	check("A serves", 4, false)
}

func TestRelease_AnOperatorsWordReleasesNothing(t *testing.T) {
	x := started(t, "A", "B")
	x.setPolicy(Policy{Fencing: FencingManual})
	c := x.promote(inc("B", 1))
	c.Promote.Statement = "A is on my desk"
	x.refused(c, ErrInvalid)
	c.Promote.Operator = true
	r := x.must(c)
	if r.LastEnd != EndReplaced || x.s.Released(r, 1) {
		t.Fatalf("record %+v", r)
	}
}

func TestStonith_WhoMayReplaceARecordedPrimary(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(x *script)
		who    Incumbent
		want   error
	}{
		"nothing is proven":             {func(*script) {}, inc("B", 1), ErrNotFenced},
		"its own later process":         {func(*script) {}, inc("A", 2), nil},
		"requested is not confirmed":    {func(x *script) { x.must(x.request("A", "W", 1)) }, inc("B", 1), ErrNotFenced},
		"failed":                        {func(x *script) { x.must(x.request("A", "W", 1)); x.must(x.miss("A", 1)) }, inc("B", 1), ErrNotFenced},
		"confirmed":                     {func(x *script) { x.fence("A", 1) }, inc("B", 1), nil},
		"its node started again":        {func(x *script) { x.must(x.startedCmd("A", "boot-A2", 3)) }, inc("B", 1), nil},
		"its process was started again": {func(x *script) { x.must(x.startedCmd("A", "boot-A", 3)) }, inc("B", 1), nil},
		"stepped down":                  {func(x *script) { x.must(x.stepDown(StepDown{})) }, inc("B", 1), nil},
		"another node's fence":          {func(x *script) { x.fence("C", 1) }, inc("B", 1), ErrNotFenced},
	} {
		t.Run(name, func(t *testing.T) {
			x := started(t, "A", "B", "C")
			x.must(x.startedCmd("A", "boot-A", 1))
			x.must(x.promote(inc("A", 1)))
			x.setPolicy(Policy{Fencing: FencingStonith})
			tc.before(x)
			if tc.who.Node == "A" {
				x.must(x.startedCmd("A", "boot-A", tc.who.Process))
			}
			if c := x.promote(tc.who); tc.want == nil {
				x.must(c)
			} else {
				x.refused(c, tc.want)
			}
		})
	}
}

func TestPrimaryOver_ALateRegistrationOfADeadProcessProvesNothing(t *testing.T) {
	x := started(t, "A", "B") // A's process 1 was promoted before any process of A registered
	x.must(x.startedCmd("A", "boot-A0", 44))
	if x.s.PrimaryOver(x.r0()) {
		t.Fatal("a registration of unknown age was taken for a later start")
	}
}

func TestFence_Requests(t *testing.T) {
	x := newScript(t, "A", "B", "C", "W")
	x.refused(x.request("Z", "W", 1), ErrUnknown)
	x.refused(x.request("A", "Z", 1), ErrUnknown)
	x.refused(x.request("A", "A", 1), ErrInvalid)
	x.refused(x.request("A", "W", 0), ErrInvalid)
	late := x.request("A", "B", 1)
	x.must(late)
	x.refused(late, ErrStale)
	x.refused(x.request("A", "W", 2), ErrExists)
	x.refused(x.request("B", "A", 2), ErrFenced) // shooting back
	x.refused(x.request("B", "W", 2), ErrFenced) // B is about to fire
	x.refused(x.request("C", "A", 2), ErrFenced) // A may be off
	x.must(x.request("C", "W", 2))
	x.refused(x.confirm("A", 2), ErrStale)
	x.refused(x.confirm("W", 2), ErrUnknown)
	wrong := x.confirm("A", 1)
	wrong.FenceConfirmed.Boot = "boot-A2"
	x.refused(wrong, ErrStale)
	wrong.FenceConfirmed.Boot, wrong.FenceConfirmed.Proof = "boot-A", ""
	x.refused(wrong, ErrInvalid)
	x.must(x.confirm("A", 1))
	x.refused(x.miss("A", 1), ErrStale)
	x.refused(x.request("A", "B", 3), ErrExists)
	x.refused(x.request("B", "A", 3), ErrFenced) // A is off
	x.must(x.request("B", "W", 3))
	x.must(x.miss("C", 2))
	x.refused(x.confirm("C", 2), ErrStale) // too late: it had failed
	x.refused(x.request("C", "W", 2), ErrExists)
	x.must(x.request("C", "W", 4))
	x.must(Command{Version: x.s.Version, Unfence: &Unfence{Target: "A"}})
	x.refused(Command{Version: x.s.Version, Unfence: &Unfence{Target: "A"}}, ErrUnknown)
	if x.s.ProvenDown("A", "boot-A") {
		t.Fatal("an operator took the proof back, and it still counts")
	}
	x.must(Command{Version: x.s.Version, RemoveNode: &RemoveNode{Name: "C"}})
	if x.s.Fence("C") != nil {
		t.Fatal("a fence of a node that is gone")
	}
}

func TestNodeStarted_EndsFencesOfOtherBootsAlone(t *testing.T) {
	x := newScript(t, "A", "B", "W")
	x.refused(x.startedCmd("Z", "b", 1), ErrUnknown)
	x.refused(x.startedCmd("A", "", 1), ErrInvalid)
	x.must(x.startedCmd("A", "boot-A", 1))
	x.refused(x.startedCmd("A", "boot-A", 1), ErrExists)
	x.must(x.request("A", "W", 1))
	x.must(x.startedCmd("A", "boot-A", 2)) // its process, not the machine
	if f := x.s.Fence("A"); f == nil || f.Phase != FenceAsked {
		t.Fatalf("fence %+v", f)
	}
	x.must(x.confirm("A", 1))
	x.refused(x.startedCmd("A", "boot-A", 3), ErrFenced) // so the proof is a lie
	x.must(x.startedCmd("A", "boot-A2", 3))
	if x.s.Fence("A") != nil || x.s.ProvenDown("A", "boot-A") {
		t.Fatal("the fence outlived the boot that it is about")
	}
	x.refused(x.request("A", "W", 2), ErrStale) // decided on the earlier boot
	bad := Command{Version: x.s.Version, AddNode: &AddNode{Node: Node{Name: "D", VoterID: 5, Addr: "D:1", Boot: "b", Process: 1}}}
	x.refused(bad, ErrInvalid)
}

func TestPauseAndManual_OnlyAnOperatorPromotes(t *testing.T) {
	x := started(t, "A", "B")
	pause := func(on bool) Command {
		return x.on(func(c *Command) { c.PauseFailover = &PauseFailover{On: on, Text: "moving racks"} })
	}
	if r := x.must(pause(true)); !r.Paused || r.PausedText != "moving racks" {
		t.Fatalf("record %+v", r)
	}
	x.refused(x.promote(inc("B", 1)), ErrHold)
	byHand := x.promote(inc("B", 1))
	byHand.Promote.Operator = true
	if r := x.must(byHand); !r.Paused {
		t.Fatal("a promotion by hand ends the pause")
	}
	x.must(pause(false))
	x.must(x.promote(inc("A", 1)))
	x.setPolicy(Policy{Failover: FailoverManual})
	x.refused(x.promote(inc("B", 1)), ErrHold)
}

func TestPriorityAndPolicy(t *testing.T) {
	x := newScript(t, "A", "B")
	c := x.createCmd("", "A", "B")
	c.CreateResource.Replicas[1].Priority = MaxPriority + 1
	x.refused(c, ErrInvalid)
	c.CreateResource.Replicas[1].Priority = 7
	if r := x.must(c); r.Replica("B").Priority != 7 || r.Replica("A").Priority != 0 {
		t.Fatalf("replicas %+v", r.Replicas)
	}
	set := func(n string, p int) Command {
		return x.on(func(c *Command) { c.SetPriority = &SetPriority{Node: n, Priority: p} })
	}
	x.refused(set("Z", 1), ErrUnknown)
	x.refused(set("A", -MaxPriority-1), ErrInvalid)
	if r := x.must(set("A", -4)); r.Replica("A").Priority != -4 {
		t.Fatalf("replicas %+v", r.Replicas)
	}
	d := Policy{}.WithDefaults()
	if d != DefaultPolicy() || d.Failover != FailoverAuto || d.Fencing != FencingLease || d.OnNoQuorum != NoQuorumFreeze {
		t.Fatalf("defaults %+v", d)
	}
	for _, p := range []Policy{{Failover: "x"}, {Fencing: "x"}, {OnNoQuorum: "x"}, {FreezeDeadline: 1}} {
		if p.Validate() == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}
