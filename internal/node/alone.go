package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
)

// ledgerFate is what only an operator may ask of a ledger.
type ledgerFate interface {
	OpenIncarnation(ctx context.Context, statement string) error
	KeepLedger(ctx context.Context) error
	GiveUpLedger(ctx context.Context) error
}

// ConfirmDown lets this node go on alone in a pair without a witness, on the operator's word that
// the other one is down (DESIGN section 4). The order binds: his word first, then every replica is
// asked whether this very process held it equal when the connection broke, and only then is the
// ledger rewritten, with his word in it.
func (b *backend) ConfirmDown(ctx context.Context, node string) error {
	self := b.m.self.Node
	st := b.m.ledger.State()
	if st == nil {
		return control.Errorf(control.CodeNoQuorum, "this node has not heard from the ledger yet").
			WithHint("start the other node").WithSafety(control.SafetyYes)
	}
	if err := judgePair(st, self, node); err != nil {
		return err
	}
	lst := b.facts.ledger()
	switch {
	case !votes(lst, self):
		return refusedf("%s has no vote in the ledger: it was still being admitted when %s was lost, and may lack what the ledger holds", self, node).
			WithHint("start %s", node)
	case lst.HasQuorum:
		return refusedf("the ledger has a majority, so %s decides nothing alone and needs no word on %s", self, node).
			WithHint("if %s went down just now, wait two seconds and try again; else: lockstep status", node)
	}
	asked, cancel := context.WithTimeout(ctx, viewTime)
	_, err := b.asker.ask(asked, node, question{Op: "view"})
	cancel()
	if err == nil {
		return refusedf("%s is not down: it answers", node).WithHint("lockstep status --node %s", node)
	}
	if err := b.mayAllGoAlone(st, node); err != nil {
		return err
	}
	statement := fmt.Sprintf("an operator confirmed to %s that %s is down", self, node)
	if err := b.fate.OpenIncarnation(ctx, statement); err != nil {
		return fateError(err)
	}
	b.journal.add("", "alone", statement+"; the ledger goes on with this node alone.", "peer", node)
	return nil
}

// judgePair returns nil if the only voters are self and node.
func judgePair(st *quorum.State, self, node string) error {
	other := st.Node(node)
	switch {
	case node == self:
		return control.Usagef("%s is the node that is asked; name the one that is down", node)
	case other == nil:
		return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", node).WithSafety(control.SafetyYes)
	case other.Gone:
		return refusedf("the ledger goes on without %s already", node).WithHint("lockstep status")
	}
	var more []string
	for _, n := range st.Nodes {
		if !n.Gone && n.Name != self && n.Name != node {
			more = append(more, n.Name)
		}
	}
	if len(more) > 0 {
		return refusedf("%s votes, too: only in a pair without a witness is one node enough", strings.Join(more, ", ")).
			WithHint("start %s: two of three are a majority", more[0])
	}
	return nil
}

// mayAllGoAlone judges every resource.
func (b *backend) mayAllGoAlone(st *quorum.State, node string) error {
	for i := range st.Resources {
		if err := b.mayGoAlone(&st.Resources[i], node); err != nil {
			return err
		}
	}
	return nil
}

// mayGoAlone judges one resource. One that has replicas on both nodes must be held equal here; the
// word of an operator stands for the power of the other, not for its data.
func (b *backend) mayGoAlone(rec *quorum.Resource, node string) error {
	self := b.m.self.Node
	if rec.Deleted || rec.Replica(self) == nil || rec.Replica(node) == nil {
		return nil
	}
	if w := b.m.find(rec.Name); w != nil {
		rep, f := w.open()
		if rep == nil {
			return refusedf("the replica of %s on %s is not open: %s", rec.Name, self, f.reason).WithHint("repair what it names")
		}
		if err := rep.MayGoAlone(node); err != nil {
			return refusedf("%s may not go on alone with %s: %v", self, rec.Name, err).
				WithHint("start %s; nothing is lost, and %s goes on by itself", node, rec.Name)
		}
		return nil
	}
	return refusedf("the replica of %s on %s is not open yet", rec.Name, self).WithHint("try again")
}

// DecideLedger carries out an operator's decision after two ledgers of one cluster met.
func (b *backend) DecideLedger(ctx context.Context, keep bool) error {
	was := b.facts.ledger()
	do, kind, text := b.fate.GiveUpLedger, "ledger_given_up", "The ledger of incarnation %x is set aside; this node joins the other one."
	if keep {
		do, kind, text = b.fate.KeepLedger, "ledger_kept", "The ledger of incarnation %x is kept; the other one is not heard any more."
	}
	if err := do(ctx); err != nil {
		return fateError(err)
	}
	b.journal.add("", kind, fmt.Sprintf(text, was.Incarnation))
	return nil
}

// fateError says what an operator can conclude.
func fateError(err error) error {
	switch {
	case errors.Is(err, ledger.ErrNoConflict):
		return refusedf("the ledger of this node has met no other one, so there is nothing to decide").WithHint("lockstep status")
	case errors.Is(err, ledger.ErrAlone):
		return refusedf("this node is the only voter already").WithHint("lockstep status")
	case errors.Is(err, ledger.ErrNotVoter):
		return refusedf("this node has no vote in the ledger").WithHint("lockstep status shows why")
	case errors.Is(err, ledger.ErrStopped):
		return refusedf("the ledger on this node has stopped for an operator").WithHint("lockstep status shows what to decide first")
	case errors.Is(err, ledger.ErrClosed):
		return refusedf("this node is stopping")
	}
	return control.Errorf(control.CodeOutcomeUnknown, "the ledger did not say what became of it: %v", err).
		WithHint("lockstep status").WithSafety(control.SafetyYes)
}
