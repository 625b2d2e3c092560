package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// ledgerAPI is what this package needs of the raft ledger.
type ledgerAPI interface {
	// Propose returns the ledger's answer, or ledger.ErrNotProposed (certainly not done), or any
	// other error: unknown.
	Propose(ctx context.Context, c quorum.Command) (quorum.Result, error)
	// State returns the newest applied state of this voter; nil before there is one.
	State() *quorum.State
	// Barrier returns once State holds everything that was committed before the call.
	Barrier(ctx context.Context) error
}

// attemptTimeout bounds one attempt of a proposal, so that a leader that vanished is noticed.
const attemptTimeout = 3 * time.Second

// backoff is the wait between attempts; it doubles from 50 to 500 ms.
type backoff time.Duration

const (
	backoffMin = backoff(50 * time.Millisecond)
	backoffMax = backoff(500 * time.Millisecond)
)

// wait blocks for the next interval and reports whether ctx is still alive.
func (b *backoff) wait(ctx context.Context) bool {
	*b = min(max(*b*2, backoffMin), backoffMax)
	t := time.NewTimer(time.Duration(*b))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt proposes c once, for at most attemptTimeout.
func attempt(ctx context.Context, l ledgerAPI, c quorum.Command) (quorum.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return l.Propose(ctx, c)
}

// decide proposes what build makes of the newest record until the ledger has answered or ctx
// ends. A refusal because the record has moved on (quorum.ErrStale) makes it build anew from the
// record that came with it; build returns nil when nothing is left to be done.
//
// After an attempt of unknown outcome, done must be able to tell from a record whether the effect
// is there: the attempt may have been applied, and its repetition is then refused. An effect that
// is there counts as applied.
//
// The error is a *control.Error: CodeNoQuorum when certainly nothing was proposed,
// CodeOutcomeUnknown otherwise. A refusal of the ledger is no error here: see Result.Err.
func decide(ctx context.Context, l ledgerAPI, rec *quorum.Resource,
	build func(rec *quorum.Resource) *quorum.Command, done func(rec *quorum.Resource) bool) (quorum.Result, error) {
	var pause backoff
	unknown := false
	for {
		cmd := build(rec)
		if cmd == nil {
			return quorum.Result{Resource: rec}, nil
		}
		res, err := attempt(ctx, l, *cmd)
		switch {
		case err == nil && res.Code == quorum.CodeStale && res.Resource != nil:
			moved := res.Resource.Version != cmd.Version
			rec = res.Resource
			if unknown && done(rec) {
				return quorum.Result{Resource: rec}, nil
			}
			if moved {
				continue // the version only grows: this ends when others leave the record alone
			}
			err = res.Err() // stale for another reason than the record: not before something changes
		case err == nil && res.Code != quorum.Applied && unknown && res.Resource != nil && done(res.Resource):
			return quorum.Result{Resource: res.Resource}, nil
		case err == nil:
			return res, nil
		case outcomeUnknown(err):
			unknown = true
		}
		if !pause.wait(ctx) {
			return quorum.Result{}, lostProposal(cmd, unknown, err)
		}
	}
}

// outcomeUnknown reports whether a proposal that failed with err may apply all the same.
func outcomeUnknown(err error) bool { return !errors.Is(err, ledger.ErrNotProposed) }

// lostProposal says what an operator can conclude from a proposal that was never answered.
func lostProposal(cmd *quorum.Command, unknown bool, err error) error {
	if unknown {
		return control.Errorf(control.CodeOutcomeUnknown,
			"the ledger did not say what became of %s of %s: %v", cmd.Kind(), cmd.Resource, err).
			WithHint("look with: lockstep status %s", cmd.Resource).WithSafety(control.SafetyYes)
	}
	return control.Errorf(control.CodeNoQuorum, "the ledger has no majority, so %s of %s was not done: %v",
		cmd.Kind(), cmd.Resource, err).
		WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
}

// refusal turns a refused result into the error an operator sees; nil when it was applied.
func refusal(res quorum.Result) error {
	err := res.Err()
	if err == nil {
		return nil
	}
	code := control.CodeRefused
	switch res.Code {
	case quorum.CodeUnknown:
		code = control.CodeNotFound
	case quorum.CodeExists:
		code = control.CodeExists
	case quorum.CodeInvalid:
		code = control.CodeUsage
	case quorum.CodeStale, quorum.CodeDeleted:
		code = control.CodeBusy
	case quorum.CodeNotPrimary:
		code = control.CodeNotPrimary
	}
	return fmt.Errorf("%w", control.Errorf(code, "%s", res.Reason).WithSafety(control.SafetyYes))
}
