package node

import (
	"context"
	"log/slog"
	"sync"

	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// proposer carries the wishes of one replica's core to the ledger. It is safe for concurrent use,
// though a core has one proposal out at a time.
//
// The version of a proposal is its ticket: it is repeated with the same version until an
// answer is definite, and at most one of the copies can apply (safety rule 2). To propose anew
// with a newer version after a lost answer is for the core to decide, which sees the record first.
type proposer struct {
	ledger ledgerAPI
	log    *slog.Logger
	name   string // of the resource
	id     uint64
	peers  []string // in the order of replication.Config.Peers
	fresh  func() uint64

	mu     sync.Mutex
	self   quorum.Incumbent // Instance is set once the replica is open
	newest *quorum.Resource
	hold   bool // the next StepDown is an operator's demote
	misses backoff
	told   string // the refusal that was logged last; "" since something was applied
}

// note makes rec the newest known record, unless a newer one is known, and returns the newest.
func (p *proposer) note(rec *quorum.Resource) *quorum.Resource {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rec != nil && rec.ID == p.id && (p.newest == nil || rec.Version > p.newest.Version) {
		p.newest = rec
	}
	return p.newest
}

// setInstance completes the incumbent that proposals are made for.
func (p *proposer) setInstance(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.self.Instance = id
}

// incumbent returns what this process would be recorded as, were it primary.
func (p *proposer) incumbent() quorum.Incumbent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.self
}

// setHold says whether the next StepDown also holds the resource, which an operator's demote does
// and a shutdown or a switchover does not.
func (p *proposer) setHold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = on
}

// Propose asks the ledger for w and returns when the answer is definite, or with OutcomeUnknown
// when ctx ends first. The record is the newest known one; it is nil only if none ever was.
//
// OutcomeNotDone comes after a pause of 50 to 500 ms, longer with each one in a row: the core may
// ask again at once, or for something else.
func (p *proposer) Propose(ctx context.Context, w replication.Proposal) (replication.Outcome, *replication.Record) {
	cmd := p.command(w)
	var pause backoff
	unknown := false
	for {
		res, err := attempt(ctx, p.ledger, cmd)
		switch {
		case err == nil:
			p.resetDelay()
			return p.answer(cmd, res, unknown)
		case !outcomeUnknown(err) && !unknown:
			p.log.Debug("proposal not delivered", "command", cmd.String(), "err", err)
			p.delay(ctx)
			return replication.OutcomeNotDone, p.record()
		case outcomeUnknown(err):
			unknown = true
		}
		p.log.Debug("proposal without an answer", "command", cmd.String(), "err", err)
		if !pause.wait(ctx) {
			return replication.OutcomeUnknown, p.record()
		}
	}
}

// delay waits out the pause after a proposal that reached nobody.
func (p *proposer) delay(ctx context.Context) {
	p.mu.Lock()
	b := p.misses
	p.mu.Unlock()
	b.wait(ctx) // an end of ctx is the caller's to notice
	p.mu.Lock()
	p.misses = b
	p.mu.Unlock()
}

func (p *proposer) resetDelay() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.misses = 0
}

func (p *proposer) record() *replication.Record {
	if rec := p.note(nil); rec != nil {
		return record.Project(p.ledger.State(), rec, p.incumbent(), p.peers)
	}
	return nil
}

// answer turns the ledger's result into the core's words. A refused repetition of a proposal
// whose first copy was applied is recognised by its effect.
func (p *proposer) answer(cmd quorum.Command, res quorum.Result, unknown bool) (replication.Outcome, *replication.Record) {
	p.note(res.Resource)
	out := replication.OutcomeRefused
	if res.Code == quorum.Applied || unknown && res.Resource != nil && record.Took(cmd, res.Resource) {
		out = replication.OutcomeApplied
		p.repeats("")
	} else {
		level := slog.LevelInfo
		if p.repeats(res.Reason) {
			level = slog.LevelDebug // a node that an operator has to let back is refused for as long as he takes
		}
		p.log.Log(context.Background(), level, "ledger refused a proposal", "command", cmd.String(), "reason", res.Reason)
	}
	return out, p.record()
}

// repeats reports whether the last refusal had the same reason.
func (p *proposer) repeats(reason string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := p.told == reason
	p.told = reason
	return again
}

// command makes the ledger's command of w.
func (p *proposer) command(w replication.Proposal) quorum.Command {
	newest := p.note(nil)
	p.mu.Lock()
	by := record.Proposer{Resource: p.name, ResourceID: p.id, Self: p.self, Peers: p.peers, Newest: newest, Hold: p.hold}
	p.mu.Unlock()
	return by.Command(w, p.fresh())
}
