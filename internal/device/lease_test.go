package device

import (
	"testing"
	"time"
)

func TestLeaseHeld_ReadsTheClockAtTheMomentItIsAsked(t *testing.T) {
	now := time.Second
	r := newRig(t, Config{}, Deps{Clock: func() time.Duration { return now }})
	r.core.serving, r.core.lease = true, 2*time.Second
	if !r.d.LeaseHeld() {
		t.Error("a primary inside its lease is not taken for one")
	}
	// No event reaches the core between: it would still admit requests, to hold them.
	now = 2 * time.Second
	if r.d.LeaseHeld() || !r.d.Serving() {
		t.Errorf("after its lease: lease held %v, serving %v", r.d.LeaseHeld(), r.d.Serving())
	}
	now, r.core.serving = time.Second, false
	if r.d.LeaseHeld() {
		t.Error("a secondary holds a lease")
	}
	r.core.serving = true
	r.d.refuseWork()
	if r.d.LeaseHeld() {
		t.Error("a device that is closed holds a lease")
	}
}
