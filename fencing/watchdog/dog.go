package watchdog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// petsPerTimeout is how often the timer is petted within its timeout: one pet may be late by half
// of it and nothing happens.
const petsPerTimeout = 4

// askBeforeArmed is how often the musts are asked as long as the timer is not armed.
const askBeforeArmed = 250 * time.Millisecond

// Must says whether its part of the node is healthy at now. It returns at once: while it does not,
// nothing is petted.
type Must func(now time.Duration) error

// Config is fixed for the life of a Dog.
type Config struct {
	// Clock never goes back and goes on while the machine sleeps. nil: CLOCK_BOOTTIME.
	Clock func() time.Duration
	// OnArmed is called by Run once the timer is armed; whoever may declare it to the other nodes
	// does so then. nil: nobody is told.
	OnArmed func(Info)
	// Log hears when petting stops and begins again. nil: nobody does.
	Log *slog.Logger
}

// Dog pets a Timer. Its methods may be called at the same time, Run once.
type Dog struct {
	open func() (Timer, error)
	cfg  Config

	mu        sync.Mutex
	musts     []namedMust
	condemned error
	status    Status
}

type namedMust struct {
	name string
	must Must // nil: taken away
}

// State is what a Dog does.
//
//	waiting --healthy, opened--> petting <----> starving --end of Run--> left armed
//	   |                            |
//	   +--------end of Run----------+--> ended
type State uint8

// States of a Dog.
const (
	Waiting   State = iota // for the first time that all is healthy; nothing was opened
	Petting                // the last round petted
	Starving               // something is not healthy, and the timer will fire
	Ended                  // Run has ended, and the timer is disarmed or was never opened
	LeftArmed              // Run has ended, and the timer will fire
)

func (s State) String() string {
	names := [...]string{"waiting", "petting", "starving", "ended", "left armed"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Status is how a Dog is doing.
type Status struct {
	State   State
	Info    Info          // of the timer, once it is armed
	LastPet time.Duration // on the Dog's clock; 0: never
	Reason  error         // why nothing is petted, nil while Petting
}

// New makes a Dog. open is called by Run once, when all musts are healthy for the first time: opening
// pets a timer that an earlier process of this boot left running, so it needs the same leave as a pet.
func New(open func() (Timer, error), cfg Config) *Dog {
	if cfg.Clock == nil {
		cfg.Clock = Boottime
	}
	if cfg.OnArmed == nil {
		cfg.OnArmed = func(Info) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Dog{open: open, cfg: cfg}
}

// Boottime is CLOCK_BOOTTIME.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("watchdog: CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

// Now is the Dog's clock, for Permit.Renew.
func (d *Dog) Now() time.Duration { return d.cfg.Clock() }

// Must registers what has to be healthy. The returned function takes it away again.
func (d *Dog) Must(name string, must Must) (remove func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.musts = append(d.musts, namedMust{name: name, must: must})
	i := len(d.musts) - 1
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.musts[i].must = nil
	}
}

// Condemn ends petting for good. The first reason stays.
func (d *Dog) Condemn(reason error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.condemned == nil {
		d.condemned = fmt.Errorf("condemned: %w", reason)
	}
}

// Status returns how the Dog is doing.
func (d *Dog) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// Run arms the timer as soon as all is healthy, and pets it until ctx ends. It then disarms the timer if
// everything is healthy, and otherwise leaves it armed and returns ErrLeftArmed. So ctx has to end only
// after everything that must stop has stopped. A timer that cannot be armed ends Run at once.
func (d *Dog) Run(ctx context.Context) error {
	timer, err := d.arm(ctx)
	if timer == nil {
		d.note(Ended, err)
		return err
	}
	tick := time.NewTicker(timer.Info().Timeout / petsPerTimeout)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return d.end(timer)
		}
		d.pet(timer)
	}
}

// arm opens the timer once all is healthy. It returns nil when ctx ended before.
func (d *Dog) arm(ctx context.Context) (Timer, error) {
	tick := time.NewTicker(askBeforeArmed)
	defer tick.Stop()
	for {
		sick := d.judge()
		if sick == nil {
			break
		}
		d.note(Waiting, sick)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
	timer, err := d.open()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.status.Info = timer.Info()
	d.mu.Unlock()
	d.note(Petting, nil) // opening has petted it
	d.cfg.OnArmed(timer.Info())
	return timer, nil
}

// pet pets once if everything is healthy.
func (d *Dog) pet(timer Timer) {
	sick := d.judge()
	if sick == nil {
		sick = timer.Pet()
	}
	if sick != nil {
		d.note(Starving, sick)
		return
	}
	d.note(Petting, nil)
}

// end lets go of the timer.
func (d *Dog) end(timer Timer) error {
	if sick := d.judge(); sick != nil {
		d.note(LeftArmed, sick)
		return errors.Join(fmt.Errorf("%w: %w", ErrLeftArmed, sick), timer.Abandon())
	}
	err := timer.Disarm()
	d.note(Ended, err)
	return err
}

// judge asks every must, in the order in which they were registered, and returns all that is not
// healthy. Musts run without the lock, so they may use the Dog.
func (d *Dog) judge() error {
	d.mu.Lock()
	all := []error{d.condemned}
	musts := slices.Clone(d.musts)
	d.mu.Unlock()
	for _, m := range musts {
		if m.must == nil {
			continue
		}
		// The clock is read for each: the one before may have taken long.
		if err := m.must(d.cfg.Clock()); err != nil {
			all = append(all, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	return errors.Join(all...)
}

// note keeps the outcome of a round, and logs when the state changed.
func (d *Dog) note(state State, reason error) {
	d.mu.Lock()
	before := d.status.State
	d.status.State, d.status.Reason = state, reason
	if state == Petting {
		d.status.LastPet = d.cfg.Clock()
	}
	log := d.cfg.Log.With("watchdog", d.status.Info.Name, "timeout", d.status.Info.Timeout)
	d.mu.Unlock()
	switch {
	case state == before:
	case state == Petting:
		log.Info("watchdog is petted")
	case state == Starving || state == LeftArmed:
		log.Error("watchdog is not petted and will fire", "err", reason)
	}
}
