package ledger

import (
	"context"
	"crypto/rand"
	"fmt"

	"go.etcd.io/raft/v3"

	"github.com/lockstep-ha/lockstep/quorum"
)

// MaxProposal is the largest proposal, in bytes: the encoded command and its id.
const MaxProposal = 1 << 20

// resendTicks after a proposal went to the leader without an answer, it goes again.
const resendTicks = 4

// proposal is a command of this node whose outcome is not known yet. Only the loop uses it, but
// for done.
type proposal struct {
	id       proposalID
	command  []byte
	resource string
	done     chan quorum.Result // capacity 1; closed without a result when the loop ends

	attempts uint32
	open     map[uint32]int // attempt -> copies of it that may still reach a log
	inLog    bool           // some log has, or had, it
	accepted leadership     // the leadership that took it; it goes again when that ends
	sentTo   leadership
	sentTick int
	certain  bool // set when it is given up: it can reach no log any more
}

// answered is a result that waits for the state it is part of to be published.
type answered struct {
	p   *proposal
	res quorum.Result
}

// Propose has c applied, through whichever node leads, and returns what became of it: applied or
// refused, see Result.Err. State then shows at least that. A nil error means that the outcome
// is known.
//
// Errors: ErrNotProposed, if c certainly has no effect, now or later; it may wrap
// quorum.ErrInvalid or ErrTooLarge. ErrOutcomeUnknown, if it may have been applied or yet be.
func (l *Ledger) Propose(ctx context.Context, c quorum.Command) (quorum.Result, error) {
	b, err := quorum.EncodeCommand(c)
	if err != nil {
		return quorum.Result{}, fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	p := &proposal{command: b, resource: c.Resource, done: make(chan quorum.Result, 1), open: map[uint32]int{}}
	if len(b)+len(p.id) > MaxProposal {
		return quorum.Result{}, fmt.Errorf("%w: %w: %d bytes", ErrNotProposed, ErrTooLarge, len(b))
	}
	rand.Read(p.id[:])
	ctx, cancel := l.withTimeout(ctx)
	defer cancel()
	if err := l.call(ctx, func() { l.register(p) }); err != nil {
		return quorum.Result{}, fmt.Errorf("%w: %w", ErrNotProposed, err)
	}
	select {
	case res, ok := <-p.done:
		if ok {
			return res, nil
		}
		return quorum.Result{}, p.failure(&c, ErrClosed)
	case <-ctx.Done():
	}
	if err := l.call(context.Background(), func() { l.withdraw(p) }); err != nil {
		if res, ok := <-p.done; ok { // the loop has ended, and with it the wait
			return res, nil
		}
		return quorum.Result{}, p.failure(&c, ctx.Err())
	}
	select {
	case res := <-p.done: // it came between the two
		return res, nil
	default:
		return quorum.Result{}, p.failure(&c, ctx.Err())
	}
}

// failure is the error of a proposal that was given up because of cause.
func (p *proposal) failure(c *quorum.Command, cause error) error {
	if p.certain {
		return fmt.Errorf("%s: %w: no leader took it: %w", c, ErrNotProposed, cause)
	}
	return fmt.Errorf("%s: %w: %w", c, ErrOutcomeUnknown, cause)
}

// withTimeout gives ctx the default deadline if it has none.
func (l *Ledger) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, l.cfg.ProposeTimeout)
}

func (l *Ledger) register(p *proposal) {
	l.proposals[p.id] = p
	l.advance(p)
}

// withdraw gives p up. What p.certain then says is final.
func (l *Ledger) withdraw(p *proposal) {
	delete(l.proposals, p.id)
	p.certain = !p.inLog && len(p.open) == 0
}

// abandon ends all proposals and reads when the loop ends.
func (l *Ledger) abandon() {
	l.answerAll()
	for _, p := range l.proposals {
		l.withdraw(p)
		close(p.done)
	}
	clear(l.reads) // their callers see that the ledger is closed
}

func (l *Ledger) advanceProposals() {
	for _, p := range l.proposals {
		l.advance(p)
	}
}

// advance puts p into the leader's log, or asks the leader to, unless that was done in this
// leadership already.
func (l *Ledger) advance(p *proposal) {
	b := l.rn.BasicStatus()
	now := leadership{term: b.GetTerm(), lead: b.Lead}
	switch {
	case b.Lead == raft.None || p.accepted == now || l.store.id.Lost:
	case b.RaftState == raft.StateLeader:
		if l.rn.Propose(append(p.id[:], p.command...)) == nil {
			p.inLog, p.accepted = true, now
		}
	case p.sentTo != now || l.ticks-p.sentTick >= resendTicks:
		p.attempts++
		e := envelope{from: l.store.id.Voter, to: b.Lead, incarnation: l.store.id.Incarnation}
		f := proposeFrame(e, proposeMsg{attempt: p.attempts, id: p.id, command: p.command})
		if n := l.mesh.send(b.Lead, f, p.sentTo == now); n > 0 {
			p.open[p.attempts] = n
			p.sentTo, p.sentTick = now, l.ticks
		}
	}
}

// proposed takes another node's proposal into the log, if this node leads. What would not decode
// is refused here: once in the log, it would stop every voter.
func (l *Ledger) proposed(e envelope, p proposeMsg) {
	v := verdictMsg{attempt: p.attempt, id: p.id}
	b := l.rn.BasicStatus()
	if l.mach != nil {
		_, v.in = l.mach.byID[p.id]
	}
	if !v.in && b.RaftState == raft.StateLeader && len(p.command)+len(p.id) <= MaxProposal {
		if _, err := quorum.DecodeCommand(p.command); err != nil {
			l.log.Warn("proposal refused", "peer", l.nodeOf(e.from), "error", err)
		} else {
			v.in = l.rn.Propose(append(p.id[:], p.command...)) == nil
		}
	}
	v.term = b.GetTerm()
	back := envelope{from: e.to, to: e.from, incarnation: e.incarnation}
	l.mesh.send(e.from, verdictFrame(back, v), false)
}

// judged takes the leader's word on one copy of a proposal.
func (l *Ledger) judged(v verdictMsg) {
	p := l.proposals[v.id]
	if p == nil {
		return
	}
	if v.in {
		p.inLog = true
		if p.sentTo.term == v.term {
			p.accepted = p.sentTo
		}
		return
	}
	if p.open[v.attempt]--; p.open[v.attempt] <= 0 {
		delete(p.open, v.attempt)
	}
	if v.attempt == p.attempts {
		p.sentTo = leadership{} // to be sent again at the next tick
	}
}

// settle notes the result of a proposal of this node.
func (l *Ledger) settle(id proposalID, res quorum.Result) {
	if p := l.proposals[id]; p != nil {
		delete(l.proposals, id)
		l.answers = append(l.answers, answered{p: p, res: res})
	}
}

// settleFromMemory answers proposals whose entries came inside a snapshot.
func (l *Ledger) settleFromMemory() {
	for id, p := range l.proposals {
		if o, ok := l.mach.byID[id]; ok {
			l.settle(id, l.mach.result(o, p.resource))
		}
	}
}

// answerAll hands results out, after the state that they are part of was published.
func (l *Ledger) answerAll() {
	for _, a := range l.answers {
		a.p.done <- a.res
	}
	l.answers = nil
}
