package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// Promote makes this process primary in a new epoch and returns when it serves. If it is primary already, nothing is
// done: another epoch would end the connections of those who use it.
func (b *backend) Promote(ctx context.Context, resource string, opts control.PromoteOptions) error {
	w, _, err := b.local(resource)
	if err != nil {
		return err
	}
	end, err := w.begin()
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	return b.promote(ctx, w, opts)
}

func (b *backend) promote(ctx context.Context, w *worker, opts control.PromoteOptions) error {
	if b.m.closing.Load() {
		return refusedf("node %s is stopping", b.m.self.Node)
	}
	rec, err := b.fresh(ctx, w.name)
	if err == nil {
		err = b.awaitRegistration(ctx)
	}
	if err != nil {
		return err
	}
	rep, fault := w.await(ctx)
	w.caughtUp(ctx, rec.Version)
	self := w.prop.incumbent()
	cand := candidate{rec: rec, self: self, fault: fault, opts: opts, others: b.views(ctx, rec)}
	if rep != nil {
		cand.status, cand.fault = rep.Status(), nil
		if rec.Primary == self {
			return b.awaitServing(ctx, w, rep, rec.Epoch)
		}
	}
	epoch, err := b.proposePromote(ctx, w, cand)
	if err != nil {
		return err
	}
	b.journal.add(w.name, "promoted", fmt.Sprintf("%s is primary of epoch %d.", self.Node, epoch), "epoch", itoa(epoch))
	return b.awaitServing(ctx, w, rep, epoch)
}

// awaitServing returns once the replica here, which the ledger has made primary of epoch, serves.
func (b *backend) awaitServing(ctx context.Context, w *worker, rep replica, epoch uint64) error {
	self := b.m.self
	if err := rep.WaitPrimary(ctx, epoch); err != nil {
		st := rep.Status()
		if ctx.Err() == nil {
			return control.Errorf(control.CodeFailed, "%s became primary of epoch %d but does not serve: %v", self.Node, epoch, err).
				WithHint("lockstep status %s", w.name).WithSafety(control.SafetyYes)
		}
		return control.Errorf(control.CodeOutcomeUnknown, "%s is primary of epoch %d and does not serve yet: %s", self.Node, epoch, reason(st)).
			WithHint("it goes on by itself; watch it with: lockstep status %s --watch", w.name).WithSafety(control.SafetyYes)
	}
	return nil
}

// proposePromote asks the ledger until it has answered, judging each newer record anew, and
// returns the epoch. If another has made this process primary meanwhile, it is that one's.
func (b *backend) proposePromote(ctx context.Context, w *worker, cand candidate) (uint64, error) {
	return b.crown(ctx, w, cand.rec, cand.self, func(rec *quorum.Resource, generation uint64) (*quorum.Command, error) {
		cand.rec = rec
		if rec.Primary == cand.self {
			return nil, nil
		}
		if err := judge(cand); err != nil {
			return nil, err
		}
		c := quorum.On(rec)
		c.Promote = &quorum.Promote{
			Candidate: cand.self, NewEpoch: newEpoch(cand), Generation: generation,
			TakeOver: !rec.Primary.None(), Operator: true, Unclean: cand.status.Unclean,
		}
		return &c, nil
	})
}

// crown has the ledger make self the primary, by the command that build makes of each newer record,
// and returns the epoch.
func (b *backend) crown(ctx context.Context, w *worker, rec *quorum.Resource, self quorum.Incumbent,
	build func(rec *quorum.Resource, generation uint64) (*quorum.Command, error)) (uint64, error) {
	generation := b.m.fresh()
	var judged error
	res, err := decide(ctx, b.m.ledger, rec, func(rec *quorum.Resource) *quorum.Command {
		var c *quorum.Command
		if c, judged = build(rec, generation); judged != nil {
			return nil
		}
		return c
	}, func(rec *quorum.Resource) bool { return slices.Contains(rec.Lineage, generation) })
	if err == nil {
		err = judged
	}
	if err == nil {
		err = refusal(res)
	}
	if err != nil {
		return 0, err
	}
	rec = w.prop.note(res.Resource)
	if rep, _ := w.open(); rep != nil {
		if err := rep.SetRecord(record.Project(b.m.ledger.State(), rec, self, w.prop.peers)); err != nil {
			return 0, err
		}
	}
	return res.Resource.Epoch, nil
}

// Demote makes this primary a secondary, and holds the resource: nobody but an operator promotes
// it again. It returns when the role is recorded as given up.
func (b *backend) Demote(ctx context.Context, resource string) error {
	w, rec, err := b.local(resource)
	if err != nil {
		return err
	}
	end, err := w.begin()
	if err != nil {
		return err
	}
	defer end()
	rep, f := w.open()
	switch {
	case rec.Primary.None():
		return nil
	case rec.Primary.Node != b.m.self.Node:
		return notPrimary(rec, b.m.self.Node)
	case rep == nil:
		return refusedf("the replica on %s is not open: %s", b.m.self.Node, f.reason)
	case rep.Status().Role != rolePrimary:
		return notPrimary(rec, b.m.self.Node)
	}
	if err := b.release(ctx, w); err != nil { // as long as the services may take
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	return b.stop(ctx, w, rep, true)
}

// stop ends the role of the replica here; hold says that it is an operator's demote.
func (b *backend) stop(ctx context.Context, w *worker, rep replica, hold bool) error {
	w.prop.setHold(hold)
	defer w.prop.setHold(false)
	if err := rep.Stop(ctx, false); err != nil {
		return control.Errorf(control.CodeOutcomeUnknown, "%s serves no longer, but the ledger may not know yet that it gave up the role: %v", b.m.self.Node, err).
			WithHint("look with: lockstep status %s", w.name).WithSafety(control.SafetyYes)
	}
	b.journal.add(w.name, "demoted", b.m.self.Node+" has given up the role of the primary.")
	return nil
}

// Switchover hands the role to the node to, which must be in sync and connected. If that node then
// refuses, this one takes the role back.
func (b *backend) Switchover(ctx context.Context, resource, to string) error {
	w, rep, rec, err := b.leading(resource)
	if err != nil {
		return err
	}
	if err := judgeTarget(rec, b.m.self.Node, to, rep.Status()); err != nil {
		return err
	}
	if to == b.m.self.Node {
		return nil
	}
	end, err := w.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := b.targetFit(ctx, rec, to); err != nil {
		return err
	}
	if err := b.release(ctx, w); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	if err := b.stop(ctx, w, rep, false); err != nil {
		return err
	}
	err = b.client(to).Promote(ctx, resource, control.PromoteOptions{})
	if err == nil {
		return nil
	}
	// Nobody is primary now, unless the answer alone was lost: then promote finds that recorded
	// and refuses.
	if back := b.promote(ctx, w, control.PromoteOptions{}); back != nil {
		return control.Errorf(control.CodeFailed, "%s did not take the role (%v), and %s could not take it back: %v", to, err, b.m.self.Node, back).
			WithHint("lockstep status %s, then promote one of: %s", resource, set(rec)).WithSafety(control.SafetyYes)
	}
	return control.Errorf(control.CodeRefused, "%s did not take the role, so %s is primary again: %v", to, b.m.self.Node, err).
		WithHint("lockstep status %s --node %s", resource, to).WithSafety(control.SafetyYes)
}

// targetFit asks the target itself before anything is stopped for its sake.
func (b *backend) targetFit(ctx context.Context, rec *quorum.Resource, to string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*viewTime)
	defer cancel()
	a, err := b.asker.ask(ctx, to, question{Op: "view", Resource: rec.Name, ID: rec.ID, Version: rec.Version})
	switch {
	case err != nil:
		return refusedf("%s does not answer: %v", to, err)
	case a.Error != nil:
		return a.Error
	case a.View == nil || !a.View.Open:
		return refusedf("the replica on %s is not open", to).WithHint("lockstep status %s --node %s", rec.Name, to)
	case a.View.State != replication.UpToDate.String() || a.View.Unclean:
		return refusedf("the replica on %s says that it is %s", to, a.View.State).WithHint("lockstep status %s --node %s", rec.Name, to)
	}
	return nil
}
