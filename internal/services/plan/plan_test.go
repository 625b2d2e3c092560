package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const sec = time.Second

// urgentIDs are the steps of tests that are urgent.
func testStep(id string) Step {
	return Step{ID: id, Name: id, Urgent: strings.HasPrefix(id, "vip"), StartTimeout: 20 * sec, StopTimeout: 20 * sec, MonitorTimeout: 5 * sec, Interval: 10 * sec}
}

func testSteps(ids ...string) []Step {
	out := []Step{}
	for _, id := range ids {
		out = append(out, testStep(id))
	}
	return out
}

// bench drives a Plan by hand: operations end when a test says so.
type bench struct {
	t     *testing.T
	p     *Plan
	now   time.Duration
	under map[string]uint64 // token of the operation under way, by step
}

func newBench(t *testing.T, left ...string) *bench {
	return &bench{t: t, p: New(DefaultConfig(), testSteps(left...)), under: map[string]uint64{}}
}

// do gives one event and returns the actions as words: "start a", "fence on", ...
func (b *bench) do(ev Event) string {
	b.t.Helper()
	ev.Now = b.now
	words := []string{}
	for _, a := range b.p.Step(ev, nil) {
		switch a.Kind {
		case ActStart, ActStop, ActMonitor:
			b.under[a.ID] = a.Token
			words = append(words, a.Kind.String()+" "+a.ID)
		case ActCancel:
			words = append(words, "cancel "+a.ID)
		case ActRecord:
			words = append(words, "record "+strings.Join(a.IDs, "+"))
		case ActFence:
			words = append(words, fmt.Sprintf("fence %v", a.On))
		default:
			words = append(words, a.Kind.String())
		}
	}
	return strings.Join(words, ", ")
}

func (b *bench) end(id, fault string) string {
	b.t.Helper()
	token, ok := b.under[id]
	if !ok {
		b.t.Fatalf("nothing is under way with %s", id)
	}
	delete(b.under, id)
	return b.do(Event{Kind: EvDone, Token: token, Fault: fault})
}

func (b *bench) pass(d time.Duration) string {
	b.t.Helper()
	b.now += d
	return b.do(Event{Kind: EvTick})
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Fatalf("at %v: %q, want %q\n%+v", b.now, got, want, b.p.Views())
	}
}

// running brings a plan up with these services.
func running(t *testing.T, ids ...string) *bench {
	t.Helper()
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps(ids...)})
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	for i, id := range ids {
		got := b.end(id, "")
		if last := i == len(ids)-1; strings.HasSuffix(got, "up") != last {
			t.Fatalf("after %s: %q", id, got)
		}
	}
	return b
}

func (b *bench) states() string {
	words := []string{}
	for _, v := range b.p.Views() {
		words = append(words, v.ID+":"+v.State.String())
	}
	return strings.Join(words, " ")
}

func TestRoleGained_StartsInOrder_RecordsFirst(t *testing.T) {
	b := newBench(t)
	b.want(b.do(Event{Kind: EvServices, Steps: testSteps("a", "vip", "c")}), "stopped")
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 1}), "record a, start a")
	b.want(b.end("a", ""), "record a+vip, start vip")
	b.want(b.end("vip", ""), "record a+vip+c, start c")
	b.want(b.end("c", ""), "up")
}

func TestStop_IsTheReverse_AndIsToldWhenAllIsStopped(t *testing.T) {
	b := running(t, "a", "vip", "c")
	b.want(b.do(Event{Kind: EvStop, On: true}), "stop c")
	b.want(b.end("c", ""), "stop vip")
	b.want(b.end("vip", ""), "stop a")
	b.want(b.end("a", ""), "record , stopped")
	b.want(b.do(Event{Kind: EvRole}), "stopped")
}

func TestStopTakenBack_StartsAgain(t *testing.T) {
	b := running(t, "a", "c")
	b.want(b.do(Event{Kind: EvStop, On: true}), "stop c")
	b.want(b.do(Event{Kind: EvStop}), "")
	b.want(b.end("c", ""), "start c")
	b.want(b.end("c", ""), "up")
}

func TestRoleLost_AddressesGoAtOnce_BesideTheReverseOrder(t *testing.T) {
	b := running(t, "vip1", "a", "vip2", "c")
	b.want(b.do(Event{Kind: EvRole}), "stop vip1, stop vip2, stop c")
	b.want(b.end("c", ""), "stop a")
	b.want(b.end("vip1", ""), "")
	b.want(b.end("a", ""), "")
	b.want(b.end("vip2", ""), "record , stopped")
}

func TestRoleLostDuringStart_IsCancelled_ThenStopped_AndIsNoFailure(t *testing.T) {
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps("a", "c")})
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	b.want(b.do(Event{Kind: EvRole}), "cancel a")
	b.want(b.end("a", "killed"), "stop a")
	b.want(b.end("a", ""), "record , stopped")
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 2}), "record a, start a")
}

func TestLeaseLost_OnlyAddressesGo_AndComeBackWithIt(t *testing.T) {
	b := running(t, "a", "vip", "c")
	b.want(b.do(Event{Kind: EvLease}), "stop vip")
	b.want(b.end("vip", ""), "")
	b.want(b.pass(time.Minute), "") // nobody looks at what waits
	b.want(b.do(Event{Kind: EvLease, On: true}), "start vip, monitor a, monitor c")
	b.want(b.end("vip", ""), "up")
}

func TestMonitorFailsWhileLeaseIsLost_IsNotCounted(t *testing.T) {
	b := running(t, "a")
	b.want(b.pass(10*sec), "monitor a")
	b.do(Event{Kind: EvLease})
	b.want(b.end("a", "hangs"), "")
	b.want(b.states(), "a:running")
}

func TestStartFails_StopsInReverse_ThenGivesUp_UntilCleared(t *testing.T) {
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps("a", "b")})
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	b.end("a", "")
	b.want(b.end("b", "exit 1"), "stop b") // what failed to start may run
	b.want(b.end("b", ""), "stop a")
	b.want(b.end("a", ""), "record , give-up, stopped")
	b.want(b.pass(time.Hour), "")
	if got, want := b.p.Halted(), "the start of b failed: exit 1"; got != want {
		t.Errorf("halted because %q, want %q", got, want)
	}
	b.want(b.do(Event{Kind: EvRole}), "stopped")
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 2}), "stopped")
	b.want(b.do(Event{Kind: EvClear}), "record a, start a")
}

func TestStartTimesOut_IsCancelled_AndFails(t *testing.T) {
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps("a")})
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	b.want(b.pass(20*sec), "cancel a")
	b.want(b.end("a", "killed"), "stop a")
	b.want(b.end("a", ""), "record , give-up, stopped")
}

func TestStartHangs_Fences_UntilItEnds(t *testing.T) {
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps("a")})
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	b.want(b.pass(20*sec), "cancel a")
	b.want(b.pass(5*sec), "fence true")
	b.want(b.pass(time.Hour), "")
	b.want(b.end("a", ""), "stop a, fence false")
	b.want(b.end("a", ""), "record , give-up, stopped")
}

func TestStopFails_Fences_AndIsTriedAgain(t *testing.T) {
	b := running(t, "a", "c")
	b.do(Event{Kind: EvStop, On: true})
	b.want(b.end("c", "busy"), "fence true")
	b.want(b.states(), "a:running c:stuck")
	b.want(b.pass(9*sec), "")
	b.want(b.pass(sec), "stop c")
	b.want(b.end("c", ""), "stop a, fence false")
}

func TestStopHangs_Fences_AndARetryHasADeadlineToo(t *testing.T) {
	b := running(t, "a")
	b.do(Event{Kind: EvStop, On: true})
	b.want(b.pass(20*sec), "cancel a")
	b.want(b.end("a", "killed"), "fence true")
	b.want(b.pass(10*sec), "stop a")
	b.want(b.pass(20*sec), "cancel a")
	b.want(b.pass(5*sec), "")
	b.want(b.pass(time.Hour), "")
	b.want(b.end("a", ""), "fence false, record , stopped")
}

func TestMonitorFails_RestartsItAndWhatComesAfter_ThenGivesUp(t *testing.T) {
	b := running(t, "a", "b", "c")
	for range DefaultConfig().MaxFailures {
		b.pass(10 * sec)
		b.end("a", "")
		b.want(b.end("b", "exit 7"), "cancel c")
		b.want(b.end("c", "killed"), "stop c")
		b.want(b.end("c", ""), "stop b")
		b.want(b.end("b", ""), "record a+b, start b")
		b.want(b.end("b", ""), "record a+b+c, start c")
		b.want(b.end("c", ""), "up")
	}
	b.pass(10 * sec)
	b.want(b.end("b", "exit 7"), "cancel c")
	b.end("c", "killed")
	b.end("c", "")
	b.want(b.end("b", ""), "cancel a")
	b.end("a", "killed")
	b.want(b.end("a", ""), "record , give-up, stopped")
}

func TestOldMonitorFailures_AreForgotten(t *testing.T) {
	b := running(t, "a")
	for range 5 {
		b.want(b.pass(10*time.Minute), "monitor a")
		b.want(b.end("a", "exit 7"), "stop a")
		b.want(b.end("a", ""), "start a")
		b.want(b.end("a", ""), "up")
	}
}

func TestLeftover_IsStoppedFirst_EvenByAPrimary(t *testing.T) {
	b := newBench(t, "a", "vip")
	b.want(b.do(Event{Kind: EvServices, Steps: testSteps("a", "vip")}), "stop vip, stop a")
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 3}), "")
	b.want(b.end("a", ""), "")
	b.want(b.end("vip", ""), "record a, start a")
}

func TestServicesAdded_StartWithoutStoppingOthers(t *testing.T) {
	b := running(t, "a", "c")
	b.want(b.do(Event{Kind: EvServices, Steps: testSteps("a", "b", "c", "d")}), "record a+b+c, start b")
	b.want(b.end("b", ""), "record a+b+c+d, start d")
	b.want(b.end("d", ""), "up")
}

func TestServicesChanged_WhatStandsOnItIsStoppedFirst(t *testing.T) {
	b := running(t, "a", "b", "c")
	b.want(b.do(Event{Kind: EvServices, Steps: testSteps("a", "x", "c")}), "stop c")
	b.want(b.end("c", ""), "stop b")
	b.want(b.end("b", ""), "record a+x, start x")
	b.want(b.end("x", ""), "record a+x+c, start c")
	b.want(b.end("c", ""), "up")
}

func TestServicesCleared_AreStopped(t *testing.T) {
	b := running(t, "a", "b")
	b.want(b.do(Event{Kind: EvServices}), "stop b")
	b.want(b.end("b", ""), "stop a")
	b.want(b.end("a", ""), "up")
}

func TestNewEpochWhileRunning_RestartsAll(t *testing.T) {
	b := running(t, "a", "b")
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 5}), "stop b")
	b.want(b.end("b", ""), "stop a")
	b.want(b.end("a", ""), "record a, start a")
}

func TestHalt_KeepsAnIdlePlanFromStarting_AndLeavesOneThatRuns(t *testing.T) {
	b := newBench(t)
	b.do(Event{Kind: EvServices, Steps: testSteps("a")})
	b.do(Event{Kind: EvHalt, Fault: "failed yesterday"})
	b.want(b.do(Event{Kind: EvRole, On: true, Epoch: 1}), "stopped")
	r := running(t, "a")
	r.want(r.do(Event{Kind: EvHalt, Fault: "failed yesterday"}), "")
}

func TestStopBudget_CoversEveryStepThatMayRun(t *testing.T) {
	b := running(t, "a", "b")
	if got, want := b.p.StopBudget(), 2*(20+5)*sec; got != want {
		t.Errorf("budget %v, want %v", got, want)
	}
	b.pass(10 * sec) // both are looked at
	if got, want := b.p.StopBudget(), 2*(20+5+5)*sec; got != want {
		t.Errorf("budget %v, want %v", got, want)
	}
}

func TestEnums_HaveNames(t *testing.T) {
	seen := []string{}
	for k := range stateEnd {
		seen = append(seen, k.String())
	}
	for k := range eventEnd {
		seen = append(seen, "ev "+k.String())
	}
	for k := range actionEnd {
		seen = append(seen, "act "+k.String())
	}
	slices.Sort(seen)
	for i, s := range seen {
		if strings.Contains(s, "(") || strings.HasSuffix(s, " ") || s == "" || i > 0 && s == seen[i-1] {
			t.Errorf("name %q", s)
		}
	}
}

func TestSince_IsWhenItCameAbout(t *testing.T) {
	since := func(b *bench) string {
		words := []string{}
		for _, v := range b.p.Views() {
			words = append(words, fmt.Sprintf("%s:%v", v.ID, v.Since))
		}
		return strings.Join(words, " ")
	}
	b := newBench(t, "left") // the clock has run for long
	b.now = 1000 * sec
	b.want(b.do(Event{Kind: EvServices, Steps: testSteps("left", "a")}), "stop left")
	b.want(since(b), "left:16m40s")
	b.now += sec
	b.want(b.end("left", ""), "record , stopped")
	b.want(since(b), "left:16m41s a:16m41s")
	b.now += sec
	b.do(Event{Kind: EvServices, Steps: testSteps("left", "a", "c")})
	b.want(since(b), "left:16m41s a:16m41s c:16m42s")
	b.now += sec
	b.do(Event{Kind: EvRole, On: true, Epoch: 1})
	b.want(since(b), "left:16m43s a:16m41s c:16m42s")
}
