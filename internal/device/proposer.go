package device

import (
	"context"
	"sync"

	"github.com/lockstep-ha/lockstep/replication"
)

// proposal is what the core wants of the ledger.
type proposal struct {
	token uint64
	p     replication.Proposal
}

// propose has the ledger asked. Caller holds mu.
func (d *Device) propose(token uint64, p replication.Proposal) {
	d.asks.push(proposal{token: token, p: p})
}

// runAsker starts a goroutine for each proposal: one that finds no quorum must not stand in the
// way of the next. It returns once the queue is closed and those goroutines have ended. After
// the end of ctx the ledger is not asked any more; the core is going away and needs no answer.
func (d *Device) runAsker(ctx context.Context) {
	var each sync.WaitGroup
	defer each.Wait()
	for {
		p, ok := d.asks.pop()
		if !ok {
			return
		}
		if ctx.Err() == nil {
			each.Go(func() { d.ask(ctx, p) })
		}
	}
}

// ask asks the ledger and tells the core what became of it, the record first.
func (d *Device) ask(ctx context.Context, p proposal) {
	outcome, rec := d.deps.Proposer.Propose(ctx, p.p)
	t := d.begin(false)
	t.lock()
	if rec != nil {
		d.noteRecord(rec)
		t.event(replication.EvLedger).Record = rec
		t.step()
	}
	ev := t.event(replication.EvProposalDone)
	ev.Token, ev.Outcome = p.token, outcome
	t.step()
	d.announce()
	t.unlock()
	t.finish()
}
