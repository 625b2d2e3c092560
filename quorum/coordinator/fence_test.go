package coordinator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

var stonith = quorum.Policy{Fencing: quorum.FencingStonith}

func TestFence_PromotionWaitsForTheConfirmation(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("W").fenceTime = 2 * second
	g.run(second)
	g.isolate("A") // it lives
	g.run(2 * second)
	if f := g.s.Fence("A"); f == nil || f.Phase != quorum.FenceAsked || f.Executor != "W" || f.Boot != "boot-A" {
		t.Fatalf("fence %+v", f)
	}
	g.wantPrimary("A")
	g.wantWithin("B", second)
	if f := g.s.Fence("A"); f.Phase != quorum.FenceProven || f.Text != "agent of W" {
		t.Fatalf("fence %+v", f)
	}
	if r := g.r0(); r.LastEnd != quorum.EndFenced || !g.s.Released(r, 1) {
		t.Fatalf("record %+v", r)
	}
	if g.host("A").up {
		t.Fatal("A was not shot")
	}
}

func TestFence_FailureOrTimeoutProvesNothing(t *testing.T) {
	for name, result := range map[string]FenceResult{"failed": FenceError, "timed out": FenceTimedOut, "no answer": 0} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, stonith, "A", "B")
			g.host("W").fences, g.host("B").fences = result, result
			g.run(second)
			g.crash("A")
			g.run(5 * 60 * second)
			g.wantPrimary("")
			if g.r0().Epoch != 1 || g.s.ProvenDown("A", "boot-A") {
				t.Fatalf("record %+v, fences %+v", g.r0(), g.s.Fences)
			}
			tries := 0
			for _, l := range g.log {
				if strings.Contains(l, "is turned off before") {
					tries++
				}
			}
			if tries < 3 || tries > 30 {
				t.Errorf("%d attempts in 5 minutes", tries)
			}
			// The agent works again: nothing else is needed.
			g.host("W").fences, g.host("B").fences = FenceOK, FenceOK
			g.wantWithin("B", 3*60*second)
		})
	}
}

func TestFence_AnotherExecutorTriesAfterAFailure(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("W").fences = FenceError
	g.run(second)
	g.crash("A")
	g.wantWithin("B", 5*second)
	if f := g.s.Fence("A"); f.Executor != "B" {
		t.Errorf("fence %+v", f)
	}
}

func TestFence_AMemberOfThePairWaitsBeforeItShoots(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("W").noFence = true
	g.run(second)
	g.crash("A")
	g.run(700 * time.Millisecond)
	if f := g.s.Fence("A"); f != nil {
		t.Fatalf("B shot at once: %+v", f)
	}
	g.wantWithin("B", second)
}

func TestFence_NobodyWhoCan_NothingIsDone(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("W").noFence, g.host("B").noFence = true, true
	g.run(second)
	g.crash("A")
	g.run(10 * second)
	g.wantNothing()
	if got := g.host("W").c.Explain("r0"); !strings.Contains(got, "waits for a proof that A is down") {
		t.Errorf("it says %q", got)
	}
}

func TestFence_Manual_FiresNothingAndWaitsForAnOperator(t *testing.T) {
	g := newRig(t, quorum.Policy{Fencing: quorum.FencingManual}, "A", "B")
	g.run(second)
	g.crash("A")
	g.run(10 * second)
	g.wantNothing()
	g.restart("A", true) // the start of another boot proves that the old one is over
	g.wantWithin("B", second)
}

func TestFence_NodeThatStartsAgainIsNotShot(t *testing.T) {
	for _, boot := range []bool{true, false} {
		g := newRig(t, stonith, "A", "B")
		g.run(second)
		g.restart("A", boot)
		g.run(5 * second)
		if len(g.s.Fences) != 0 {
			t.Errorf("fences %+v", g.s.Fences)
		}
		if want := map[bool]string{true: "B", false: "A"}[boot]; g.primary() == nil || g.primary().name != want {
			t.Errorf("primary %v, want %s", g.primary(), want)
		}
	}
}

func TestFence_ProcessWithoutARegistration_IsSparedOrShotLate(t *testing.T) {
	for _, idle := range []bool{true, false} {
		g := newRig(t, stonith, "A", "B")
		g.run(second)
		a := g.host("A")
		if idle { // it answers and is no primary
			a.refuses = true
		} else { // it was started again, and neither it nor the primary before it ever registered
			g.s = unregistered(g.s)
			g.on(func(c *quorum.Command) { c.NoOp = &quorum.NoOp{} })
			a.process++
		}
		g.run(1500 * time.Millisecond)
		if len(g.s.Fences) != 0 || g.r0().Epoch != 2 || g.primary() != a {
			t.Fatalf("idle %t: record %+v, fences %+v", idle, g.r0(), g.s.Fences)
		}
		a.refuses, a.disk = true, "Outdated" // nor can it be
		g.wantWithin("B", 10*second)
		if f := g.s.Fence("A"); f == nil || f.Phase != quorum.FenceProven {
			t.Errorf("idle %t: fence %+v", idle, f)
		}
	}
}

// unregistered is s as it would be if no node had ever registered a start.
func unregistered(s *quorum.State) *quorum.State {
	next := *s
	next.Nodes, next.Resources = slices.Clone(s.Nodes), slices.Clone(s.Resources)
	for i := range next.Nodes {
		next.Nodes[i].Boot, next.Nodes[i].Process = "", 0
	}
	next.Resources[0].PrimaryKnown = false
	return &next
}

func TestFence_WhoIsAboutToShootIsNotShotMeanwhile(t *testing.T) {
	g := newRig(t, stonith, "A", "B", "C")
	g.host("A").fences = 0
	g.run(second)
	g.must(quorum.Command{Version: g.s.Version, FenceRequested: &quorum.FenceRequested{Target: "C", Boot: "boot-C", Executor: "A", ID: 5}})
	g.log = nil
	g.crash("A")
	g.run(30 * second)
	g.wantNothing()
	g.wantWithin("B", 60*second) // the order of A, which never answers, is given up
}

func TestFence_PrimaryOfTwoResourcesIsShotOnce(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.run(second)
	s, res := quorum.Apply(g.s, quorum.Command{Resource: "r1", ResourceID: 66, Version: g.s.Version, CreateResource: &quorum.CreateResource{
		SizeBytes: 1 << 20, Policy: stonith, Replicas: []quorum.NewReplica{{Node: "A", DataPath: "/x"}}}})
	if res.Err() != nil {
		t.Fatal(res.Err())
	}
	g.adopt(s)
	g.crash("A")
	g.wantWithin("B", 2*second)
	asked := 0
	for _, l := range g.log {
		if strings.Contains(l, "asks this node") {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("%d shots:\n%s", asked, strings.Join(g.log, "\n"))
	}
}

func TestFence_ExecutorRestarts_CarriesTheOrderOutAgain(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("B").fenceTime = 3 * second
	g.host("W").noFence = true
	g.run(second)
	g.crash("A")
	g.run(2 * second)
	if f := g.s.Fence("A"); f == nil || f.Executor != "B" {
		t.Fatalf("fence %+v", f)
	}
	g.crash("B") // in the middle of it
	g.run(4 * second)
	g.restart("B", false)
	g.wantWithin("B", 5*second)
}

func TestOrdersFor_OnlyTheNamedExecutorOfAnOpenRequestFires(t *testing.T) {
	s := &quorum.State{Fences: []quorum.Fence{
		{Target: "A", Executor: "W", ID: 1, Phase: quorum.FenceAsked},
		{Target: "B", Executor: "W", ID: 2, Phase: quorum.FenceProven},
		{Target: "C", Executor: "B", ID: 3, Phase: quorum.FenceAsked},
		{Target: "D", Executor: "W", ID: 4, Phase: quorum.FenceMissed},
	}}
	ids := func(node string) (out []uint64) {
		for _, f := range OrdersFor(s, node) {
			out = append(out, f.ID)
		}
		return out
	}
	for node, want := range map[string][]uint64{"W": {1}, "B": {3}, "A": nil, "C": nil} {
		if got := ids(node); !slices.Equal(got, want) {
			t.Errorf("%s fires %v, want %v", node, got, want)
		}
	}
}

func TestFence_ResultIsProposedUntilItIsRecorded(t *testing.T) {
	for name, outcome := range map[string]Outcome{"not done": OutcomeNotDone, "unknown": OutcomeUnknown, "refused": OutcomeRefused} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, stonith, "A", "B")
			lost := 3
			g.lost = func(cmd quorum.Command) Outcome {
				if cmd.FenceConfirmed == nil || lost == 0 {
					return 0
				}
				lost--
				return outcome
			}
			g.run(second)
			g.crash("A")
			g.wantWithin("B", 4*second)
			if lost != 0 {
				t.Error("the result was not lost")
			}
		})
	}
}

func TestFence_TakenBackByAnOperator_IsForgotten(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	g.host("W").fenceTime = 3 * second
	g.run(second)
	g.isolate("A")
	g.run(second)
	g.on(func(c *quorum.Command) { c.PauseFailover = &quorum.PauseFailover{On: true} })
	g.must(quorum.Command{Version: g.s.Version, Unfence: &quorum.Unfence{Target: "A"}})
	g.run(10 * second)
	if g.s.Fence("A") != nil {
		t.Fatalf("fence %+v", g.s.Fence("A"))
	}
	if o := g.host("W").c.orders; len(o) != 0 {
		t.Errorf("orders are kept: %+v", o)
	}
}

func TestFence_ResultOfNoOrderPanics(t *testing.T) {
	g := newRig(t, stonith, "A", "B")
	defer func() {
		if recover() == nil {
			t.Error("a result that nobody waits for was taken")
		}
	}()
	g.step(g.host("W"), Event{Kind: EvFenceDone, ID: 9, Fenced: FenceOK})
}
