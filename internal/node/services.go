package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/internal/services"
	"github.com/lockstep-ha/lockstep/internal/services/service"
	"github.com/lockstep-ha/lockstep/quorum"
)

const (
	// servicesLook is how often a caretaker looks by itself; a notice of the core makes it look at once.
	servicesLook = 50 * time.Millisecond
	// servicesNone is the same where nothing follows the primary.
	servicesNone = time.Second
	// leaseGrace is how long a primary that reaches the ledger may be without its lease before its addresses
	// go: a secondary that dies takes the lease away until it is dropped, and that is no reason.
	leaseGrace = 500 * time.Millisecond
	// servicesRetry is how long a node on which the services failed is not tried again, unless an operator
	// clears it.
	servicesRetry = 10 * time.Minute
	// handOverPause is the time between two tries to give the role to a node where the services may run.
	handOverPause = 5 * time.Second
	// recordPause is the same for what the ledger has to know.
	recordPause = time.Second
)

// caretakers have one caretaker for each resource with a replica here.
type caretakers struct {
	m       *manager
	dir     string // of the files that name what may run here
	clock   func() time.Duration
	quorate func() bool
	socket  string                                       // of this daemon
	build   func(service.Spec) (services.Carrier, error) // nil: the real ones
	// handOver gives the role to another node, because the services failed here.
	handOver func(ctx context.Context, w *worker) error

	mu  sync.Mutex
	all map[uint64]*caretaker // by resource id
}

func newCaretakers(m *manager, dataDir, socket string, clock func() time.Duration, quorate func() bool, handOver func(context.Context, *worker) error) *caretakers {
	return &caretakers{m: m, socket: socket, dir: filepath.Join(dataDir, "services"), clock: clock, quorate: quorate, handOver: handOver, all: map[uint64]*caretaker{}}
}

// run has the services of each resource looked after until ctx ends. What runs then is left running: see
// stopAll.
func (c *caretakers) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		_, more := c.m.watch()
		for _, w := range c.m.all() {
			if c.find(w.id) != nil {
				continue
			}
			t := c.open(w)
			c.mu.Lock()
			c.all[w.id] = t
			c.mu.Unlock()
			wg.Go(func() {
				t.run(ctx)
				c.mu.Lock()
				delete(c.all, w.id)
				c.mu.Unlock()
			})
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (c *caretakers) find(id uint64) *caretaker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[id]
}

// open makes the caretaker of the resource of w.
func (c *caretakers) open(w *worker) *caretaker {
	t := &caretaker{c: c, w: w, log: w.log, task: make(chan struct{}, 1)}
	t.keeper, t.problem = services.Open(services.Config{
		Resource: w.name, Node: c.m.self.Node, Boot: c.m.self.Boot, Journal: filepath.Join(c.dir, fmt.Sprintf("%016x.json", w.id)),
		Clock: c.clock, Log: w.log, Build: c.builder(w), GiveUp: t.gaveUp,
		Event: func(kind, text string) { c.m.journal.add(w.name, kind, text) },
	})
	if t.problem != nil {
		w.log.Error("services are not run", "err", t.problem)
		c.m.journal.add(w.name, "services_broken", "No service is run here: "+t.problem.Error())
	}
	return t
}

// stop stops the services of w before its role is given up. An error means that they may run: the role must
// be kept. They are then started again, as far as that can be done.
func (c *caretakers) stop(ctx context.Context, w *worker) error {
	t := c.find(w.id)
	if t == nil || t.keeper == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.keeper.StopBudget()+time.Second, errors.New("their time is over"))
	defer cancel()
	err := t.keeper.Stop(ctx)
	if err != nil {
		t.keeper.Resume()
	}
	return err
}

// stopAll stops every service of this node, and returns the resources whose services may still run.
func (c *caretakers) stopAll(ctx context.Context) map[uint64]bool {
	var mu sync.Mutex
	var wg sync.WaitGroup
	kept := map[uint64]bool{}
	for _, w := range c.m.all() {
		wg.Go(func() {
			if err := c.stop(ctx, w); err != nil {
				w.log.Error("services not stopped, so the role is not given up", "err", err)
				mu.Lock()
				defer mu.Unlock()
				kept[w.id] = true
			}
		})
	}
	wg.Wait()
	return kept
}

// stuck returns an error if a service cannot be stopped: this node must then be turned off.
func (c *caretakers) stuck() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.all {
		if t.keeper == nil {
			continue
		}
		if err := t.keeper.Stuck(); err != nil {
			return fmt.Errorf("%s: %w", t.w.name, err)
		}
	}
	return nil
}

// caretaker tells the keeper of one resource what becomes of the role here, and the ledger what becomes of the
// services.
type caretaker struct {
	c       *caretakers
	w       *worker
	log     *slog.Logger
	keeper  *services.Keeper // nil: problem
	problem error
	task    chan struct{} // capacity 1: held by the goroutine that proposes or hands over

	mu     sync.Mutex
	failed string // why the services failed here, until the ledger has it
	warned string // of what could not be settled

	// run's own.
	given     []quorum.Service // to the keeper
	told      bool             // given was
	leads     bool
	epoch     uint64
	leaseLost time.Duration // since when; 0: it is held
	suspended bool
	mark      string // in the ledger
	markSince time.Duration
	// When the ledger may be told next, and when the role may be handed over: a failed try at the one must not keep
	// the other waiting.
	nextRecord, nextHandOver time.Duration
}

// run looks after the services until ctx ends or the resource is gone.
func (t *caretaker) run(ctx context.Context) {
	if t.keeper == nil {
		<-ctx.Done()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { t.keeper.Run(ctx) })
	tick := beat.NewTicker(servicesLook)
	defer tick.Stop()
	for {
		more := t.w.notices()
		rec := t.w.record()
		if rec == nil && t.keeper.Idle() {
			return
		}
		t.look(rec)
		t.settle(ctx, &work, rec)
		select {
		case <-more:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		tick.Next(t.pace())
	}
}

// pace is how long the next look may be away.
func (t *caretaker) pace() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.given) == 0 && t.mark == "" && t.failed == "" && t.keeper.Idle() {
		return servicesNone
	}
	return servicesLook
}

// look tells the keeper what is so now.
func (t *caretaker) look(rec *quorum.Resource) {
	now := t.c.clock()
	if rec != nil && (!t.told || !reflect.DeepEqual(rec.Services, t.given)) {
		again := t.told
		t.given, t.told = rec.Services, true
		if err := t.keeper.SetServices(specsOf(rec.Services)); err != nil {
			t.log.Error("services not taken over", "err", err)
			t.c.m.journal.add(t.w.name, "services_broken", "These services cannot be run here: "+err.Error())
		}
		if again {
			t.forget() // what failed was what there was before
		}
	}
	mark := ""
	if rec != nil {
		if mine := rec.Replica(t.c.m.self.Node); mine != nil {
			mark = mine.ServicesFailed
		}
	}
	if mark != t.mark {
		t.mark, t.markSince = mark, now
		if mark == "" {
			t.nextHandOver = 0
			t.keeper.Clear()
		} else {
			t.recorded() // or a later clear would be undone by what it was meant for
			t.keeper.Halt(mark)
		}
	}
	t.role(rec, now)
}

// role follows the role and the lease of the replica here.
func (t *caretaker) role(rec *quorum.Resource, now time.Duration) {
	rep, _ := t.w.open()
	mine := rec != nil && rep != nil && rec.Primary == t.w.prop.incumbent()
	switch {
	case t.leads && (!mine || rep.Status().Role != rolePrimary):
		t.leads = false
		t.keeper.Demoted()
	case mine && rep.Serving() && (!t.leads || rec.Epoch != t.epoch):
		t.leads, t.epoch = true, rec.Epoch
		t.keeper.Promoted(rec.Epoch)
	}
	held := !t.leads || rep.LeaseHeld()
	switch {
	case held:
		t.leaseLost = 0
	case t.leaseLost == 0:
		t.leaseLost = now
	}
	if suspend := !held && (!t.c.quorate() || now-t.leaseLost > leaseGrace); suspend != t.suspended {
		t.suspended = suspend
		t.keeper.Lease(!suspend)
	}
}

// gaveUp is told by the keeper that the services failed here.
func (t *caretaker) gaveUp(why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = why
}

// forget has the services tried again here if they failed and the ledger does not know that yet. What it knows is
// forgotten when it does.
func (t *caretaker) forget() {
	t.mu.Lock()
	pending := t.failed != ""
	t.failed = ""
	t.mu.Unlock()
	if pending && t.keeper != nil {
		t.keeper.Clear()
	}
}

// recorded says that the ledger knows of the failure.
func (t *caretaker) recorded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = ""
}

// settle has the ledger know of a failure, the role go where the services may run, and an old failure be
// forgotten; one thing at a time, beside look, which must not wait for the ledger.
func (t *caretaker) settle(ctx context.Context, work *sync.WaitGroup, rec *quorum.Resource) {
	t.mu.Lock()
	failed := t.failed
	t.mu.Unlock()
	now := t.c.clock()
	var do func(context.Context) error
	switch {
	case rec == nil || rec.Deleted:
		return
	case failed != "" && t.mark == "":
		if now < t.nextRecord {
			return
		}
		t.nextRecord = now + recordPause
		do = func(ctx context.Context) error { return t.record(ctx, rec, failed) }
	case failed != "": // it failed again; that it failed is recorded
		t.recorded()
		return
	case t.mark != "" && now-t.markSince > servicesRetry && now >= t.nextRecord:
		t.nextRecord = now + recordPause
		do = func(ctx context.Context) error { return t.record(ctx, rec, "") }
	case t.mark != "" && t.leads && len(rec.Services) > 0 && t.keeper.Idle() && handsOver(rec) && now >= t.nextHandOver:
		t.nextHandOver = now + handOverPause
		do = func(ctx context.Context) error { return t.c.handOver(ctx, t.w) }
	default:
		return
	}
	select {
	case t.task <- struct{}{}:
	default:
		return
	}
	work.Go(func() {
		defer func() { <-t.task }()
		if err := do(ctx); ctx.Err() == nil {
			t.warn(err)
		}
	})
}

// warn logs why a failure could not be settled, once for each reason: it is tried again every few seconds.
func (t *caretaker) warn(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.warned = ""
	case err.Error() != t.warned:
		t.warned = err.Error()
		t.log.Warn("failure of the services not settled", "err", err)
	}
}

// handsOver reports whether the cluster may move the role of rec by itself.
func handsOver(rec *quorum.Resource) bool {
	return !rec.Paused && !rec.Hold && rec.Policy.WithDefaults().Failover == quorum.FailoverAuto
}

// record has the ledger know that the services failed here because text, or, "", that they may be tried again.
func (t *caretaker) record(ctx context.Context, rec *quorum.Resource, text string) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return markServices(ctx, t.c.m.ledger, rec, t.c.m.self.Node, text)
}

// markServices records that the services of rec failed on node, or may be tried again there.
func markServices(ctx context.Context, l ledgerAPI, rec *quorum.Resource, node, text string) error {
	text = text[:min(len(text), quorum.MaxText)]
	done := func(r *quorum.Resource) bool {
		p := r.Replica(node)
		return r.ID != rec.ID || r.Deleted || p == nil || p.ServicesFailed == text
	}
	res, err := decide(ctx, l, rec, func(r *quorum.Resource) *quorum.Command {
		if done(r) {
			return nil
		}
		c := quorum.On(r)
		c.ServicesFailed = &quorum.ServicesFailed{Node: node, Text: text}
		return &c
	}, done)
	if err == nil {
		err = refusal(res)
	}
	return err
}
