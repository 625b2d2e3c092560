package device

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// backing is what the shell needs of *store.Store. Its methods may be called by many goroutines.
type backing interface {
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64, fua bool) error
	WriteZeroes(e bitmap.Extent, punch, fua bool) error
	Trim(e bitmap.Extent, fua bool) error
	Sync() error
	Resize(size int64) error
	UpdateMeta(f func(*store.Meta)) error
	SyncMeta() error
	SaveLog(active []bitmap.RegionIndex) error
	SaveBitmapPages(slot int, pages []store.PageImage) error
	Failed() error
	Close(clean bool) error
}

// life is how far a Device has come.
//
//	fresh --Run--> running --ctx ends, everything under way has ended--> ended --Close--> closed
//	fresh --Close--> closed
type life uint8

const (
	fresh life = iota
	running
	ended
	closed
)

// Device is one replica at work. All methods may be called by any goroutine.
type Device struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	clock func() time.Duration

	patience time.Duration // inlineTime

	store  backing
	fault  atomic.Pointer[error] // set once the core has given the backing up: no I/O any more
	window *window
	work   fifo[job]      // at most one for each operation of the core that is under way
	saves  fifo[save]     // the core has one of the log and a few of the metadata under way
	asks   fifo[proposal] // the core has few under way
	news   herald
	turns  sync.Pool // *turn
	calls  sync.Pool // *call

	mu          sync.Mutex
	core        core
	now         time.Duration       // at the last lock of a turn
	slots       []slot              // by ID.Index
	used        int                 // slots that hold something
	links       []*link             // by Peer
	rec         *replication.Record // newest told; nil: none yet
	doors       uint64              // how often clients were closed
	openings    []*opening          // client sessions that wait for the core's word, in order
	serving     bool                // Serving of the core at the last unlock
	life        life
	shut        bool          // nothing from outside is taken any more
	outstanding int           // local I/O and saves whose end the core has not heard of
	idle        sync.Cond     // L is &mu: outstanding is 0
	changed     chan struct{} // closed, and replaced, when somebody who waits should look again
	waiting     int           // who waits on changed
}

// newDevice makes a Device around parts that are made already.
func newDevice(cfg Config, deps Deps, s backing) *Device {
	d := &Device{
		cfg:      cfg.withDefaults(),
		deps:     deps,
		log:      deps.Log,
		clock:    deps.Clock,
		store:    s,
		patience: inlineTime,
		changed:  make(chan struct{}),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.clock == nil {
		d.clock = BootTime
	}
	d.window = newWindow(d.cfg.Window)
	d.work.init()
	d.saves.init()
	d.asks.init()
	d.news.init()
	d.idle.L = &d.mu
	d.turns.New = func() any { return new(turn) }
	d.calls.New = func() any { return new(call) }
	return d
}

// Run works until ctx ends, then until everything that was begun has ended: the sessions are
// closed, client connections too, without an answer to what is unfinished. It returns the cause
// of ctx, and it returns only when no goroutine of the device is left, so on a disk that hangs it
// does not return at all. It runs at most once.
func (d *Device) Run(ctx context.Context) error {
	d.mu.Lock()
	if d.life != fresh {
		d.mu.Unlock()
		return fmt.Errorf("resource %s: %w", d.cfg.Resource, ErrClosed)
	}
	d.life = running
	d.mu.Unlock()

	var carriers, asking, sources sync.WaitGroup
	for range d.cfg.Workers {
		carriers.Go(d.runWorker)
	}
	carriers.Go(d.runSaver)
	carriers.Go(func() { d.news.run(d.deps) })
	asking.Go(func() { d.runAsker(ctx) })
	sources.Go(func() { d.runTicker(ctx) })
	for _, l := range d.links {
		sources.Go(func() { _ = l.link.Run(ctx) }) // its error is the cause of ctx
	}

	<-ctx.Done()
	d.refuseWork()
	sources.Wait()
	d.asks.close()
	asking.Wait()
	d.awaitIdle()
	d.work.close()
	d.saves.close()
	d.news.stop()
	carriers.Wait()

	d.mu.Lock()
	d.life = ended
	d.mu.Unlock()
	return context.Cause(ctx)
}

// refuseWork makes the device take nothing from outside any more.
func (d *Device) refuseWork() {
	d.mu.Lock()
	d.shut = true
	d.closeClients()
	d.announce()
	d.mu.Unlock()
	d.window.close()
}

// awaitIdle waits until the core has heard of the end of every local I/O and save.
func (d *Device) awaitIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.outstanding > 0 {
		d.idle.Wait()
	}
}

// ended notes that the core has heard of the end of one local I/O or save. Caller holds mu.
func (d *Device) ended() {
	d.outstanding--
	if d.outstanding == 0 && d.shut {
		d.idle.Broadcast()
	}
}

// Close gives the replica up, after Run has returned (or if it was never called). clean asks for
// a clean stop: what is unstable is synced, the activity log saved empty and the metadata marked.
// When operations had not ended (a started write that a peer never acknowledged, say), it returns
// ErrNotQuiet, and the replica is as after a crash of the process, which loses nothing either.
func (d *Device) Close(clean bool) error {
	d.mu.Lock()
	if d.life == running || d.life == closed {
		d.mu.Unlock()
		return fmt.Errorf("resource %s: close: %w", d.cfg.Resource, ErrClosed)
	}
	d.life, d.shut = closed, true
	quiet := d.core.Quiet() && d.diskError() == nil
	var meta replication.Meta
	var pages []replication.Page
	if clean && quiet {
		meta, pages = d.core.Final()
	}
	d.mu.Unlock()
	d.window.close()
	d.dropAll()

	if !clean || !quiet {
		err := d.store.Close(false)
		if clean && err == nil {
			err = fmt.Errorf("resource %s: %w", d.cfg.Resource, ErrNotQuiet)
		}
		return err
	}
	if err := d.saveFinal(&meta, pages); err != nil {
		_ = d.store.Close(false) // err is what matters
		return fmt.Errorf("resource %s: stop: %w", d.cfg.Resource, err)
	}
	return d.store.Close(true)
}

// saveFinal records a clean stop. Data and bitmaps are stable before the log is empty, so that none
// of its regions has to linger.
func (d *Device) saveFinal(meta *replication.Meta, pages []replication.Page) error {
	if err := d.store.Sync(); err != nil {
		return err
	}
	if err := d.savePages(pages); err != nil {
		return err
	}
	if err := d.store.SyncMeta(); err != nil {
		return err
	}
	if err := d.store.SaveLog(nil); err != nil {
		return err
	}
	return d.saveMeta(meta)
}

// diskError returns why the backing is not used any more, or nil. The core may have given it up for
// a reason that the store takes for an answer (no room for the activity log, say).
func (d *Device) diskError() error {
	if f := d.fault.Load(); f != nil {
		return *f
	}
	return d.store.Failed()
}

// dropAll ends what the core still keeps when nothing is under way any more.
func (d *Device) dropAll() {
	t := d.begin(false)
	d.mu.Lock()
	for i := range d.slots {
		switch s := &d.slots[i]; {
		case s.id == 0:
		case s.call != nil:
			d.end(t, s.id, nil, true)
		default:
			d.free(s.id)
		}
	}
	d.mu.Unlock()
	t.finish()
}

// runTicker lets the core see time pass.
func (d *Device) runTicker(ctx context.Context) {
	tick := beat.NewTicker(replication.TickInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Next(d.tick())
		}
	}
}

// tick returns how long the next one may be away.
func (d *Device) tick() (next time.Duration) {
	t := d.begin(false)
	t.lock()
	t.event(replication.EvTick)
	t.step()
	if d.waiting > 0 {
		d.announce()
	}
	next = replication.TickInterval
	if d.waiting == 0 {
		next = d.core.NextTick()
	}
	t.unlock()
	t.finish()
	return next
}
