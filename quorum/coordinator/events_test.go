package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

const second = time.Second

// The tests here follow the table "What happens when" of the design.

func TestEvent_SecondaryDies_NothingIsDone(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.crash("B")
	g.run(5 * second)
	g.wantPrimary("A")
	g.wantNothing()
}

func TestEvent_PrimaryKilled_AnotherMemberIsPrimaryWithinTheBudget(t *testing.T) {
	for offset := range 10 {
		g := newRig(t, quorum.Policy{}, "A", "B")
		g.run(second + time.Duration(offset)*step)
		g.crash("A")
		if took := g.wantWithin("B", 2*second); took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		g.run(5 * second)
		if g.r0().Epoch != 2 {
			t.Errorf("epoch %d: it was promoted again", g.r0().Epoch)
		}
	}
}

func TestEvent_PrimaryProcessComesBackBeforeAnyoneActed_IsPromotedAgainAtOnce(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.restart("A", false)
	if took := g.wantWithin("A", second); took > 150*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	if r := g.r0(); r.Epoch != 2 || r.Primary.Process != id("A")*100+1 {
		t.Errorf("record %+v", r)
	}
}

func TestEvent_PrimaryHostRebooted_TheCleanMemberTakesOver(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.setPriority("A", 10)
	g.run(second)
	g.restart("A", true)
	g.wantWithin("B", second)
}

func TestEvent_PrimaryLosesAllLinks_AnotherMemberIsPrimary(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	g.run(second)
	g.isolate("A")
	g.wantWithin("B", second)
	g.cut = map[string]bool{}
	g.run(2 * second) // A is back: it is another process's epoch now
	g.wantPrimary("B")
}

func TestEvent_PrimaryLosesTheWitnessOnly_NothingIsDone(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.cut[link("A", "W")] = true
	g.run(5 * second) // W leads and hears nothing of A, but B does
	g.wantPrimary("A")
	g.wantNothing()
}

func TestEvent_LinkBetweenReplicasBreaks_NobodyIsPromoted(t *testing.T) {
	for _, leader := range []string{"W", "B"} {
		g := newRig(t, quorum.Policy{}, "A", "B")
		g.lead(leader)
		g.run(second)
		g.cut[link("A", "B")] = true
		g.run(5 * second) // with B leading, W hears A and says so
		g.wantPrimary("A")
		g.wantNothing()
		g.drop("B")
		g.run(second)
		g.wantPrimary("A")
	}
}

func TestEvent_PrimaryCannotDropItsPeer_AnotherMemberTakesOver(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.host("A").stuck = true
	g.wantWithin("B", second)
}

func TestEvent_PrimaryAloneInTheSet_NobodyElseIsPromoted(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.drop("B")
	g.run(second)
	g.isolate("A")
	g.run(10 * second)
	g.wantNothing()
	if got := g.host("W").c.Explain("r0"); !strings.Contains(got, "B is not in the in-sync set") || !strings.Contains(got, "A is silent") {
		t.Errorf("the operator reads %q", got)
	}
}

func TestEvent_PrimaryDiskFails_AMemberIsPromotedAtOnce(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.stepDown(quorum.StepDown{Failed: true})
	g.host("A").failed = true
	if took := g.wantWithin("B", second); took > 150*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestEvent_RoleGivenUp_SwitchoverGoesFirst(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	g.run(second)
	g.stepDown(quorum.StepDown{})
	g.run(400 * time.Millisecond)
	g.wantNothing()
	g.promote("C")
	g.run(5 * second)
	g.wantPrimary("C")
	g.wantNothing()
}

func TestEvent_RoleIsGivenUp_AnotherOneTakesItAfterGrace(t *testing.T) {
	for name, tc := range map[string]struct {
		leaving   bool
		low, high time.Duration
	}{
		"a switchover may be under way": {false, 500 * time.Millisecond, 700 * time.Millisecond},
		"its process stops":             {true, 0, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B")
			g.setPriority("B", 10)
			g.run(second)
			g.host("A").leaving = tc.leaving
			g.stepDown(quorum.StepDown{})
			if took := g.wantWithin("B", 2*second); took < tc.low || took > tc.high {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestEvent_BothDieAndOneReturns_ServesOnlyIfFit(t *testing.T) {
	for name, tc := range map[string]struct {
		boot, otherToo bool
		want           string
	}{
		"its process alone had died":             {false, false, "B"},
		"its host had died, the other is silent": {true, false, ""},
		"both hosts had died and are back":       {true, true, "A"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B")
			g.run(second)
			g.crash("A")
			g.crash("B")
			g.run(3 * second)
			g.wantNothing()
			if tc.otherToo {
				g.restart("A", true)
			}
			g.restart("B", tc.boot)
			g.run(3 * second)
			g.wantPrimary(tc.want)
			if tc.want == "A" && !g.r0().ChosenUnclean {
				t.Error("the choice of an unclean replica is not recorded")
			}
		})
	}
}

func TestEvent_OperatorAtWork_NothingIsDone(t *testing.T) {
	for name, f := range map[string]func(c *quorum.Command){
		"hold":   func(c *quorum.Command) { c.Hold = &quorum.Hold{On: true} },
		"pause":  func(c *quorum.Command) { c.PauseFailover = &quorum.PauseFailover{On: true} },
		"manual": func(c *quorum.Command) { c.SetPolicy = &quorum.SetPolicy{Policy: quorum.Policy{Failover: "manual"}} },
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B")
			g.run(second)
			g.on(f)
			g.crash("A")
			g.run(3 * second)
			g.restart("A", false)
			g.run(3 * second)
			g.wantNothing()
			if got := g.host("W").c.Explain("r0"); !strings.Contains(got, "operator") {
				t.Errorf("it says %q", got)
			}
		})
	}
}

func TestEvent_DemotedByAnOperator_StaysSo(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.stepDown(quorum.StepDown{Hold: true})
	g.run(10 * second)
	g.wantNothing()
}

func TestEvent_NewResource_WaitsForItsFirstPromotion(t *testing.T) {
	for _, auto := range []bool{false, true} {
		g := newRig(t, quorum.Policy{}, "A", "B")
		c, err := New(Config{Node: "W", NewID: g.newID, PromoteNew: auto})
		if err != nil {
			t.Fatal(err)
		}
		g.host("W").c = c
		fresh, err := quorum.Genesis("c", g.s.Incarnation, g.s.Nodes)
		if err != nil {
			t.Fatal(err)
		}
		g.s = fresh
		g.must(quorum.Command{Resource: "r0", ResourceID: 56, Version: g.s.Version, CreateResource: &quorum.CreateResource{SizeBytes: 1 << 20,
			Replicas: []quorum.NewReplica{{Node: "A", DataPath: "/a"}, {Node: "B", DataPath: "/b"}}}})
		g.lead("W")
		g.on(func(c *quorum.Command) { c.RegisterReplica = &quorum.RegisterReplica{Node: "A", Instance: id("A")} })
		g.run(3 * second)
		g.wantNothing() // B has not made its replica yet
		g.on(func(c *quorum.Command) { c.RegisterReplica = &quorum.RegisterReplica{Node: "B", Instance: id("B")} })
		g.run(3 * second)
		if auto {
			g.wantPrimary("A")
		} else {
			g.wantNothing()
		}
	}
}

func TestEvent_PrimariesThatServedAreLostEvery3s_EachIsReplacedWithinSeconds(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	now, next := "A", "B"
	for i := range 8 {
		g.run(3 * second)
		g.crash(now)
		if took := g.wantWithin(next, 4*second); took > 2500*time.Millisecond {
			t.Errorf("loss %d: %s took the role after %v", i, next, took)
		}
		g.restart(now, false)
		now, next = next, now
	}
}
