package fencing

import (
	"context"
	"fmt"
	"time"
)

// grain is how coarse a hardware timer is: they count whole seconds.
const grain = time.Second

// expiry waits until the target's own watchdog has fired. The package comment says when that is a proof.
type expiry struct {
	name   string
	margin int // percent of the whole wait, for clocks that differ in rate
}

func (e *expiry) Name() string { return e.name }

// Wait returns how long after the fence was recorded a machine with that watchdog is reset for certain:
// one lease until the last decision to pet, one timeout by which that pet can be late, one until
// the timer fires.
func (a Armed) Wait(marginPercent int) time.Duration {
	d := a.Lease + 2*a.Timeout
	return d + d*time.Duration(marginPercent)/100 + grain
}

// covers returns an error unless the declaration is about the target's boot and says how long.
func (e *expiry) covers(t Target) error {
	switch a := t.Armed; {
	case a == nil:
		return fmt.Errorf("%w by %s", ErrNotArmed, t.Node)
	case t.Boot == "" || a.Boot != t.Boot:
		return fmt.Errorf("%w for boot %s of %s: the declaration is about boot %s", ErrNotArmed, t.Boot, t.Node, a.Boot)
	case a.Timeout <= 0 || a.Lease <= 0 || a.Timeout > maxArmed || a.Lease > maxArmed:
		return fmt.Errorf("%w: %s declares a timeout of %v and a lease of %v", ErrNotArmed, t.Node, a.Timeout, a.Lease)
	}
	return nil
}

// maxArmed is the longest timeout and lease that are believed; longer ones would overflow nothing, but
// nobody means them.
const maxArmed = time.Hour

// Off waits. It counts from when the fence was asked for here, which is after the request was applied.
// The clock behind timers stops while this host sleeps, which only makes the wait longer.
func (e *expiry) Off(ctx context.Context, t Target) (Answer, error) {
	if err := e.covers(t); err != nil {
		return Answer{}, err
	}
	wait := t.Armed.Wait(e.margin)
	left := wait
	if !t.asked.IsZero() {
		left -= time.Since(t.asked)
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("the watchdog of %s has fired for certain only after %v: %w", t.Node, wait, context.Cause(ctx))
	}
	return Answer{Power: PowerOff, Text: fmt.Sprintf("its lease (%v) and its watchdog (%v) have run out: %v were waited in all",
		t.Armed.Lease, t.Armed.Timeout, wait)}, nil
}

// On does nothing: a machine that was reset starts by itself.
func (e *expiry) On(context.Context, Target) (Answer, error) {
	return Answer{}, fmt.Errorf("%w: a watchdog turns nothing on", ErrUnsupported)
}

// Status cannot be asked of a node that is cut off.
func (e *expiry) Status(context.Context, Target) (Answer, error) {
	return Answer{}, fmt.Errorf("%w: a watchdog cannot be asked from outside", ErrUnsupported)
}

func (e *expiry) Monitor(_ context.Context, t Target) (Answer, error) {
	if err := e.covers(t); err != nil {
		return Answer{}, err
	}
	return Answer{Text: "the watchdog is declared"}, nil
}

func (e *expiry) NeedsOn(context.Context) (needed, onTarget bool, err error) {
	return false, false, nil
}

func (e *expiry) Check(_ context.Context, t Target) []Finding {
	f := &findings{device: e.name}
	if err := e.covers(t); err != nil {
		f.add(Fault, "%v", err)
		return f.list
	}
	f.add(Good, "%s armed its watchdog with %v; it counts as off %v after the fence was recorded", t.Node, t.Armed.Timeout, t.Armed.Wait(e.margin))
	return f.list
}
