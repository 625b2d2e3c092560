package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/fencing/watchdog"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/quorum"
)

// kennel runs the watchdogs of this node: that of the node file, and systemd's if the unit asks for
// it. They are petted as long as all of this is so:
//
//	role    no replica has lost the role of the primary while an I/O of that role hangs: what it must
//	        stop it cannot
//	fence   the ledger, as far as it is applied here, does not ask for this boot to be turned off, and
//	        does not record it as off: whoever has to shoot may not reach the device
//	services no service that must stop has failed to
//
// Asking takes the locks of the manager and of each replica, so a daemon in which one of these is stuck
// is not petted either.
//
// No other node relies on these watchdogs (see devices), so a node that merely lost the majority is
// not reset: its lease has run out, and it waits.
type kennel struct {
	m    *manager
	self quorum.Incumbent
	dogs []*watchdog.Dog
	// services returns an error if one cannot be stopped that must be.
	services func() error

	mu  sync.Mutex
	led map[uint64]bool // resources of which this process was the recorded primary
}

// newKennel makes the watchdogs; nothing is armed before run.
func newKennel(cfg config.Watchdog, m *manager, self quorum.Incumbent, j *journal, log *slog.Logger) *kennel {
	k := &kennel{m: m, self: self, led: map[uint64]bool{}, services: func() error { return nil }}
	add := func(open func() (watchdog.Timer, error)) {
		d := watchdog.New(open, watchdog.Config{Log: log, OnArmed: func(i watchdog.Info) {
			log.Info("watchdog is armed", "watchdog", i.Name, "timeout", i.Timeout, "resets", i.Resets)
			j.add("", "watchdog", fmt.Sprintf("The watchdog %s is armed with %v.", i.Name, i.Timeout))
		}})
		d.Must("role", func(time.Duration) error { return k.stopped() })
		d.Must("fence", func(time.Duration) error { return k.unfenced() })
		d.Must("services", func(time.Duration) error { return k.services() })
		k.dogs = append(k.dogs, d)
	}
	if cfg.Device != "" && cfg.Device != config.WatchdogSystemd {
		add(func() (watchdog.Timer, error) { return watchdog.OpenDevice(cfg.Device, cfg.RealTimeout()) })
	}
	if _, err := watchdog.OpenSystemd(); err == nil || cfg.Device == config.WatchdogSystemd {
		add(watchdog.OpenSystemd)
	}
	return k
}

// run pets until ctx ends, which comes after everything that must stop has stopped.
func (k *kennel) run(ctx context.Context) error {
	all := make([]error, len(k.dogs))
	var wg sync.WaitGroup
	for i, d := range k.dogs {
		wg.Go(func() { all[i] = d.Run(ctx) })
	}
	wg.Wait()
	return errors.Join(all...)
}

// stopped returns an error if a role that was lost cannot be stopped.
func (k *kennel) stopped() error {
	st := k.m.ledger.State()
	if st == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.m.all() {
		rec := st.Find(w.name)
		rep, _ := w.open()
		if rec == nil || rec.ID != w.id || rep == nil {
			continue
		}
		if k.isMe(rec.Primary) || k.isMe(rec.LastPrimary) {
			k.led[rec.ID] = true // for good: others may follow while an I/O of this process hangs
		}
		if k.led[rec.ID] && !k.isMe(rec.Primary) && rep.Fitness().Hangs {
			return fmt.Errorf("%s has lost the role of the primary of %s, and its disk hangs with I/O of that role", k.self.Node, rec.Name)
		}
	}
	return nil
}

// isMe reports whether i is this process.
func (k *kennel) isMe(i quorum.Incumbent) bool {
	return i.Node == k.self.Node && i.Process == k.self.Process
}

// unfenced returns an error if the ledger wants this boot off.
func (k *kennel) unfenced() error {
	st := k.m.ledger.State()
	if st == nil {
		return nil
	}
	if f := st.Fence(k.self.Node); f != nil && f.Boot == k.self.Boot && f.Phase != quorum.FenceMissed {
		return fmt.Errorf("the ledger has %s turn this node off: %s", f.Executor, f.Phase)
	}
	return nil
}
