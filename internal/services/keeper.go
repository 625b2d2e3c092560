package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/internal/services/plan"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// tick is how often time passes for the plan: deadlines and monitors are late by no more.
const tick = 100 * time.Millisecond

// idleTick is the same where nothing is wanted and nothing runs.
const idleTick = time.Second

// leaveWait is how long Run waits at its end for operations that it has cancelled.
const leaveWait = 3 * time.Second

// ErrNotStopped says that a service could not be stopped, or not in time. It may still run.
var ErrNotStopped = errors.New("not all services are stopped")

// Config is fixed for the life of a Keeper.
type Config struct {
	Resource string
	Node     string
	Boot     string               // boot id of this host
	Journal  string               // path of the file that names what may run here
	Clock    func() time.Duration // never goes back
	Log      *slog.Logger
	// Build makes the carriers. nil: those of this package.
	Build func(service.Spec) (Carrier, error)
	Plan  plan.Config // zero: plan.DefaultConfig
	// Event is told of each transition, for operators. It must not block.
	Event func(kind, text string)
	// GiveUp is told when the services have failed here and are stopped: another node may try. It must not
	// block.
	GiveUp func(why string)
}

// Keeper runs the services of one resource on this node. Its methods may be called at the same time, Run once.
type Keeper struct {
	cfg     Config
	journal journal
	wake    chan struct{} // capacity 1: there is something in todo
	left    []Resumer     // of an earlier process

	mu       sync.Mutex
	plan     *plan.Plan
	todo     []plan.Action           // not yet carried out
	changed  chan struct{}           // closed and replaced with each step
	stuck    string                  // what cannot be stopped; "" when nothing is
	specs    map[string]service.Spec // by id, of all that is wanted or may run
	carriers map[string]Carrier
	views    map[string]plan.State              // as they were told last
	cancels  map[uint64]context.CancelCauseFunc // of operations under way, by token

	fault error // of writing the journal; Run's own
}

// Open reads the journal, and returns a Keeper that stops what it names once it runs.
//
// Errors: a journal that cannot be read. Nothing may be started on this node then.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Plan == (plan.Config{}) {
		cfg.Plan = plan.DefaultConfig()
	}
	if cfg.Build == nil {
		cfg.Build = func(s service.Spec) (Carrier, error) { return Build(s, cfg.Resource, cfg.Node) }
	}
	k := &Keeper{
		cfg: cfg, journal: journal{cfg.Journal, cfg.Boot}, wake: make(chan struct{}, 1), changed: make(chan struct{}),
		specs: map[string]service.Spec{}, carriers: map[string]Carrier{}, views: map[string]plan.State{}, cancels: map[uint64]context.CancelCauseFunc{},
	}
	left, err := k.journal.read()
	if err == nil {
		err = k.build(left)
	}
	if err != nil {
		return nil, fmt.Errorf("services of %s: %w", cfg.Resource, err)
	}
	k.plan = plan.New(cfg.Plan, steps(left))
	for _, s := range left {
		if c, ok := k.carriers[s.ID()].(Resumer); ok {
			k.left = append(k.left, c)
		}
	}
	if len(left) > 0 {
		cfg.Log.Warn("services of an earlier process are stopped", "count", len(left))
	}
	return k, nil
}

// build makes the carriers that are not there yet.
func (k *Keeper) build(all []service.Spec) error {
	for _, s := range all {
		id := s.ID()
		if k.carriers[id] == nil {
			c, err := k.cfg.Build(s)
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			k.carriers[id] = c
		}
		k.specs[id] = s
	}
	return nil
}

// SetServices says what is wanted, in any order; see Sorted.
//
// Errors: those of Validate; nothing has changed then.
func (k *Keeper) SetServices(all []service.Spec) error {
	if err := service.ValidateAll(all); err != nil {
		return err
	}
	all = service.Sorted(all)
	k.mu.Lock()
	err := k.build(all)
	k.mu.Unlock()
	if err == nil {
		k.step(plan.Event{Kind: plan.EvServices, Steps: steps(all)})
	}
	return err
}

// Promoted says that this node is primary in epoch and serves.
func (k *Keeper) Promoted(epoch uint64) {
	k.step(plan.Event{Kind: plan.EvRole, On: true, Epoch: epoch})
}

// Demoted says that the role has ended.
func (k *Keeper) Demoted() { k.step(plan.Event{Kind: plan.EvRole}) }

// Lease says whether this node can be sure that nobody else is primary.
func (k *Keeper) Lease(held bool) { k.step(plan.Event{Kind: plan.EvLease, On: held}) }

// Halt says why nothing is to be started here, where nothing runs yet.
func (k *Keeper) Halt(why string) { k.step(plan.Event{Kind: plan.EvHalt, Fault: why}) }

// Clear says that what failed is mended.
func (k *Keeper) Clear() { k.step(plan.Event{Kind: plan.EvClear}) }

// Stop stops everything and returns nil when nothing runs. It returns ErrNotStopped, and says why, as soon as
// a service cannot be stopped, or when ctx ends. The services stay stopped, or on their way to it, until the
// role has ended or Resume is called.
func (k *Keeper) Stop(ctx context.Context) error {
	k.step(plan.Event{Kind: plan.EvStop, On: true})
	for {
		k.mu.Lock()
		idle, stuck, more := k.plan.Idle(), k.stuck, k.changed
		k.mu.Unlock()
		switch {
		case idle:
			return nil
		case stuck != "":
			return fmt.Errorf("%w: %s", ErrNotStopped, stuck)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNotStopped, context.Cause(ctx))
		}
	}
}

// Resume takes a Stop back: the role is kept.
func (k *Keeper) Resume() { k.step(plan.Event{Kind: plan.EvStop}) }

// StopBudget is how long Stop takes at most before something is stuck.
func (k *Keeper) StopBudget() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.plan.StopBudget()
}

// Idle reports that nothing runs and nothing is under way.
func (k *Keeper) Idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.plan.Idle()
}

// Stuck returns why this node must not go on, nil if it may: a service cannot be stopped.
func (k *Keeper) Stuck() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stuck == "" {
		return nil
	}
	return errors.New(k.stuck)
}

// Status is how the services are doing.
type Status struct {
	Services []plan.View
	Halted   string // why nothing is started here; "": it is
	Stuck    string // what cannot be stopped
}

// Status returns how the services are doing.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Status{Services: k.plan.Views(), Halted: k.plan.Halted(), Stuck: k.stuck}
}

// step gives the plan one event, and has Run carry out what it says.
func (k *Keeper) step(ev plan.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ev.Now = k.cfg.Clock()
	before := len(k.todo)
	k.todo = k.plan.Step(ev, k.todo)
	for _, a := range k.todo[before:] {
		if a.Kind == plan.ActFence { // at once: whoever pets the watchdog asks
			k.stuck = a.Text
		}
	}
	k.tell()
	if ev.Kind != plan.EvTick || len(k.todo) > before {
		close(k.changed)
		k.changed = make(chan struct{})
	}
	if len(k.todo) > 0 {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// tell reports each change of a state. Caller holds mu.
func (k *Keeper) tell() {
	now := map[string]plan.State{}
	for _, v := range k.plan.Views() {
		now[v.ID] = v.State
		if v.State == k.views[v.ID] {
			continue
		}
		text := v.Name + " is " + v.State.String() + "."
		if v.Fault != "" {
			text = v.Name + " is " + v.State.String() + ": " + v.Fault
		}
		k.cfg.Log.Info("service", "service", v.Name, "state", v.State.String(), "err", v.Fault)
		k.cfg.Event("service_"+v.State.String(), text)
	}
	k.views = now
}

// Run carries out what the plan says until ctx ends. What runs then is left running.
func (k *Keeper) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer k.leave(&work)
	every := beat.NewTicker(tick)
	defer every.Stop()
	for _, c := range k.left {
		work.Go(func() { c.Resume(ctx) })
	}
	k.step(plan.Event{Kind: plan.EvTick})
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			k.step(plan.Event{Kind: plan.EvTick})
		case <-k.wake:
		}
		k.mu.Lock()
		todo := k.todo
		k.todo = nil
		next := tick
		if k.plan.Idle() && len(k.plan.Views()) == 0 {
			next = idleTick
		}
		k.mu.Unlock()
		every.Next(next)
		for _, a := range todo {
			k.act(ctx, &work, a)
		}
	}
}

// leave waits for what was under way, for as long as that makes sense.
func (k *Keeper) leave(work *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	limit := time.NewTimer(leaveWait)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		k.cfg.Log.Warn("an operation on a service hangs and is left behind")
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, c := range k.carriers {
		if c, ok := c.(io.Closer); ok {
			if err := c.Close(); err != nil {
				k.cfg.Log.Warn("service not closed", "service", id, "err", err)
			}
		}
	}
}

// act carries out one action.
func (k *Keeper) act(ctx context.Context, work *sync.WaitGroup, a plan.Action) {
	switch a.Kind {
	case plan.ActRecord:
		k.fault = k.record(a.IDs)
	case plan.ActStart:
		if k.fault != nil {
			k.step(plan.Event{Kind: plan.EvDone, Token: a.Token, Fault: "what runs cannot be recorded: " + k.fault.Error()})
			return
		}
		k.begin(ctx, work, a, Carrier.Start)
	case plan.ActStop:
		k.begin(ctx, work, a, Carrier.Stop)
	case plan.ActMonitor:
		k.begin(ctx, work, a, Carrier.Monitor)
	case plan.ActCancel:
		k.mu.Lock()
		cancel := k.cancels[a.Token]
		k.mu.Unlock()
		if cancel != nil { // else it has just ended
			cancel(errors.New("it was cancelled, or had no time left"))
		}
	case plan.ActUp:
		k.cfg.Event("services_up", "All services run.")
	case plan.ActStopped:
		k.cfg.Event("services_stopped", "No service runs here.")
	case plan.ActGiveUp:
		k.cfg.Log.Error("services failed here", "err", a.Text)
		k.cfg.Event("services_failed", "The services failed here and are stopped: "+a.Text)
		k.cfg.GiveUp(a.Text)
	case plan.ActFence:
		if a.On {
			k.cfg.Log.Error("a service cannot be stopped", "err", a.Text)
			k.cfg.Event("services_stuck", "This node must be turned off, or looked after: "+a.Text)
		} else {
			k.cfg.Event("services_unstuck", "What could not be stopped is stopped.")
		}
	}
}

func (k *Keeper) record(ids []string) error {
	k.mu.Lock()
	all := make([]service.Spec, len(ids))
	for i, id := range ids {
		all[i] = k.specs[id]
	}
	k.mu.Unlock()
	err := k.journal.write(all)
	if err != nil {
		k.cfg.Log.Error("services not recorded", "path", k.journal.path, "err", err)
	}
	return err
}

// begin has an operation run beside the others.
func (k *Keeper) begin(ctx context.Context, work *sync.WaitGroup, a plan.Action, do func(Carrier, context.Context) error) {
	k.mu.Lock()
	spec := k.specs[a.ID]
	c, s := k.carriers[a.ID], stepOf(&spec)
	opCtx, cancel := context.WithCancelCause(ctx)
	k.cancels[a.Token] = cancel
	k.mu.Unlock()
	limit := map[plan.ActionKind]time.Duration{plan.ActStart: s.StartTimeout, plan.ActStop: s.StopTimeout, plan.ActMonitor: s.MonitorTimeout}[a.Kind]
	work.Go(func() {
		defer func() {
			cancel(nil)
			k.mu.Lock()
			defer k.mu.Unlock()
			delete(k.cancels, a.Token)
		}()
		// The plan cancels it, too; this is for those who want to know beforehand.
		opCtx, release := context.WithTimeoutCause(opCtx, limit, errors.New("it had no time left"))
		defer release()
		fault := ""
		if err := do(c, opCtx); err != nil {
			fault = err.Error()
		}
		if ctx.Err() == nil || fault == "" {
			k.step(plan.Event{Kind: plan.EvDone, Token: a.Token, Fault: fault})
		}
	})
}
