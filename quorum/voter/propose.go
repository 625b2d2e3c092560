package voter

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"

	"github.com/lockstep-ha/lockstep/quorum"
)

// MaxProposal is the largest proposal, in bytes: the encoded command and its id.
const MaxProposal = 1 << 20

// resendTicks after a proposal went to the leader without an answer, it goes again.
const resendTicks = 4

// Proposal is a command of this node whose outcome is not known yet.
type Proposal struct {
	id       proposalID
	what     string // for errors
	command  []byte
	resource string
	done     func(quorum.Result, error)
	ended    bool // settled or withdrawn

	open     []int      // by attempt, from 1: copies that may still reach a log
	inLog    bool       // some log has, or had, it
	accepted leadership // the leadership that took it; it goes again when that ends
	sentTo   leadership // to which it went last
	sentTick int
}

// Propose has c applied, through whichever node leads. done is called, in a later Ready, with
// what became of it: applied or refused, see quorum.Result.Err. State then shows at least that.
// Nothing bounds the time: who does not want to wait any longer calls Withdraw. If the Voter is
// stopped first, done gets ErrNotProposed or ErrOutcomeUnknown.
//
// Errors, and then done is never called: ErrNotProposed, wrapping quorum.ErrInvalid, ErrTooLarge
// or what ended this Voter.
func (v *Voter) Propose(c quorum.Command, done func(quorum.Result, error)) (*Proposal, error) {
	b, err := quorum.EncodeCommand(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	p := &Proposal{what: c.String(), command: b, resource: c.Resource, done: done}
	if len(b)+len(p.id) > MaxProposal {
		return nil, fmt.Errorf("%w: %w: %d bytes", ErrNotProposed, ErrTooLarge, len(b))
	}
	if v.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotProposed, v.err)
	}
	binary.BigEndian.PutUint64(p.id[:8], v.rng())
	binary.BigEndian.PutUint64(p.id[8:], v.rng())
	v.register(p)
	return p, nil
}

func (v *Voter) register(p *Proposal) {
	v.proposals = append(v.proposals, p)
	v.advance(p)
}

// Withdraw gives p up because of cause, and says what is known of it; the word is final, and
// done is not called any more. It returns nil if the outcome is known by now: done was called
// with it, or is in the next Ready.
//
// Errors: ErrNotProposed, if the command certainly has no effect, now or later; else
// ErrOutcomeUnknown. Both wrap cause.
func (v *Voter) Withdraw(p *Proposal, cause error) error {
	if p.ended {
		return nil
	}
	v.remove(p)
	return p.failure(cause)
}

func (v *Voter) remove(p *Proposal) {
	p.ended = true
	v.proposals = slices.DeleteFunc(v.proposals, func(x *Proposal) bool { return x == p })
}

// find returns the proposal of that id that is under way here, nil if there is none.
func (v *Voter) find(id proposalID) *Proposal {
	for _, p := range v.proposals {
		if p.id == id {
			return p
		}
	}
	return nil
}

// failure is the error of a proposal that is given up because of cause.
func (p *Proposal) failure(cause error) error {
	inFlight := slices.ContainsFunc(p.open, func(copies int) bool { return copies > 0 })
	if !p.inLog && !inFlight {
		return fmt.Errorf("%s: %w: no leader took it: %w", p.what, ErrNotProposed, cause)
	}
	return fmt.Errorf("%s: %w: %w", p.what, ErrOutcomeUnknown, cause)
}

func (v *Voter) advanceProposals() {
	for _, p := range v.proposals {
		v.advance(p)
	}
}

// advance puts p into the leader's log, or asks the leader to, unless that was done in this
// leadership already.
func (v *Voter) advance(p *Proposal) {
	now := v.leadership()
	switch {
	case now.lead == raft.None || p.accepted == now || v.idle():
	case v.leads():
		if v.rn.Propose(append(p.id[:], p.command...)) == nil {
			p.inLog, p.accepted = true, now
		}
	case p.sentTo != now || v.ticks-p.sentTick >= resendTicks:
		f := proposeFrame(v.envelope(now.lead), proposeMsg{attempt: uint32(len(p.open) + 1), id: p.id, command: p.command})
		if n := v.net.Send(now.lead, f, p.sentTo == now); n > 0 {
			p.open = append(p.open, n)
			p.sentTo, p.sentTick = now, v.ticks
		}
	}
}

// proposed takes another node's proposal into the log, if this node leads. What would not decode
// is refused here: once in the log, it would stop every voter.
func (v *Voter) proposed(e Envelope, p proposeMsg) {
	r := verdictMsg{attempt: p.attempt, id: p.id, term: v.rn.BasicStatus().GetTerm()}
	if v.mach != nil {
		_, r.in = v.mach.byID[p.id]
	}
	if !r.in && v.leads() && len(p.command)+len(p.id) <= MaxProposal {
		if _, err := quorum.DecodeCommand(p.command); err != nil {
			v.log.Warn("proposal refused", "peer", v.nodeOf(e.From), "error", err)
		} else {
			r.in = v.rn.Propose(append(p.id[:], p.command...)) == nil
		}
	}
	v.net.Send(e.From, verdictFrame(v.envelope(e.From), r), false)
}

// judged takes the leader's word on one copy of a proposal.
func (v *Voter) judged(r verdictMsg) {
	p := v.find(r.id)
	if p == nil || r.attempt == 0 || int(r.attempt) > len(p.open) {
		return
	}
	if r.in {
		p.inLog = true
		if p.sentTo.term == r.term {
			p.accepted = p.sentTo
		}
		return
	}
	p.open[r.attempt-1]--
	if int(r.attempt) == len(p.open) {
		p.sentTo = leadership{} // to be sent again at the next tick
	}
}

// settle notes the result of a proposal of this node.
func (v *Voter) settle(id proposalID, res quorum.Result) {
	if p := v.find(id); p != nil {
		v.remove(p)
		v.answers = append(v.answers, func() { p.done(res, nil) })
	}
}

// settleFromMemory answers proposals whose entries came inside a snapshot.
func (v *Voter) settleFromMemory() {
	for _, p := range slices.Clone(v.proposals) {
		if o, ok := v.mach.byID[p.id]; ok {
			v.settle(p.id, v.mach.result(o, p.resource))
		}
	}
}
