package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/coordinator"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/replication"
)

// failover is this node's part in deciding who is primary: it reports to the node that leads the
// ledger what is known here, feeds the Coordinator, which decides, and carries out what it says.
//
// run's goroutine alone touches the Coordinator. What comes from elsewhere waits in events; of a
// report or a hint that finds it full nothing is lost, since the next one follows in 100 ms.
type failover struct {
	self   quorum.Incumbent // without a replica
	ledger failoverLedger
	m      *manager
	fencer fencer // nil: this node can turn nobody off
	log    *slog.Logger
	clock  func() time.Duration

	events chan coordinator.Event
	wake   chan struct{} // capacity 1: there is something new to report, or a newer state
	proofs proofs
	leaves leaves

	// run's own.
	coord    *coordinator.Coordinator
	seen     *quorum.State // that the Coordinator was given last
	leading  bool
	reported time.Duration
	silent   silences
	work     sync.WaitGroup // proposals and fences under way
}

// failoverLedger is what failover needs of *ledger.Ledger.
type failoverLedger interface {
	ledgerAPI
	Status() ledger.Status
	Note(node string, body []byte) bool
	SinceHeard(node string) time.Duration
}

// reportsPerNote keeps a note below ledger.MaxNote: a report is some 600 bytes at most.
const reportsPerNote = 64

func newFailover(cfg coordinator.Config, self quorum.Incumbent, l failoverLedger, m *manager, f fencer, clock func() time.Duration, log *slog.Logger) (*failover, error) {
	c, err := coordinator.New(cfg)
	if err != nil {
		return nil, err
	}
	return &failover{
		self: self, ledger: l, m: m, fencer: f, log: log, clock: clock, coord: c,
		silent: silences{limit: cfg.SuspectAfter, links: map[sessionOf]received{}},
		events: make(chan coordinator.Event, 256), wake: make(chan struct{}, 1),
	}, nil
}

// failoverTimes fits the Coordinator's patience to the beacons: it must not call a primary silent for
// a delay that its lease survives.
func failoverTimes(cfg config.Node) coordinator.Config {
	c := coordinator.DefaultConfig()
	c.Node, c.NewID = cfg.Name, randomID
	c.SuspectAfter = max(c.SuspectAfter, 3*cfg.BeaconInterval)
	c.ReportStale = c.SuspectAfter + coordinator.ReportInterval
	// An executor that is at work must not be given up: a fence that succeeds after that is fired again.
	c.FenceTimeout = max(c.FenceTimeout, cfg.Fencing.Limit+fenceAnswer)
	return c
}

// fenceAnswer is how much longer than a fence the leader waits for its result to be recorded.
const fenceAnswer = 10 * time.Second

// apply is told of each new state. It never blocks.
func (f *failover) apply(*quorum.State) { f.kick() }

// kick has this node report soon: something happened that the leader should know. It never blocks.
func (f *failover) kick() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// hint is told what membership, or a connection that ended, says of a node. It never blocks.
func (f *failover) hint(node string, alive bool) {
	f.offer(coordinator.Event{Kind: coordinator.EvHint, Node: node, On: alive})
}

// note takes what another node reports. It never blocks.
func (f *failover) note(from string, body []byte) {
	var reports []coordinator.Report
	if err := json.Unmarshal(body, &reports); err != nil {
		f.log.Warn("report not understood", "peer", from, "err", err)
		return
	}
	for _, r := range reports {
		if r.Node == from { // nobody speaks for another
			f.leaves.note(from, r.Incumbent.Process, r.Leaving)
			f.offer(coordinator.Event{Kind: coordinator.EvReport, Report: r})
		}
	}
}

// offer queues an event that may be lost.
func (f *failover) offer(ev coordinator.Event) {
	select {
	case f.events <- ev:
	default:
	}
}

// run decides until ctx ends, and returns when nothing that it began is under way any more.
func (f *failover) run(ctx context.Context) {
	defer f.work.Wait()
	tick := beat.NewTicker(coordinator.TickInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Next(f.tick(ctx))
		case <-f.wake:
			f.follow(ctx)
			f.report(ctx)
		case ev := <-f.events:
			f.step(ctx, ev)
		}
	}
}

// step gives the Coordinator one event and carries out what it says.
func (f *failover) step(ctx context.Context, ev coordinator.Event) {
	ev.Now = f.clock()
	for _, a := range f.coord.Step(ev, nil) {
		switch a.Kind {
		case coordinator.ActPropose:
			f.work.Go(func() { f.propose(ctx, a) })
		case coordinator.ActFence:
			f.work.Go(func() { f.fire(ctx, a.Fence) })
		}
	}
}

// tick returns how long the next one may be away: a leader that has nothing to wait for, and who leads nobody,
// come to know by an event what they have to act on.
func (f *failover) tick(ctx context.Context) time.Duration {
	f.follow(ctx)
	calm := f.silent.look(f.clock(), f.m.all(), f.ledger.SinceHeard)
	f.step(ctx, coordinator.Event{Kind: coordinator.EvTick})
	if f.clock()-f.reported >= coordinator.ReportInterval {
		f.report(ctx)
	}
	if calm {
		return coordinator.ReportInterval
	}
	return coordinator.TickInterval
}

// follow tells the Coordinator who leads and what the ledger holds.
func (f *failover) follow(ctx context.Context) {
	if st := f.ledger.State(); st != f.seen {
		f.seen = st
		f.step(ctx, coordinator.Event{Kind: coordinator.EvState, State: st})
	}
	if st := f.ledger.Status(); (st.IsLeader && st.Founded) != f.leading {
		f.leading = !f.leading
		f.log.Info("failover is decided here", "on", f.leading)
		f.step(ctx, coordinator.Event{Kind: coordinator.EvLead, On: f.leading})
	}
}

// report tells the leader of the ledger of each resource.
func (f *failover) report(ctx context.Context) {
	f.reported = f.clock()
	leader := f.ledger.Status().Leader
	if f.seen == nil || leader == "" && !f.m.closing.Load() {
		return
	}
	var out []coordinator.Report
	for i := range f.seen.Resources {
		if rec := &f.seen.Resources[i]; !rec.Deleted {
			out = append(out, f.describe(rec))
		}
	}
	if leader == f.self.Node {
		for _, r := range out {
			f.step(ctx, coordinator.Event{Kind: coordinator.EvReport, Report: r})
		}
	}
	for _, n := range f.seen.Nodes {
		// Of a process that stops everybody is told: whoever has no leader then must not take it for lost.
		if n.Name != f.self.Node && (n.Name == leader || f.m.closing.Load()) {
			f.send(n.Name, out)
		}
	}
}

// send tells another node of each resource.
func (f *failover) send(to string, out []coordinator.Report) {
	for len(out) > 0 {
		n := min(len(out), reportsPerNote)
		body, err := json.Marshal(out[:n])
		if err != nil || len(body) > ledger.MaxNote {
			panic(fmt.Sprintf("node: %d reports make a note of %d bytes: %v", n, len(body), err))
		}
		f.ledger.Note(to, body)
		out = out[n:]
	}
}

// describe says what is known here of one resource.
func (f *failover) describe(rec *quorum.Resource) coordinator.Report {
	primary := rec.Primary.Node
	r := coordinator.Report{
		Node: f.self.Node, Resource: rec.Name, ResourceID: rec.ID, Version: rec.Version, Incumbent: f.self, HeardPrimary: -1,
		Leaving: f.m.closing.Load(), CannotFence: f.fencer == nil || primary == "" || !f.fencer.Can(primary),
	}
	w := f.m.find(rec.Name)
	if w == nil || w.id != rec.ID {
		if primary != "" && primary != f.self.Node {
			r.HeardPrimary = f.ledger.SinceHeard(primary)
		}
		return r
	}
	r.Incumbent = w.prop.incumbent()
	if rep, fault := w.open(); rep != nil {
		own(&r, rep.Fitness())
	} else {
		r.Failed = fault.state == replication.Failed
	}
	return r
}

// own fills in what a replica says of itself.
func own(r *coordinator.Report, fit replication.Fitness) {
	r.DiskState, r.Unclean, r.Failed, r.Hangs = fit.State.String(), fit.Unclean, fit.Failed, fit.Hangs
	r.Epoch, r.Generation = fit.Epoch, fit.Generation
	r.InSet, r.HeardPrimary, r.Frozen, r.CannotDrop = fit.SelfInSet, fit.Heard, fit.Frozen, fit.CannotDrop
	// What it says of itself may be older than the state here.
	r.Version = min(r.Version, fit.Version)
	switch {
	case fit.Starting:
		r.Role = coordinator.RoleStarting
	case fit.Serving:
		r.Role = coordinator.RolePrimary
	case fit.Stopping:
		r.Role = coordinator.RoleStopping
	default:
		r.Role = coordinator.RoleSecondary
	}
}

// propose proposes what the Coordinator wants, once, and tells it what became of that.
func (f *failover) propose(ctx context.Context, a coordinator.Action) {
	f.log.Info("failover proposes", "command", a.Command.String(), "why", a.Why)
	res, err := attempt(ctx, f.ledger, a.Command)
	ev := coordinator.Event{Kind: coordinator.EvProposalDone, Token: a.Token, Outcome: coordinator.OutcomeUnknown}
	switch {
	case err == nil && res.Code == quorum.Applied:
		ev.Outcome = coordinator.OutcomeApplied
		f.m.journal.add(a.Command.Resource, "failover", "The cluster decides: "+a.Why+".")
	case err == nil:
		ev.Outcome, ev.Code = coordinator.OutcomeRefused, res.Code
	case !outcomeUnknown(err):
		ev.Outcome = coordinator.OutcomeNotDone
	}
	if ev.Outcome != coordinator.OutcomeApplied {
		f.log.Info("failover not applied", "command", a.Command.String(), "reason", res.Reason, "err", err)
	}
	f.answer(ctx, ev)
}

// answer gives the Coordinator an event that it waits for.
func (f *failover) answer(ctx context.Context, ev coordinator.Event) {
	select {
	case f.events <- ev:
	case <-ctx.Done():
	}
}

// fire turns a node off, if the ledger asks for that still: what a node applied late may have been
// answered or taken back meanwhile.
func (f *failover) fire(ctx context.Context, order quorum.Fence) {
	ev := coordinator.Event{Kind: coordinator.EvFenceDone, ID: order.ID, Fenced: coordinator.FenceError}
	proof, err := f.fence(ctx, order)
	switch {
	case err == nil:
		ev.Fenced, ev.Text = coordinator.FenceOK, proof
	case errors.Is(err, fencing.ErrTimeout):
		ev.Fenced, ev.Text = coordinator.FenceTimedOut, err.Error()
	default:
		ev.Text = err.Error()
	}
	f.log.Warn("fence done", "node", order.Target, "boot", order.Boot, "proof", proof, "err", err)
	f.answer(ctx, ev)
}

func (f *failover) fence(ctx context.Context, order quorum.Fence) (string, error) {
	if proof, ok := f.proofs.of(order.ID); ok {
		return proof, nil // it was fired before it could be recorded; see pairGuard
	}
	if f.fencer == nil || !f.fencer.Can(order.Target) {
		return "", fmt.Errorf("%s has no way to turn %s off", f.self.Node, order.Target)
	}
	return f.fencer.Fence(ctx, fencing.Request{
		Target: targetOf(f.ledger.State(), order.Target, order.Boot, "the cluster asked for it"),
		Still:  func(ctx context.Context) error { return f.still(ctx, order) },
	})
}

// still returns nil if the ledger asks for a fence at this moment, right before it is fired.
func (f *failover) still(ctx context.Context, order quorum.Fence) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := f.ledger.Barrier(ctx); err != nil {
		return err
	}
	for _, o := range coordinator.OrdersFor(f.ledger.State(), f.self.Node) {
		if o.ID == order.ID {
			f.log.Warn("turning a node off", "node", order.Target, "boot", order.Boot)
			f.m.journal.add("", "fence", f.self.Node+" turns "+order.Target+" off.", "peer", order.Target)
			return nil
		}
	}
	return errors.New("the ledger does not ask for it any more")
}
