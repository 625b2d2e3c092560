package fencing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a Device that does as it is told.
type fake struct {
	name string
	off  func(ctx context.Context, t Target) (Answer, error)
	on   bool // it needs On
	self bool // ... by the node itself

	mu    sync.Mutex
	shots []Target
	ons   int
	busy  int
	most  int // calls of Off at the same time
}

func (f *fake) Name() string { return f.name }

func (f *fake) Off(ctx context.Context, t Target) (Answer, error) {
	f.mu.Lock()
	f.shots = append(f.shots, t)
	f.busy++
	f.most = max(f.most, f.busy)
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.busy--; f.mu.Unlock() }()
	return f.off(ctx, t)
}

func (f *fake) On(context.Context, Target) (Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ons++
	return Answer{Power: PowerOn, Text: "on"}, nil
}

func (f *fake) Status(context.Context, Target) (Answer, error)  { return Answer{}, nil }
func (f *fake) Monitor(context.Context, Target) (Answer, error) { return Answer{}, nil }
func (f *fake) NeedsOn(context.Context) (bool, bool, error)     { return f.on, f.self, nil }
func (f *fake) Check(context.Context, Target) []Finding         { return nil }

func works(context.Context, Target) (Answer, error) {
	return Answer{Power: PowerOff, Text: "it is off"}, nil
}

func fails(context.Context, Target) (Answer, error) {
	return Answer{Output: "no"}, fmt.Errorf("%w: it is on", ErrUnproven)
}

// hangs answers when its time is over, as a program that is killed does.
func hangs(ctx context.Context, _ Target) (Answer, error) {
	<-ctx.Done()
	return Answer{}, context.Cause(ctx)
}

// takes works after a while.
func takes(d time.Duration) func(context.Context, Target) (Answer, error) {
	return func(ctx context.Context, t Target) (Answer, error) {
		select {
		case <-time.After(d):
			return works(ctx, t)
		case <-ctx.Done():
			return Answer{}, context.Cause(ctx)
		}
	}
}

// fencerOf makes a Fencer of node n1 with levels for n2. Each device is tried twice.
func fencerOf(t testing.TB, levels [][]string, devices ...*fake) *Fencer {
	t.Helper()
	members := map[string]member{}
	cfg := Config{Node: "n1", Nodes: []NodeConfig{{Node: "n2", Levels: levels}}}
	for _, d := range devices {
		members[d.name] = member{dev: d, tries: 2}
	}
	return newFencer(cfg.withDefaults(), members)
}

var shootN2 = Request{Target: n2}

// tried tells the attempts as "device/level/try" with a minus where it failed.
func tried(attempts []Attempt) string {
	var out []string
	for _, a := range attempts {
		s := fmt.Sprintf("%s/%d/%d", a.Device, a.Level, a.Try)
		if a.Failure != "" {
			s += "-"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestFence_LevelsAreTriedInOrderAndNeedAllTheirDevices(t *testing.T) {
	kinds := map[byte]func(context.Context, Target) (Answer, error){'y': works, 'n': fails, 'h': hangs,
		'l': func(context.Context, Target) (Answer, error) { return Answer{Power: PowerUnknown}, nil }}
	for _, tc := range []struct {
		levels [][]string // the first letter says what the device does
		want   string
		proof  string // "": none
	}{
		{[][]string{{"y1"}}, "y1/1/1", "y1: it is off"},
		{[][]string{{"n1"}}, "n1/1/1- n1/1/2-", ""},
		{[][]string{{"l1"}}, "l1/1/1- l1/1/2-", ""}, // no error, and yet not off
		{[][]string{{"y1", "y2"}}, "y1/1/1 y2/1/1", "y1: it is off; y2: it is off"},
		{[][]string{{"y1", "n1"}}, "y1/1/1 n1/1/1- n1/1/2-", ""},
		{[][]string{{"n1", "y1"}}, "n1/1/1- n1/1/2-", ""},
		{[][]string{{"n1"}, {"y1"}}, "n1/1/1- n1/1/2- y1/2/1", "y1: it is off"},
		{[][]string{{"y1", "n1"}, {"y1", "y2"}}, "y1/1/1 n1/1/1- n1/1/2- y1/2/1 y2/2/1", "y1: it is off; y2: it is off"},
		{[][]string{{"y1", "n1"}, {"n1", "y1"}}, "y1/1/1 n1/1/1- n1/1/2- n1/2/1- n1/2/2-", ""},
		{[][]string{{"y1"}, {"y2"}}, "y1/1/1", "y1: it is off"},
		{[][]string{{"h1"}, {"y1"}}, "h1/1/1- y1/2/1", "y1: it is off"}, // its level's time is over
		{[][]string{{"h1"}}, "h1/1/1-", ""},
	} {
		t.Run(fmt.Sprint(tc.levels), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var devices []*fake
				for _, level := range tc.levels {
					for _, name := range level {
						devices = append(devices, &fake{name: name, off: kinds[name[0]]})
					}
				}
				f := fencerOf(t, tc.levels, devices...)
				r := f.Fence(t.Context(), shootN2)
				if got := tried(r.Attempts); got != tc.want {
					t.Errorf("tried %s, want %s", got, tc.want)
				}
				if (r.Proof != nil) != (tc.proof != "") || (r.Proof == nil) != (r.Err != nil) {
					t.Fatalf("proof %+v, err %v", r.Proof, r.Err)
				}
				if p := r.Proof; p != nil && (p.Text != tc.proof || p.Node != "n2" || p.Boot != "boot-2" || !p.At.Equal(time.Now())) {
					t.Errorf("proof %+v", p)
				}
				if timedOut := strings.Contains(tc.want, "h1") && tc.proof == ""; errors.Is(r.Err, ErrTimeout) != timedOut {
					t.Errorf("timed out: %v", r.Err)
				}
				if !slices.EqualFunc(f.History(), r.Attempts, func(a, b Attempt) bool { return a == b }) {
					t.Errorf("history %v", f.History())
				}
			})
		})
	}
}

func TestFence_ADeviceThatHangsLeavesTheNextLevelItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fencerOf(t, [][]string{{"h"}, {"h2"}, {"slow"}},
			&fake{name: "h", off: hangs}, &fake{name: "h2", off: hangs}, &fake{name: "slow", off: takes(16 * time.Second)})
		begun := time.Now()
		if r := f.Fence(t.Context(), shootN2); r.Proof == nil {
			t.Fatal(r.Err)
		}
		third := DefaultConfig().Limit / 3
		if took := time.Since(begun); took < 2*third || took > 2*third+17*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestFence_EndsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fencerOf(t, [][]string{{"slow"}}, &fake{name: "slow", off: takes(time.Hour)})
		begun := time.Now()
		r := f.Fence(t.Context(), shootN2)
		if !errors.Is(r.Err, ErrTimeout) || r.Proof != nil || time.Since(begun) != DefaultConfig().Limit {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
	})
}

func TestFence_WhatCannotBeFencedIsRefused(t *testing.T) {
	dev := &fake{name: "d", off: works}
	f := fencerOf(t, [][]string{{"d"}}, dev)
	for _, tc := range []struct {
		target Target
		want   error
	}{
		{Target{Node: "n1", Boot: "b"}, ErrSelf},
		{Target{Node: "n3", Boot: "b"}, ErrNoDevice},
		{Target{Node: "n2"}, ErrUnproven},
		{Target{Boot: "b"}, ErrUnproven},
	} {
		if r := f.Fence(t.Context(), Request{Target: tc.target}); !errors.Is(r.Err, tc.want) || r.Proof != nil {
			t.Errorf("%+v: %+v", tc.target, r)
		}
	}
	if len(dev.shots) != 0 {
		t.Error("it fired")
	}
	if !f.CanFence("n2") || f.CanFence("n1") || f.CanFence("n3") {
		t.Error("CanFence is wrong")
	}
}

func TestFence_DelayIsWaitedBeforeAnythingIsFired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at time.Time
		dev := &fake{name: "d", off: func(ctx context.Context, tg Target) (Answer, error) { at = time.Now(); return works(ctx, tg) }}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		f.cfg.Random = func(max time.Duration) time.Duration { return max / 2 }
		req := shootN2
		req.Delay, req.Jitter = 3*time.Second, 4*time.Second
		asked := 0
		req.Still = func(context.Context) error { asked++; return nil }
		begun := time.Now()
		if r := f.Fence(t.Context(), req); r.Proof == nil {
			t.Fatal(r.Err)
		}
		if at.Sub(begun) != 5*time.Second || asked != 1 {
			t.Errorf("fired after %v, asked %d times", at.Sub(begun), asked)
		}
	})
}

func TestFence_AnOrderTakenBackDuringTheDelayFiresNothing(t *testing.T) {
	gone := errors.New("n2 was unfenced")
	for name, change := range map[string]func(*Request, context.CancelFunc){
		"by the order":   func(r *Request, _ context.CancelFunc) { r.Still = func(context.Context) error { return gone } },
		"by the context": func(_ *Request, cancel context.CancelFunc) { time.AfterFunc(time.Second, cancel) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := &fake{name: "d", off: works}
				f := fencerOf(t, [][]string{{"d"}}, dev)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req := shootN2
				req.Delay = 2 * time.Second
				change(&req, cancel)
				r := f.Fence(ctx, req)
				if !errors.Is(r.Err, ErrWithdrawn) || r.Proof != nil || len(dev.shots) != 0 {
					t.Errorf("%+v, %d shots", r, len(dev.shots))
				}
			})
		})
	}
}

func TestFence_ASecondRequestForTheSameBootJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(5 * time.Second)}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		var wg sync.WaitGroup
		results := make([]Result, 10)
		for i := range results {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				results[i] = f.Fence(t.Context(), shootN2)
			})
		}
		wg.Wait()
		joined := 0
		for _, r := range results {
			if r.Proof == nil || r.Proof.Boot != "boot-2" || len(r.Attempts) != 1 {
				t.Errorf("%+v", r)
			}
			if r.Joined {
				joined++
			}
		}
		if len(dev.shots) != 1 || joined != 9 {
			t.Errorf("%d shots, %d joined", len(dev.shots), joined)
		}
		if r := f.Fence(t.Context(), shootN2); r.Joined || len(dev.shots) != 2 {
			t.Error("a shot that has ended was joined: its proof is of another time")
		}
	})
}

func TestFence_AnotherBootWaitsForTheShotUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(5 * time.Second)}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		other := shootN2
		other.Boot = "boot-3"
		var wg sync.WaitGroup
		for _, req := range []Request{shootN2, other} {
			wg.Go(func() {
				if r := f.Fence(t.Context(), req); r.Proof == nil || r.Proof.Boot != req.Boot {
					t.Errorf("%+v", r)
				}
			})
		}
		wg.Wait()
		if len(dev.shots) != 2 || dev.most != 1 {
			t.Errorf("%d shots, %d at once", len(dev.shots), dev.most)
		}
	})
}

func TestFence_WhoWaitsForAnotherBootCanGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(5 * time.Second)}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		var wg sync.WaitGroup
		wg.Go(func() { f.Fence(t.Context(), shootN2) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := shootN2
		other.Boot = "boot-3"
		if r := f.Fence(ctx, other); !errors.Is(r.Err, ErrBusy) || r.Proof != nil {
			t.Errorf("%+v", r)
		}
		wg.Wait()
		if len(dev.shots) != 1 {
			t.Errorf("%d shots", len(dev.shots))
		}
	})
}

func TestFence_TheShotGoesOnWhileSomebodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(5 * time.Second)}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if r := f.Fence(ctx, shootN2); r.Proof != nil || !errors.Is(r.Err, context.DeadlineExceeded) {
				t.Errorf("who left: %+v", r)
			}
		})
		synctest.Wait()
		if r := f.Fence(t.Context(), shootN2); r.Proof == nil || !r.Joined {
			t.Errorf("who stayed: %+v", r)
		}
		wg.Wait()
	})
}

func TestFence_TheShotEndsWithTheLastWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(20 * time.Second)}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		begun := time.Now()
		var wg sync.WaitGroup
		for _, d := range []time.Duration{time.Second, 2 * time.Second} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				if r := f.Fence(ctx, shootN2); r.Proof != nil || r.Err == nil {
					t.Errorf("%+v", r)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took != 2*time.Second || dev.busy != 0 {
			t.Errorf("after %v %d shots are under way", took, dev.busy)
		}
		dev.off = works
		if r := f.Fence(t.Context(), shootN2); r.Proof == nil || r.Joined {
			t.Errorf("the next one: %+v", r)
		}
	})
}

func TestHistory_IsBoundedAndOnThePassedClock(t *testing.T) {
	f := fencerOf(t, [][]string{{"d"}}, &fake{name: "d", off: fails})
	now := time.Unix(1000, 0)
	f.cfg.Now = func() time.Time { now = now.Add(time.Second); return now }
	f.history.limit = 5
	for range 10 {
		f.Fence(t.Context(), shootN2)
	}
	list := f.History()
	if len(list) != 5 {
		t.Fatalf("%d attempts", len(list))
	}
	for i, a := range list {
		if a.Ended.Sub(a.Begun) != time.Second || i > 0 && !a.Begun.After(list[i-1].Ended) {
			t.Errorf("times of %+v", a)
		}
		if a.Node != "n2" || a.Boot != "boot-2" || a.Resource != "r0" || a.Reason != "it is silent" || a.Output != "no" || a.Failure == "" || a.Action != "off" {
			t.Errorf("%+v", a)
		}
	}
}

// fencerFor makes a Fencer of n1 with one agent whose cases are given, and a hook that says exit.
func fencerFor(t testing.TB, cases string, exit int, levels [][]string) *Fencer {
	t.Helper()
	path, dir := script(t, xmlOf(usualActions, []string{"port"}), cases)
	hookPath := write(t, dir, "hook", fmt.Sprintf("#!/bin/sh\nexit %d\n", exit), 0o755)
	f, err := New(Config{Node: "n1",
		Devices: []DeviceConfig{{Name: "agent", Agent: path, Retries: 1}, {Name: "hook", Exec: hookPath}, {Name: "dog", Watchdog: true, Retries: 5}},
		Nodes:   []NodeConfig{{Node: "n2", Levels: levels}}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFence_WithRealProgramsFallsBackLevelByLevel(t *testing.T) {
	f := fencerFor(t, "off) echo busy; exit 1;;", 0, [][]string{{"agent"}, {"dog"}, {"hook"}})
	r := f.Fence(t.Context(), shootN2)
	if r.Proof == nil || tried(r.Attempts) != "agent/1/1- agent/1/2- dog/2/1- hook/3/1" {
		t.Errorf("%+v", r)
	}
	if r.Attempts[0].Output != "busy" || !strings.Contains(r.Attempts[2].Failure, "no armed watchdog") {
		t.Errorf("%+v", r.Attempts)
	}
}

func TestFence_ManyAtOnceWithRealProgramsLeaveNothingBehind(t *testing.T) {
	path, dir := script(t, xmlOf(usualActions, []string{"port"}),
		`off) port=$(printf '%s\n' "$told" | sed -n 's/^port=//p'); sleep 1000 & echo $! >"$dir/child.$port"; [ $port = n2 ] && exit 0; wait;; status) exit 2;;`)
	cfg := Config{Node: "n1", Limit: patience, Devices: []DeviceConfig{{Name: "d", Agent: path, Timeout: 2 * time.Second}}}
	for _, n := range []string{"n2", "n3", "n4"} {
		cfg.Nodes = append(cfg.Nodes, NodeConfig{Node: n, Levels: [][]string{{"d"}}})
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, n := range []string{"n2", "n3", "n4"} {
		for range 3 {
			wg.Go(func() {
				r := f.Fence(t.Context(), Request{Target: Target{Node: n, Boot: "b"}})
				if (r.Proof != nil) != (n == "n2") || n != "n2" && !errors.Is(r.Err, ErrTimeout) {
					t.Errorf("%s: %+v", n, r)
				}
			})
		}
	}
	wg.Wait()
	for _, n := range []string{"n2", "n3", "n4"} {
		awaitGone(t, dir+"/child."+n)
	}
	if _, err := os.Stat(dir + "/told.on"); err == nil {
		t.Error("something was turned on")
	}
}

func TestFence_AShotThatIsEndingIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d"}
		dev.off = func(ctx context.Context, tg Target) (Answer, error) {
			if len(dev.shots) > 1 {
				return works(ctx, tg)
			}
			<-ctx.Done()
			time.Sleep(time.Second) // a program that takes its time to die
			return Answer{}, context.Cause(ctx)
		}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { f.Fence(ctx, shootN2) })
		time.Sleep(1500 * time.Millisecond)
		if r := f.Fence(t.Context(), shootN2); r.Proof == nil || r.Joined {
			t.Errorf("%+v", r)
		}
		wg.Wait()
	})
}
