package sim

import (
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/coordinator"
)

// coordination is the part of a process that decides failover, or reports to who does.
type coordination struct {
	coord    *coordinator.Coordinator
	leading  bool
	reported time.Duration
	firing   map[uint64]bool // fences that this process is carrying out
}

const fenceTimeout = 2 * time.Second

func (p *Proc) openCoordinator() {
	c, err := coordinator.New(coordinator.Config{Node: p.h.name, NewID: func() uint64 { return p.w.net.Uint64() | 1 },
		PromoteNew: true, FenceTimeout: fenceTimeout, RetryMost: 2 * time.Second})
	if err != nil {
		p.w.fail("coordinator of %s: %v", p.h.name, err)
		return
	}
	p.coord, p.firing = c, map[uint64]bool{}
}

// decide feeds the coordinator one event and carries out what it says.
func (p *Proc) decide(ev coordinator.Event) {
	if p.coord == nil || p.dead {
		return
	}
	ev.Now = p.h.clock()
	for _, a := range p.coord.Step(ev, nil) {
		switch a.Kind {
		case coordinator.ActPropose:
			p.proposeFor(a)
		case coordinator.ActFence:
			p.fire(a.Fence)
		}
	}
}

// proposeFor proposes what the coordinator wants, and gives up after a while.
func (p *Proc) proposeFor(a coordinator.Action) {
	p.w.note(p.h, kindLedger, "coordinator: %s (%s)", a.Command.String(), a.Why)
	answered := false
	answer := func(o coordinator.Outcome, code quorum.Code) {
		if !answered {
			answered = true
			p.into(0, func() {
				p.decide(coordinator.Event{Kind: coordinator.EvProposalDone, Token: a.Token, Outcome: o, Code: code})
			})
		}
	}
	prop := p.command(a.Command, func(res quorum.Result, err error) {
		switch {
		case err != nil:
			answer(coordinator.OutcomeUnknown, 0)
		case res.Code == quorum.Applied:
			answer(coordinator.OutcomeApplied, 0)
		default:
			answer(coordinator.OutcomeRefused, res.Code)
		}
	})
	if prop == nil {
		answer(coordinator.OutcomeNotDone, 0)
		return
	}
	p.into(2*time.Second, func() { answer(coordinator.OutcomeUnknown, 0) })
}

// coordinate lets time pass, tells the coordinator who leads, and reports to the leader.
func (p *Proc) coordinate() {
	if p.ticks%2 != 0 {
		return
	}
	st := p.voter.Leads()
	if st != p.leading {
		p.leading = st
		p.decide(coordinator.Event{Kind: coordinator.EvLead, On: st})
	}
	p.decide(coordinator.Event{Kind: coordinator.EvTick})
	if p.w.now-p.reported >= coordinator.ReportInterval {
		p.report()
	}
}

// report tells the leader of the ledger about this node's replica.
func (p *Proc) report() {
	p.reported = p.w.now
	rec := p.ledgerRecord()
	leader := p.voter.Leader()
	if rec == nil || leader == "" {
		return
	}
	r := coordinator.Report{Node: p.h.name, Resource: resourceName, ResourceID: resourceID, Version: rec.Version, HeardPrimary: -1,
		CannotFence: !p.w.Config.Stonith}
	if p.core != nil {
		p.describe(&r)
	} else if !rec.Primary.None() { // a voter without a replica hears the node itself
		r.HeardPrimary = p.w.now - p.heard[p.w.hostNamed(rec.Primary.Node).index]
	}
	to := p.w.hostNamed(leader)
	if to == p.h {
		p.decide(coordinator.Event{Kind: coordinator.EvReport, Report: r})
		return
	}
	w, from := p.w, p.h.index
	if w.isCut(ledgerTraffic, from, to.index) {
		return
	}
	w.after(w.latency(), func() {
		if q := to.proc; q != nil && !w.isCut(ledgerTraffic, from, to.index) {
			q.run(func() { q.decide(coordinator.Event{Kind: coordinator.EvReport, Report: r}) })
		}
	})
}

// describe fills in what a replica says of itself.
func (p *Proc) describe(r *coordinator.Report) {
	f := p.core.Fitness(p.h.clock())
	r.Incumbent = p.self()
	r.DiskState, r.Unclean, r.Failed, r.Hangs, r.Epoch, r.Generation = f.State.String(), f.Unclean, f.Failed, f.Hangs, f.Epoch, f.Generation
	r.InSet, r.HeardPrimary, r.Frozen, r.CannotDrop = f.SelfInSet, f.Heard, f.Frozen, f.CannotDrop
	r.Role = coordinator.RoleSecondary
	switch {
	case f.Starting:
		r.Role = coordinator.RoleStarting
	case f.Serving:
		r.Role = coordinator.RolePrimary
	case f.Stopping:
		r.Role = coordinator.RoleStopping
	}
}

// fire turns a node off, if the day's fence works.
func (p *Proc) fire(f quorum.Fence) {
	if p.firing[f.ID] {
		return
	}
	p.firing[f.ID] = true
	w, target := p.w, p.w.hostNamed(f.Target)
	done := func(res coordinator.FenceResult, text string) {
		delete(p.firing, f.ID)
		p.decide(coordinator.Event{Kind: coordinator.EvFenceDone, ID: f.ID, Fenced: res, Text: text})
	}
	shoot := func() {
		if target.bootID() == f.Boot && target.up {
			w.note(target, kindFault, "is shot by %s", p.h.name)
			target.crash()
			w.after(w.between(500*time.Millisecond, 3*time.Second), target.powerOn)
		}
	}
	// The agent asks the power switch: after off it says off, whoever turned it off. A boot that is
	// over is off, too.
	switch x := w.net.IntN(10); {
	case x < 6:
		p.into(w.between(10*time.Millisecond, 400*time.Millisecond), func() {
			shoot()
			done(coordinator.FenceOK, "off")
		})
	case x < 8:
		p.into(w.between(10*time.Millisecond, 400*time.Millisecond), func() { done(coordinator.FenceError, "no power switch") })
	case x < 9: // it hangs, and nothing happens
		p.into(fenceTimeout, func() { done(coordinator.FenceTimedOut, "no answer") })
	default: // it hangs, and works later
		w.after(w.between(fenceTimeout, 2*fenceTimeout), shoot)
		p.into(fenceTimeout, func() { done(coordinator.FenceTimedOut, "no answer") })
	}
}
