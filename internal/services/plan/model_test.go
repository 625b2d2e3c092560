package plan

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world carries out what a Plan says, with services that fail and hang as rapid likes, and holds it to
// what must be true whatever happens.
type world struct {
	t    *rapid.T
	p    *Plan
	now  time.Duration
	want []string

	primary, lease bool
	runs           map[string]bool // may run: started, or a start or stop of it failed
	under          map[uint64]task
	recorded       []string
	fenced         bool
	gaveUp         int
}

type task struct {
	id   string
	kind ActionKind
}

func (w *world) step(ev Event) {
	ev.Now = w.now
	for _, a := range w.p.Step(ev, nil) {
		w.act(a)
	}
	stuck := false
	for _, v := range w.p.Views() {
		stuck = stuck || v.State == Stuck
	}
	if stuck != w.fenced {
		w.t.Fatalf("stuck %v, fenced %v: %+v", stuck, w.fenced, w.p.Views())
	}
	if !w.primary {
		for id := range w.runs {
			if testStep(id).Urgent && !w.ending(id) && !w.fenced {
				w.t.Fatalf("%s runs without the role, and nobody stops it: %+v", id, w.p.Views())
			}
		}
	}
}

// ending reports whether a stop of id, or what comes before one, is under way.
func (w *world) ending(id string) bool {
	for _, u := range w.under {
		if u.id == id {
			return true
		}
	}
	return false
}

func (w *world) act(a Action) {
	switch a.Kind {
	case ActRecord:
		w.recorded = a.IDs
		for id := range w.runs {
			if !slices.Contains(a.IDs, id) {
				w.t.Fatalf("%s may run and is not recorded: %v", id, a.IDs)
			}
		}
	case ActStart, ActStop, ActMonitor:
		if w.ending(a.ID) {
			w.t.Fatalf("%s of %s beside another operation of it", a.Kind, a.ID)
		}
		if a.Kind == ActStart {
			w.started(a.ID)
		}
		if a.Kind == ActMonitor && !w.runs[a.ID] {
			w.t.Fatalf("monitor of %s, which does not run", a.ID)
		}
		w.under[a.Token] = task{a.ID, a.Kind}
	case ActCancel:
		if _, ok := w.under[a.Token]; !ok {
			w.t.Fatalf("cancel of %d, which is not under way", a.Token)
		}
	case ActStopped:
		if len(w.runs) > 0 || len(w.under) > 0 {
			w.t.Fatalf("stopped, and these may run: %v, %v", w.runs, w.under)
		}
	case ActUp:
		for _, id := range w.want {
			if !w.runs[id] {
				w.t.Fatalf("up without %s", id)
			}
		}
	case ActGiveUp:
		w.gaveUp++
		if len(w.runs) > 0 {
			w.t.Fatalf("gives up while these may run: %v", w.runs)
		}
	case ActFence:
		w.fenced = a.On
	}
}

func (w *world) started(id string) {
	if !w.primary {
		w.t.Fatalf("start of %s without the role", id)
	}
	if !slices.Contains(w.recorded, id) {
		w.t.Fatalf("start of %s, which is not recorded: %v", id, w.recorded)
	}
	if testStep(id).Urgent && !w.lease {
		w.t.Fatalf("start of %s without the lease", id)
	}
	for _, u := range w.under {
		if u.kind == ActStop && !testStep(u.id).Urgent {
			w.t.Fatalf("start of %s while %s is being stopped", id, u.id)
		}
	}
	for _, before := range w.want[:slices.Index(w.want, id)] {
		if !w.runs[before] && (w.lease || !testStep(before).Urgent) {
			w.t.Fatalf("start of %s before %s", id, before)
		}
	}
	w.runs[id] = true
}

// end ends an operation, well or not.
func (w *world) end(token uint64, ok bool) {
	u := w.under[token]
	delete(w.under, token)
	if ok && u.kind == ActStop {
		delete(w.runs, u.id)
	}
	fault := ""
	if !ok {
		fault = "it failed"
	}
	w.step(Event{Kind: EvDone, Token: token, Fault: fault})
}

func (w *world) oldest() uint64 {
	var all []uint64
	for token := range w.under {
		all = append(all, token)
	}
	slices.Sort(all)
	return all[0]
}

// settle lets everything succeed until nothing happens any more.
func (w *world) settle() {
	for range 500 {
		for len(w.under) > 0 {
			w.end(w.oldest(), true)
		}
		w.now += time.Second
		w.step(Event{Kind: EvTick})
	}
}

func TestPlan_KeepsItsPromises_WhateverFails(t *testing.T) {
	ids := []string{"a", "b", "vip1", "c", "vip2"}
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, lease: true, runs: map[string]bool{}, under: map[uint64]task{}}
		var left []Step
		for _, id := range ids {
			if rapid.Bool().Draw(t, "left "+id) {
				left = append(left, testStep(id))
				w.runs[id] = true
				w.recorded = append(w.recorded, id)
			}
		}
		w.p = New(DefaultConfig(), left)
		epoch := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"services": func(t *rapid.T) {
				w.want = slices.Clone(rapid.Permutation(ids).Draw(t, "order")[:rapid.IntRange(0, len(ids)).Draw(t, "count")])
				w.step(Event{Kind: EvServices, Steps: testSteps(w.want...)})
			},
			"promoted": func(t *rapid.T) {
				epoch += uint64(rapid.IntRange(0, 2).Draw(t, "epochs"))
				w.primary = true
				w.step(Event{Kind: EvRole, On: true, Epoch: epoch})
			},
			"demoted": func(t *rapid.T) {
				w.primary = false
				w.step(Event{Kind: EvRole})
			},
			"lease": func(t *rapid.T) {
				w.lease = rapid.Bool().Draw(t, "held")
				w.step(Event{Kind: EvLease, On: w.lease})
			},
			"stop":  func(t *rapid.T) { w.step(Event{Kind: EvStop, On: rapid.Bool().Draw(t, "on")}) },
			"clear": func(t *rapid.T) { w.step(Event{Kind: EvClear}) },
			"halt":  func(t *rapid.T) { w.step(Event{Kind: EvHalt, Fault: "it failed before"}) },
			"time": func(t *rapid.T) {
				w.now += time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second
				w.step(Event{Kind: EvTick})
			},
			"end": func(t *rapid.T) {
				if len(w.under) == 0 {
					t.Skip("nothing is under way")
				}
				w.end(w.oldest(), rapid.IntRange(0, 3).Draw(t, "luck") > 0)
			},
		})
		// When nothing fails any more, what is wanted comes about.
		w.step(Event{Kind: EvStop})
		w.step(Event{Kind: EvClear})
		w.lease, w.primary = true, true
		w.step(Event{Kind: EvLease, On: true})
		w.step(Event{Kind: EvRole, On: true, Epoch: epoch + rapid.Uint64Range(0, 1).Draw(t, "last epoch")})
		w.settle()
		w.step(Event{Kind: EvClear}) // a start that was under way before may have failed since
		w.settle()
		if w.fenced || len(w.runs) != len(w.want) {
			t.Fatalf("in the end %v run, not %v: %+v", w.runs, w.want, w.p.Views())
		}
		w.primary = false
		w.step(Event{Kind: EvRole})
		w.settle()
		if len(w.runs) > 0 || !w.p.Idle() {
			t.Fatalf("without the role, %v run: %+v", w.runs, w.p.Views())
		}
	})
}
