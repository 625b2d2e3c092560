package ledger

import (
	"context"
	"fmt"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// outcome is what a proposal is answered with.
type outcome struct {
	res quorum.Result
	err error
}

// Propose has c applied, through whichever node leads, and returns what became of it: applied or
// refused, see Result.Err. State then shows at least that. A nil error means that the outcome
// is known.
//
// Errors: ErrNotProposed, if c certainly has no effect, now or later; it may wrap
// quorum.ErrInvalid or ErrTooLarge. ErrOutcomeUnknown, if it may have been applied or yet be.
func (l *Ledger) Propose(ctx context.Context, c quorum.Command) (quorum.Result, error) {
	ctx, cancel := l.withTimeout(ctx)
	defer cancel()
	var p *voter.Proposal
	var refused error
	done := make(chan outcome, 1)
	err := l.call(ctx, func() {
		p, refused = l.v.Propose(c, func(res quorum.Result, err error) { done <- outcome{res, err} })
	})
	switch {
	case err != nil:
		return quorum.Result{}, fmt.Errorf("%w: %w", ErrNotProposed, err)
	case refused != nil:
		return quorum.Result{}, refused
	}
	select {
	case o := <-done:
		return o.res, o.err
	case <-ctx.Done():
	}
	var failed error
	if err := l.call(context.Background(), func() { failed = l.v.Withdraw(p, ctx.Err()) }); err != nil || failed == nil {
		o := <-done // it came between the two, or the loop has ended and told what is known
		return o.res, o.err
	}
	return quorum.Result{}, failed
}

// withTimeout gives ctx the default deadline if it has none.
func (l *Ledger) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, l.cfg.ProposeTimeout)
}

// Barrier returns when State shows everything that was applied anywhere before Barrier was
// called, as confirmed by a majority of the voters.
//
// Errors: ErrNoQuorum, if that could not be confirmed within ctx; State may then be old.
func (l *Ledger) Barrier(ctx context.Context) error {
	if err := l.await(ctx, l.v.Barrier); err != nil {
		return fmt.Errorf("read the ledger: %w: %w", ErrNoQuorum, err)
	}
	return nil
}

// TransferAway hands the lead to another voter, if this node has it, and returns when it has
// lost it. It serves a planned stop: the others need not wait for an election timeout.
//
// Errors: ErrNoQuorum, if no other voter took it within ctx.
func (l *Ledger) TransferAway(ctx context.Context) error {
	if err := l.await(ctx, l.v.TransferAway); err != nil {
		return fmt.Errorf("hand the ledger lead over: %w: %w", ErrNoQuorum, err)
	}
	return nil
}

// await starts a wait of the voter and returns when that is over, or ctx.
func (l *Ledger) await(ctx context.Context, start func(func(error)) *voter.Wait) error {
	ctx, cancel := l.withTimeout(ctx)
	defer cancel()
	var w *voter.Wait
	done := make(chan error, 1)
	if err := l.call(ctx, func() { w = start(func(err error) { done <- err }) }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		_ = l.call(context.Background(), func() { l.v.Forget(w) }) // a loop that has ended has forgotten it
		return ctx.Err()
	}
}

// OpenIncarnation lets this node's voter go on alone, in a new incarnation of the ledger that
// begins with its whole log; see voter.Voter.OpenIncarnation. The caller has made sure that the
// other voters are down, and says in statement how and on whose word.
//
// Errors: ErrNotVoter, ErrAlone, ErrStopped, ErrClosed, or that of ctx, and then nothing was
// done; any other means that this node cannot go on, and what was done is not known.
func (l *Ledger) OpenIncarnation(ctx context.Context, statement string) error {
	return l.decide(ctx, func() error { return l.v.OpenIncarnation(statement) })
}

// KeepLedger carries out an operator's decision, after this node's ledger met another one and
// both stopped (Status.Problem): this one goes on.
//
// Errors: ErrNoConflict, and as for OpenIncarnation.
func (l *Ledger) KeepLedger(ctx context.Context) error { return l.decide(ctx, l.v.Keep) }

// GiveUpLedger carries out the opposite decision: this node's ledger is set aside, and the node
// joins the other one.
//
// Errors: ErrNoConflict, and as for OpenIncarnation.
func (l *Ledger) GiveUpLedger(ctx context.Context) error { return l.decide(ctx, l.v.GiveUp) }

func (l *Ledger) decide(ctx context.Context, f func() error) error {
	var failed error
	if err := l.call(ctx, func() { failed = f() }); err != nil {
		return err
	}
	return failed
}
