package fencing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Report is what Test found out about one node.
type Report struct {
	Node     string
	Findings []Finding // by level and device
	// Works says that at least one level has no fault. Nothing was fired, so it is as good a word as
	// can be had without that.
	Works bool
}

// Test finds out whether a fence of the target would work, without firing: it asks every device of the
// node's levels what it can be asked. Run it while the node is on. The target's Boot and Armed matter for a
// watchdog alone.
func (f *Fencer) Test(ctx context.Context, t Target) Report {
	r := Report{Node: t.Node}
	levels := f.levels[t.Node]
	switch {
	case t.Node == f.cfg.Node:
		r.Findings = append(r.Findings, Finding{Severity: Fault, Text: "this is " + t.Node + " itself: ask another node, which would fire"})
		return r
	case len(levels) == 0:
		r.Findings = append(r.Findings, Finding{Severity: Fault, Text: fmt.Sprintf("%v %s: name its devices in [fencing]", ErrNoDevice, t.Node)})
		return r
	}
	asked := map[string]bool{} // names of devices whose findings are there: true if without a fault
	for i, level := range levels {
		works := true
		share := f.cfg.Limit / time.Duration(len(levels))
		for _, name := range level {
			if _, done := asked[name]; !done {
				found := f.checkDevice(ctx, t, name, share)
				asked[name] = !slices.ContainsFunc(found, func(x Finding) bool { return x.Severity == Fault })
				r.Findings = append(r.Findings, found...)
			}
			works = works && asked[name]
		}
		if works {
			r.Works = true
		} else {
			r.Findings = append(r.Findings, Finding{Severity: Warning, Text: fmt.Sprintf("level %d cannot prove that %s is off", i+1, t.Node)})
		}
	}
	if !r.Works {
		r.Findings = append(r.Findings, Finding{Severity: Fault, Text: "no level works: nothing would prove that " + t.Node + " is off"})
	}
	return r
}

// checkDevice asks one device, and compares its time limits with the share that a level has.
func (f *Fencer) checkDevice(ctx context.Context, t Target, name string, share time.Duration) []Finding {
	m := f.members[name]
	found := m.dev.Check(ctx, t)
	if _, isWatchdog := m.dev.(*expiry); isWatchdog {
		if t.Armed != nil && t.Armed.Wait(f.cfg.Margin) > f.cfg.Limit {
			found = append(found, Finding{Device: name, Severity: Fault, Text: fmt.Sprintf(
				"its wait of %v is longer than a fence may take (limit = %v)", t.Armed.Wait(f.cfg.Margin), f.cfg.Limit)})
		}
		return found
	}
	if _, isAgent := m.dev.(*agent); isAgent && 2*m.timeout > share {
		found = append(found, Finding{Device: name, Severity: Warning, Text: fmt.Sprintf(
			"off and status may take %v each, and its level has %v: a slow device is cut short; lower timeout or raise limit", m.timeout, share)})
	}
	return found
}

// Unfence lets a node back that was turned off by devices that hold it off until they are told: it runs
// On of each device of the node that needs it. A device that has to be told by the node itself is
// skipped elsewhere, and told when that node unfences itself. It is refused with ErrBusy while a fence of
// the node is under way: what one has turned off the other must not turn on.
func (f *Fencer) Unfence(ctx context.Context, t Target) ([]Attempt, error) {
	f.mu.Lock()
	if f.running[t.Node] != nil {
		f.mu.Unlock()
		return nil, fmt.Errorf("%w of %s", ErrBusy, t.Node)
	}
	s := &shot{done: make(chan struct{}), cancel: func() {}}
	f.running[t.Node] = s
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.running, t.Node)
		f.mu.Unlock()
		close(s.done)
	}()
	var attempts []Attempt
	var failures []error
	done := map[string]bool{}
	for i, level := range f.levels[t.Node] {
		for _, name := range level {
			if done[name] {
				continue
			}
			done[name] = true
			a, ran, err := f.unfenceBy(ctx, t, i+1, name)
			if ran {
				attempts = append(attempts, a)
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("device %s: %w", name, err))
			}
		}
	}
	return attempts, errors.Join(failures...)
}

func (f *Fencer) unfenceBy(ctx context.Context, t Target, level int, name string) (a Attempt, ran bool, err error) {
	dev := f.members[name].dev
	needed, onTarget, err := dev.NeedsOn(ctx)
	if err != nil {
		return a, false, err
	}
	if !needed || onTarget && t.Node != f.cfg.Node {
		return a, false, nil
	}
	a = Attempt{Node: t.Node, Boot: t.Boot, Resource: t.Resource, Reason: t.Reason,
		Device: name, Level: level, Try: 1, Action: "on", Begun: f.cfg.Now()}
	ans, err := dev.On(ctx, t)
	return f.record(a, ans, err), true, err
}
