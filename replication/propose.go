package replication

import (
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"slices"
	"time"
)

// proposalState is the one question to the ledger that may be under way.
type proposalState struct {
	busy    bool
	token   uint64
	asked   Proposal
	askedAt time.Duration // the first of those that got no answer since
	owedAt  time.Duration // the ledger owes an answer since, by Resource.awake; 0: it owes none
	retryAt time.Duration
}

// propose asks the ledger for whatever this primary needs next (rule 2).
func (r *Resource) propose() {
	if r.prop.busy || r.rec == nil || r.epoch == 0 || !r.rec.PrimaryIsMe || r.rec.Epoch != r.epoch || r.now < r.prop.retryAt {
		return
	}
	ask := Proposal{Epoch: r.epoch, Version: r.rec.Version}
	switch r.role {
	case roleStopped:
		ask.Kind, ask.Failed = ProposeStepDown, r.stopFail
	case roleStarting, rolePrimary, roleStopping:
		if !r.leading || !r.wanted(&ask) {
			return
		}
	default:
		return
	}
	if ask.Kind == ProposeDrop && planted.On(planted.ShrinkBeforeCommit) {
		for _, p := range ask.Peers {
			r.discount(r.peers[p])
		}
	}
	if ask.Kind == ProposeDrop {
		for _, p := range ask.Peers {
			r.peers[p].dropAsked = true
		}
	}
	r.prop.busy = true
	r.prop.token++
	if r.prop.asked.Kind != ask.Kind || r.prop.asked.Version != ask.Version {
		r.prop.askedAt = r.now
	}
	r.prop.asked = ask
	if r.prop.owedAt == 0 {
		r.prop.owedAt = r.awake
	}
	p := ask // ask itself stays off the heap when there is nothing to ask
	r.emit(Action{Kind: ActPropose, Token: r.prop.token, Proposal: &p})
}

// wanted fills in the Drop or the Join that is due.
func (r *Resource) wanted(ask *Proposal) bool {
	for _, p := range r.peers {
		if p.inSet && r.overdue(p) {
			ask.Kind = ProposeDrop
			ask.Peers = append(ask.Peers, p.idx)
			ask.Failed = ask.Failed || p.state == Failed
			if planted.On(planted.PartialDrop) {
				break
			}
		}
	}
	if ask.Kind == ProposeDrop {
		return r.handedToStaying(ask.Peers)
	}
	for _, p := range r.peers {
		if p.sync == syncJoining && !p.inSet && p.phase == phaseFollowing {
			if r.backToCopying(p) || r.now < p.joinAt {
				continue
			}
			if !r.handedAll(p) { // somebody left the set since it was made ready
				continue
			}
			p.joinAsked = true
			mark.Hit("join-proposed")
			ask.Kind, ask.Peers = ProposeJoin, []Peer{p.idx}
			return true
		}
		// What is not about to be asked again, and of which nobody knows what became, is made void (rule 2).
		switch {
		case p.joinAsked && !p.inSet:
			mark.Hit("join-made-void")
		case p.dropAsked && p.inSet && p.phase == phaseFollowing:
			mark.Hit("drop-made-void")
		default:
			continue
		}
		ask.Kind = ProposeNoOp
		return true
	}
	return false
}

// overdue reports whether member p has to be dropped for the others to go on.
func (r *Resource) overdue(p *peer) bool {
	switch {
	case p.mustDrop:
		return true
	case p.phase == phaseFollowing:
		return false
	}
	// A session that is up has more time to come to Follow, but one that comes and goes has not.
	grace := r.cfg.DropGrace
	switch {
	case p.phase == phaseNone:
	case r.role == roleStarting && p.frameAt < r.roleAt:
		// The session is a leftover of the time before: whoever is there beacons, and nothing came
		// since the promotion. Nobody is served until this one is equal or dropped.
		mark.Hit("silent-since-promotion")
		grace = max(grace, r.lease())
	default:
		grace = r.cfg.PeerTimeout
	}
	return r.now-max(p.lostAt, r.roleAt) >= grace
}

func (r *Resource) proposalDone(ev *Event) {
	if ev.Token != r.prop.token || !r.prop.busy {
		return
	}
	r.prop.busy = false
	switch ev.Outcome {
	case OutcomeApplied:
		r.prop.owedAt = 0
	case OutcomeRefused:
		r.prop.owedAt = 0
		r.prop.retryAt = r.now + r.cfg.DropGrace
		if r.refusedAgain() {
			return
		}
		if slices.Contains([]ProposalKind{ProposeDrop, ProposeJoin}, r.prop.asked.Kind) {
			why := "the record has changed"
			if ev.Err != nil {
				why = ev.Err.Error()
			}
			r.notice(NoticeRefused, "", "the ledger refused a change of the in-sync set: %s", why)
		}
	default:
		mark.Hit("proposal-outcome-unknown")
		r.prop.retryAt = r.now + r.cfg.DropGrace
		if r.prop.asked.Kind == ProposeStepDown && planted.On(planted.ServeWhileSteppingDown) {
			r.role, r.readmit = rolePrimary, true
		}
	}
}

// maxJoinPause is in units of DropGrace.
const maxJoinPause = 20

// refusedAgain puts a Join off that was refused, longer each time, and reports whether it had been refused
// before. The record may be as it was: a node that is recorded as turned off and runs is refused until an
// operator lets it back. A Drop is never put off: writes wait for it.
func (r *Resource) refusedAgain() bool {
	if r.prop.asked.Kind != ProposeJoin {
		return false
	}
	p := r.peers[r.prop.asked.Peers[0]]
	again := p.joinPause != 0
	p.joinPause = min(max(2*p.joinPause, r.cfg.DropGrace), maxJoinPause*r.cfg.DropGrace)
	p.joinAt = r.now + p.joinPause
	return again
}
