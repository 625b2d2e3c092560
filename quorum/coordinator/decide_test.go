package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

func TestFitness(t *testing.T) {
	cases := []struct {
		name string
		f    func(g *rig)
		want fitness // of B, after A died
	}{
		{"fit", func(*rig) {}, fit},
		{"outside", func(g *rig) { g.drop("B") }, outside},
		{"silent", func(g *rig) { g.crash("B") }, notHeard},
		{"cut off from the leader", func(g *rig) { g.cut[link("B", "W")] = true }, notHeard},
		{"not UpToDate", func(g *rig) { g.host("B").disk = "Inconsistent" }, notUpToDate},
		{"no open replica", func(g *rig) { g.host("B").disk = "" }, notUpToDate},
		{"failed", func(g *rig) { g.host("B").failed = true }, failed},
		{"disk failed", func(g *rig) { g.host("B").disk = DiskFailed }, failed},
		{"leaving", func(g *rig) { g.host("B").leaving = true }, leaving},
		{"behind", func(g *rig) { g.host("B").lags = 1 }, behind},
		{"unclean, A is silent", func(g *rig) { g.host("B").unclean = true }, mayLackWrites},
		{"another process", func(g *rig) { g.host("B").process++ }, anotherProcess},
		{"being turned off", func(g *rig) {
			g.must(quorum.Command{Version: g.s.Version, FenceRequested: &quorum.FenceRequested{Target: "B", Boot: "boot-B", Executor: "W", ID: 1}})
		}, turnedOff},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B")
			g.host("W").fences = 0
			g.run(second)
			tc.f(g)
			g.on(func(c *quorum.Command) { c.PauseFailover = &quorum.PauseFailover{On: true} })
			g.run(second)
			g.crash("A")
			g.run(second)
			c := g.host("W").c
			if got := c.fitness(&c.state.Resources[0], &c.res[0], 1, needSilent); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			g.on(func(c *quorum.Command) { c.PauseFailover = &quorum.PauseFailover{} })
			g.run(3 * second)
			if took := g.r0().Epoch > 1; took != (tc.want == fit) {
				t.Errorf("promoted: %t; %s", took, strings.Join(g.log, "\n"))
			}
		})
	}
}

func TestFitness_WhatTheReportShowsAlone(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.crash("A")
	c := g.host("W").c
	for want, f := range map[fitness]func(rep *Report){
		anotherInstance: func(rep *Report) { rep.Incumbent.Instance++ },
		anotherHistory:  func(rep *Report) { rep.Generation = 4711 },
		notUpToDate:     func(rep *Report) { rep.InSet = false },
	} {
		rep := g.says(g.host("B"))
		f(&rep)
		g.step(g.host("W"), Event{Kind: EvReport, Report: rep})
		if got := c.fitness(&c.state.Resources[0], &c.res[0], 1, needSilent); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestChoice(t *testing.T) {
	for name, tc := range map[string]struct {
		f    func(g *rig)
		want string
	}{
		"by name":                 {func(*rig) {}, "B"},
		"by priority":             {func(g *rig) { g.setPriority("C", 1) }, "C"},
		"clean before priority":   {func(g *rig) { g.setPriority("B", 9); g.host("B").unclean = true }, "C"},
		"by stored epoch":         {func(g *rig) { g.host("C").epoch = 1 }, "C"},
		"priority before epoch":   {func(g *rig) { g.host("C").epoch = 1; g.setPriority("B", 1) }, "B"},
		"the fit one":             {func(g *rig) { g.setPriority("B", 9); g.host("B").disk = "Outdated" }, "C"},
		"silence counts as clean": {func(g *rig) { g.host("B").unclean = true; g.crash("C") }, ""},
		"all unclean, one silent": {func(g *rig) { g.host("B").unclean, g.host("C").unclean = true, true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B", "C")
			g.run(second)
			tc.f(g)
			g.run(200 * time.Millisecond)
			g.crash("A")
			g.run(2 * second)
			g.wantPrimary(tc.want)
		})
	}
}

func TestEpoch_IsAboveWhatAnyReplicaHasStored(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	g.host("C").epoch = 41 // it is not even fit
	g.host("C").disk = "Outdated"
	g.run(second)
	g.crash("A")
	g.wantWithin("B", second)
	if e := g.r0().Epoch; e != 42 {
		t.Errorf("epoch %d", e)
	}
}

func TestPromotedNodeThatRefuses_AnotherOneIsTried(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	g.host("B").refuses = true
	g.setPriority("B", 100)
	g.run(second)
	g.crash("A")
	g.wantWithin("B", second)
	g.wantWithin("C", 3*second)
}

func TestNobodyServes_AttemptsBecomeRare(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B", "C")
	g.host("B").refuses, g.host("C").refuses = true, true
	g.run(second)
	g.crash("A")
	g.run(60 * second)
	if n := g.r0().Epoch - 1; n < 4 || n > 9 {
		t.Errorf("%d promotions in a minute", n)
	}
	g.host("C").refuses = false
	g.run(60 * second)
	epoch := g.r0().Epoch
	g.wantPrimary("C")
	g.run(60 * second)
	if g.r0().Epoch != epoch {
		t.Error("a primary that serves was replaced")
	}
	g.crash("C")
	g.host("B").refuses = false
	g.wantWithin("B", second)
	g.restart("C", false)
	g.run(second)
	g.crash("B")
	if took := g.wantWithin("C", 60*second); took > 2*second {
		t.Errorf("it took %v: a long service did not end the pauses", took)
	}
}

func TestProposalWithoutSuccess_IsRepeatedLater(t *testing.T) {
	for name, outcome := range map[string]Outcome{"not done": OutcomeNotDone, "unknown": OutcomeUnknown, "refused": OutcomeRefused} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, quorum.Policy{}, "A", "B")
			tries := 0
			g.lost = func(quorum.Command) Outcome { tries++; return outcome }
			g.run(second)
			g.crash("A")
			g.run(30 * second)
			if tries < 4 || tries > 8 {
				t.Errorf("%d attempts in 30 s", tries)
			}
			g.lost = nil
			g.wantWithin("B", 40*second)
		})
	}
}

func TestStaleRefusal_IsJudgedAnewOnTheNewerRecord(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	first := true
	g.lost = func(cmd quorum.Command) Outcome {
		if first && cmd.Promote != nil { // the record changes while the proposal is under way
			first = false
			g.on(func(c *quorum.Command) { c.ReplicaError = &quorum.ReplicaError{Node: "A", Text: "x"} })
		}
		return 0
	}
	g.crash("A")
	if took := g.wantWithin("B", 2*second); took > 600*time.Millisecond || first {
		t.Errorf("it took %v", took)
	}
}

func TestNewLeader_ListensBeforeItCallsAnybodySilent(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	g.crash("A")
	g.run(100 * time.Millisecond)
	g.lead("B")
	g.run(390 * time.Millisecond)
	g.wantNothing()
	g.wantWithin("B", second)
}

func TestNewLeader_HearsThePrimaryBeforeItJudges(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	for i := range 20 {
		g.run(170 * time.Millisecond)
		g.lead([]string{"B", "W", "A"}[i%3])
	}
	g.run(second)
	g.wantNothing()
}

func TestPausedLeader_DoesNotTakeItsOwnPauseForSilence(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.cut[link("A", "B")] = true
	g.host("W").heard = -1
	g.run(second)
	g.now += 10 * second // what A sent meanwhile is read after what B sent
	silent := g.says(g.host("B"))
	silent.HeardPrimary = 10 * second
	w := g.says(g.host("W"))
	w.HeardPrimary = 10 * second
	for _, rep := range []Report{w, silent, g.says(g.host("A"))} {
		g.step(g.host("W"), Event{Kind: EvReport, Report: rep})
	}
	g.run(second)
	g.wantNothing()
}

func TestHint_OnlyShortensTheLeadersOwnPatience(t *testing.T) {
	hint := func(g *rig, up bool) { g.step(g.host("W"), Event{Kind: EvHint, Node: "A", On: up}) }
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	hint(g, false)
	g.run(2 * second)
	g.wantNothing() // A reports

	g.cut[link("A", "W")] = true
	g.run(2 * second)
	g.wantNothing() // B hears it

	g.crash("A")
	g.run(280 * time.Millisecond)
	g.wantNothing() // B heard it a moment ago
	g.wantWithin("B", 300*time.Millisecond)

	g = newRig(t, quorum.Policy{}, "A", "B")
	g.host("B").heard = -1
	g.run(step)
	g.cut[link("A", "B")] = true // B never hears it
	g.host("B").heard = -1
	g.run(second)
	hint(g, false)
	hint(g, true)
	hint(g, false)
	g.crash("A")
	g.host("W").heard = -1 // nor does anybody else say so
	if took := g.wantWithin("B", second); took > 280*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestReports_OfStrangersAreNotKept(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	c := g.host("W").c
	rep := g.says(g.host("B"))
	for _, f := range []func(r *Report){
		func(r *Report) { r.Node = "Z" },
		func(r *Report) { r.Resource = "r9" },
		func(r *Report) { r.ResourceID++ },
	} {
		bad := rep
		f(&bad)
		bad.Epoch = 99
		g.step(g.host("W"), Event{Kind: EvReport, Report: bad})
	}
	if len(c.res[0].heard) != 3 || newEpoch(g.r0(), &c.res[0]) != 2 {
		t.Errorf("reports %+v", c.res[0].heard)
	}
}

func TestLateReportOfAnEarlierProcess_IsNoRestart(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.run(second)
	late := g.says(g.host("A"))
	g.restart("A", false)
	g.wantWithin("A", second)
	g.run(second)
	before := len(g.log)
	g.step(g.host("W"), Event{Kind: EvReport, Report: late})
	g.cut[link("A", "W")] = true // so nothing newer follows; B hears the later process
	g.run(second)
	if len(g.log) != before || g.r0().Epoch != 2 {
		t.Errorf("it was promoted again:\n%s", strings.Join(g.log, "\n"))
	}
}

func TestReports_OfARemovedNodeAreForgotten(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	g.must(quorum.Command{Version: g.s.Version, AddNode: &quorum.AddNode{Node: quorum.Node{Name: "D", VoterID: 900, Addr: "D:1", Witness: true}}})
	g.run(second)
	c := g.host("W").c
	hears := Report{Node: "D", Resource: "r0", ResourceID: g.r0().ID, HeardPrimary: 0}
	g.step(g.host("W"), Event{Kind: EvReport, Report: hears})
	g.must(quorum.Command{Version: g.s.Version, RemoveNode: &quorum.RemoveNode{Name: "D"}})
	if c.res[0].of("D") != nil {
		t.Error("a node that is gone has a say")
	}
}

func TestExplain_OfWhatItDoesNotKnow(t *testing.T) {
	g := newRig(t, quorum.Policy{}, "A", "B")
	for want, got := range map[string]string{
		"does not lead":         g.host("A").c.Explain("r0"),
		"no resource r9":        g.host("W").c.Explain("r9"),
		"nobody else is needed": g.host("W").c.Explain("r0"),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	err := Config{SuspectAfter: 1, ReportStale: 1, RetryAfter: second, RetryMost: 1, Grace: -1}.Validate()
	for _, want := range []string{"node name", "source of ids", "at least", "longest pause", "duration of -1ns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("an empty config was accepted")
	}
	c := Config{Node: "A", NewID: func() uint64 { return 1 }}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestEnums_EachHasAName(t *testing.T) {
	for k := EventKind(0); k <= evEnd; k++ {
		if strings.Contains(k.String(), "(") != (k == evEnd) || k.String() == "" {
			t.Errorf("event %d is %q", k, k)
		}
	}
	for n := needNone; n <= needEnd; n++ {
		if strings.Contains(n.String(), "(") != (n == needEnd) || n.String() == "" {
			t.Errorf("need %d is %q", n, n)
		}
	}
	for f := fit; f <= fitnessEnd; f++ {
		if strings.Contains(f.String(), "(") != (f == fitnessEnd) || f.String() == "" {
			t.Errorf("fitness %d is %q", f, f)
		}
	}
}
