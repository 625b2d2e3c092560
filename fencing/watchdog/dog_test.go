package watchdog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a Timer that remembers what was done to it.
type machine struct {
	timeout time.Duration

	mu     sync.Mutex
	petErr error
	did    did
}

type did struct {
	opened   int
	pets     int
	last     time.Time // when it was started last; arming starts it, too
	disarmed bool
	left     bool
}

func (m *machine) open() (Timer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did.opened++
	m.did.last = time.Now()
	return m, nil
}

func (m *machine) Info() Info {
	return Info{Name: "machine", Timeout: m.timeout, Resets: true, Survives: true}
}

func (m *machine) Pet() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.petErr == nil {
		m.did.pets++
		m.did.last = time.Now()
	}
	return m.petErr
}

func (m *machine) Disarm() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did.disarmed = true
	return nil
}

func (m *machine) Abandon() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.did.left = true
	return nil
}

func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.petErr = err
}

// seen returns what was done once everybody waits for the clock.
func (m *machine) seen() did {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.did
}

// health is a Must that the test changes.
type health struct {
	mu  sync.Mutex
	ill error
}

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ill = err
}

func (h *health) must(time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ill
}

// rig is a Dog in a bubble, whose clock begins at 0.
type rig struct {
	*Dog
	m     *machine
	ctx   context.Context
	end   context.CancelFunc
	ended chan error
}

// walk runs f in a bubble with a Dog that start runs and stop ends.
func walk(t *testing.T, timeout time.Duration, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		m := &machine{timeout: timeout}
		r := &rig{m: m, ended: make(chan error, 1),
			Dog: New(m.open, Config{Clock: func() time.Duration { return time.Since(begun) }})}
		r.ctx, r.end = context.WithCancel(t.Context())
		defer r.end()
		f(t, r)
	})
}

func (r *rig) start() { go func() { r.ended <- r.Run(r.ctx) }() }

func (r *rig) stop() error {
	r.end()
	return <-r.ended
}

func TestDog_PetsWhileEverythingIsHealthyAndDisarmsAtTheEnd(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		d.Must("a", func(time.Duration) error { return nil })
		d.start()
		time.Sleep(time.Minute + time.Second)
		if m := d.m.seen(); m.opened != 1 || m.pets != 30 || d.Status().State != Petting || d.Status().Info.Name != "machine" {
			t.Errorf("%+v, %+v", m, d.Status())
		}
		if err := d.stop(); err != nil || !d.m.seen().disarmed || d.m.seen().left || d.Status().State != Ended {
			t.Errorf("%v, %+v", err, d.m.seen())
		}
	})
}

func TestDog_OneUnhealthyMustStopsPettingAndTheTimerStaysArmed(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		services := &health{}
		d.Must("a", func(time.Duration) error { return nil })
		d.Must("services of r0", services.must)
		d.start()
		time.Sleep(9 * time.Second)
		before := d.m.seen().pets
		services.set(errors.New("umount hangs"))
		time.Sleep(time.Minute)
		pets := d.m.seen().pets
		if s := d.Status(); pets != before || s.State != Starving || !strings.Contains(s.Reason.Error(), "services of r0: umount hangs") {
			t.Errorf("%d pets after %d, %+v", pets, before, s)
		}
		if err := d.stop(); !errors.Is(err, ErrLeftArmed) || d.m.seen().disarmed || !d.m.seen().left || d.Status().State != LeftArmed {
			t.Errorf("%v, %+v", err, d.m.seen())
		}
	})
}

func TestDog_PetsAgainWhenAllIsHealthyAgainUnlessCondemned(t *testing.T) {
	for _, condemn := range []bool{false, true} {
		walk(t, 8*time.Second, func(t *testing.T, d *rig) {
			remove := d.Must("a", func(time.Duration) error { return errors.New("ill") })
			remove()
			d.start()
			time.Sleep(3 * time.Second)
			again := d.Must("b", func(time.Duration) error { return errors.New("ill") })
			if condemn {
				d.Condemn(errors.New("a stop failed"))
				d.Condemn(errors.New("another reason"))
			}
			time.Sleep(3 * time.Second)
			again()
			before := d.m.seen().pets
			time.Sleep(time.Minute)
			if after := d.m.seen().pets; (after == before) != condemn {
				t.Errorf("condemned %v: %d pets after %d", condemn, after, before)
			}
			err := d.stop()
			if errors.Is(err, ErrLeftArmed) != condemn || condemn && !strings.Contains(err.Error(), "a stop failed") {
				t.Errorf("condemned %v: %v", condemn, err)
			}
		})
	}
}

func TestDog_AMustThatHangsStopsPetting(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		hang := make(chan struct{})
		calls := 0
		d.Must("a", func(time.Duration) error {
			if calls++; calls == 3 {
				<-hang
			}
			return nil
		})
		d.start()
		time.Sleep(time.Hour)
		if pets := d.m.seen().pets; pets != 1 {
			t.Errorf("%d pets", pets)
		}
		close(hang)
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestDog_APetThatFailsIsToldAndTriedAgain(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		d.m.fail(errors.New("EIO"))
		d.start()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := d.Status(); s.State != Starving || s.Reason == nil {
			t.Errorf("%+v", s)
		}
		d.m.fail(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := d.Status(); s.State != Petting || s.Reason != nil {
			t.Errorf("%+v", s)
		}
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A process that is started again and again on a node that is cut off must not keep the machine alive by
// opening the device.
func TestDog_OpensNothingWithoutLeave(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		p := NewPermit(300 * time.Millisecond)
		d.Must("permit", p.Healthy)
		armed := make(chan Info, 2)
		d.cfg.OnArmed = func(i Info) { armed <- i }
		d.start()
		time.Sleep(time.Minute)
		if m := d.m.seen(); m.opened != 0 || d.Status().State != Waiting {
			t.Errorf("%+v, %+v", m, d.Status())
		}
		p.Renew(d.Now())
		time.Sleep(300 * time.Millisecond)
		if m := d.m.seen(); m.opened != 1 || len(armed) != 1 || !(<-armed).Fences() {
			t.Errorf("%+v, armed %d", m, len(armed))
		}
		time.Sleep(time.Second)
		if err := d.stop(); !errors.Is(err, ErrLeftArmed) || d.m.seen().disarmed {
			t.Errorf("%v, %+v", err, d.m.seen())
		}
	})
}

func TestDog_EndsWithoutOpeningWhenItNeverWasHealthy(t *testing.T) {
	walk(t, 8*time.Second, func(t *testing.T, d *rig) {
		d.Must("a", func(time.Duration) error { return errors.New("ill") })
		d.start()
		time.Sleep(time.Second)
		if err := d.stop(); err != nil || d.m.seen() != (did{}) {
			t.Errorf("%v, %+v", err, d.m.seen())
		}
	})
}

func TestDog_ATimerThatCannotBeArmedEndsRun(t *testing.T) {
	d := New(func() (Timer, error) { return nil, ErrNoWatchdog }, Config{})
	if err := d.Run(t.Context()); !errors.Is(err, ErrNoWatchdog) {
		t.Error(err)
	}
}

// The claim that package fencing relies on: whenever leave ends, and however long the process is
// stopped between its decision and its pet, the timer has fired lease + 2 timeouts later.
func TestDog_IsDeadWithinLeaseAndTwoTimeouts(t *testing.T) {
	const timeout, lease = 8 * time.Second, 300 * time.Millisecond
	for stall := time.Duration(0); stall <= timeout; stall += 500 * time.Millisecond {
		for ends := time.Duration(0); ends < 5*time.Second; ends += 370 * time.Millisecond {
			walk(t, timeout, func(t *testing.T, d *rig) {
				p := NewPermit(lease)
				p.Renew(0)
				d.Must("permit", p.Healthy)
				last := time.Duration(-1)
				d.Must("stall", func(now time.Duration) error {
					if now >= ends && last < 0 { // the first round after leave ended is stopped once
						last = now
						time.Sleep(stall)
					}
					return nil
				})
				begun := time.Now()
				d.start()
				for at := time.Duration(0); at < ends; at += 50 * time.Millisecond {
					p.Renew(d.Now())
					time.Sleep(50 * time.Millisecond)
				}
				leave := d.Now() // nobody gives leave from here on
				time.Sleep(5 * timeout)
				if left := d.m.seen().last.Sub(begun); left+timeout > leave+lease+2*timeout {
					t.Errorf("stall %v: leave ended at %v, and the last pet was at %v", stall, leave, left)
				}
				if s := d.Status().State; s != Starving {
					t.Errorf("it is %v", s)
				}
				if err := d.stop(); !errors.Is(err, ErrLeftArmed) {
					t.Error(err)
				}
			})
		}
	}
}

func TestPermit_CountsFromTheQuestionAndRunsOut(t *testing.T) {
	p := NewPermit(time.Second)
	if p.Healthy(0) == nil {
		t.Error("healthy before anybody gave leave")
	}
	p.Renew(10 * time.Second)
	p.Renew(5 * time.Second) // a late answer to an older question
	for now, ok := range map[time.Duration]bool{10 * time.Second: true, 11 * time.Second: true, 11*time.Second + 1: false, time.Hour: false} {
		if err := p.Healthy(now); (err == nil) != ok {
			t.Errorf("at %v: %v", now, err)
		}
	}
	p.Renew(20 * time.Second)
	if err := p.Healthy(20 * time.Second); err != nil || p.Lease() != time.Second {
		t.Error(err)
	}
}

func TestBoottime_GoesOn(t *testing.T) {
	a := Boottime()
	if b := Boottime(); a <= 0 || b < a {
		t.Errorf("%v, then %v", a, b)
	}
}

func TestState_HasANameEach(t *testing.T) {
	seen := map[string]bool{}
	for s := Waiting; s <= LeftArmed; s++ {
		if name := s.String(); seen[name] || strings.HasPrefix(name, "state(") {
			t.Errorf("%d is %q", s, name)
		} else {
			seen[name] = true
		}
	}
	if State(99).String() != "state(99)" {
		t.Error(State(99).String())
	}
}
