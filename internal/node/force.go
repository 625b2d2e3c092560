package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// forced is what a forced promotion of this process is judged by.
type forced struct {
	candidate
	state   *quorum.State
	confirm []string // nodes that the operator confirmed to be down
	// resolve: an operator has chosen this replica's history while the others are up and nobody is
	// primary. Then his choice is what is said of them.
	resolve bool
}

// ForcePromote makes this process primary and its replica the whole set.
func (b *backend) ForcePromote(ctx context.Context, resource string, opts control.ForceOptions) (control.ForceResult, error) {
	w, rec, err := b.local(resource)
	if err != nil {
		return control.ForceResult{}, err
	}
	for _, n := range opts.ConfirmDown {
		if n == b.m.self.Node || rec.Replica(n) == nil {
			return control.ForceResult{}, control.Usagef("%s is no other node with a replica of %s; these are: %s", n, resource, strings.Join(record.Peers(rec, b.m.self.Node), ", "))
		}
	}
	end, err := w.begin()
	if err != nil {
		return control.ForceResult{}, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	return b.force(ctx, w, forced{confirm: opts.ConfirmDown})
}

// force fills f in, has the ledger asked and returns when this process serves.
func (b *backend) force(ctx context.Context, w *worker, f forced) (control.ForceResult, error) {
	var res control.ForceResult
	if b.m.closing.Load() {
		return res, refusedf("node %s is stopping", b.m.self.Node)
	}
	rec, err := b.fresh(ctx, w.name)
	if err == nil {
		err = b.awaitRegistration(ctx)
	}
	if err != nil {
		return res, err
	}
	rep, fault := w.await(ctx)
	w.caughtUp(ctx, rec.Version)
	f.candidate = candidate{rec: rec, self: w.prop.incumbent(), fault: fault, others: b.views(ctx, rec)}
	if rep != nil {
		f.status, f.fault = rep.Status(), nil
	}
	var lost control.Loss
	epoch, err := b.crown(ctx, w, f.rec, f.self, func(rec *quorum.Resource, generation uint64) (*quorum.Command, error) {
		f.rec, f.state = rec, b.m.ledger.State()
		if err := judgeForce(&f); err != nil {
			return nil, err
		}
		fork, beyond, own := parting(rec.Lineage, f.status.Lineage)
		lost = f.loss()
		down, err := f.downProofs(lost)
		if err != nil {
			return nil, err
		}
		c := quorum.On(rec)
		c.ForcePromote = &quorum.ForcePromote{Candidate: f.self, NewEpoch: newEpoch(f.candidate), Generation: generation, Fork: fork, Own: own, Down: down}
		w.log.Warn("promotion by force", "fork", generationID(fork), "cut", len(beyond), "own", len(own), "down", fmt.Sprint(down))
		return &c, nil
	})
	if err != nil {
		return res, err
	}
	b.journal.add(w.name, "force_promoted", fmt.Sprintf("%s is primary of epoch %d by force; given up: %s.", b.m.self.Node, epoch, lossText(lost)), "epoch", itoa(epoch))
	return control.ForceResult{Epoch: epoch, Lost: lost}, b.awaitServing(ctx, w, rep, epoch)
}

// judgeForce returns nil if the replica of f may be promoted whatever the set is, else why not.
// An Inconsistent replica never is: it is half of one state and half of another.
func judgeForce(f *forced) error {
	name, self := f.rec.Name, f.self.Node
	mine := f.rec.Replica(self)
	switch {
	case mine == nil:
		return notHere(f.rec, self)
	case f.rec.Deleted:
		return refusedf("%s is being deleted", name)
	case f.fault != nil:
		return refusedf("the replica on %s cannot serve: %s", self, f.fault.reason).WithHint("repair what it names")
	case mine.Instance != f.self.Instance:
		return refusedf("the replica on %s is another one than the ledger names", self)
	case mine.Failed || f.status.State == replication.Failed:
		return refusedf("the disk of %s failed; its replica serves nothing until it is replaced", self)
	case f.resolve && !f.rec.Primary.None():
		return judgeKeepOther(f.rec, self, nil)
	case f.rec.Epoch == 0:
		return refusedf("%s never had a primary, so there is nothing to force", name).WithHint("lockstep promote %s --on %s", name, self)
	}
	switch f.status.State {
	case replication.UpToDate, replication.Outdated, replication.Diverged:
	default:
		return refusedf("the replica on %s is %s: it is no copy of any moment, and no force makes it one", self, f.status.State).
			WithHint("start a node of: %s", set(f.rec))
	}
	usual := f.candidate
	usual.opts.TakeOver = true
	if !f.resolve && judge(usual) == nil {
		hint := "lockstep promote %s --on %s"
		if !f.rec.Primary.None() && f.rec.Primary.Node != self {
			hint += " --confirm-peer-down"
		}
		return refusedf("the replica on %s holds every acknowledged write of %s, so no force is needed", self, name).WithHint(hint, name, self)
	}
	return nil
}

// loss is what the recorded history holds and the replica of f does not.
func (f *forced) loss() control.Loss {
	fork, beyond, _ := parting(f.rec.Lineage, f.status.Lineage)
	return control.Loss{Fork: generationID(fork), Generations: generations(f.rec, beyond), Bytes: -1}
}

// downProofs says of every other member, and of the primary, why it is taken for down. A refusal
// tells what would be lost: the operator may want to start such a node instead.
func (f *forced) downProofs(lost control.Loss) ([]quorum.DownProof, error) {
	var out []quorum.DownProof
	var missing []string
	name, self := f.rec.Name, f.self.Node
	for i := range f.rec.Replicas {
		r := &f.rec.Replicas[i]
		if r.Node == self || !r.InSet && f.rec.Primary.Node != r.Node {
			continue
		}
		_, answers := f.others[r.Node]
		boot := f.bootOf(r.Node)
		switch {
		case answers && f.resolve:
			out = append(out, quorum.DownProof{Node: r.Node, Operator: true,
				Text: quorum.Printable(fmt.Sprintf("an operator gave up the history on %s for that on %s; nobody was primary", r.Node, self), quorum.MaxText)})
		case answers:
			return nil, refusedf("%s is not down: it answers, and it holds what %s lacks: %s", r.Node, self, lossText(lost)).
				WithHint("lockstep promote %s --on %s; if its data is not wanted: stop it, then try again", name, r.Node)
		case boot != "" && f.state.ProvenDown(r.Node, boot):
			out = append(out, quorum.DownProof{Node: r.Node, Boot: boot})
		case slices.Contains(f.confirm, r.Node):
			out = append(out, quorum.DownProof{Node: r.Node, Operator: true, Text: fmt.Sprintf("an operator confirmed to %s that %s is down", self, r.Node)})
		default:
			missing = append(missing, r.Node)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	confirm := ""
	for _, n := range append(slices.Clone(f.confirm), missing...) {
		confirm += " --confirm-down " + n
	}
	return nil, refusedf("to promote %s by force gives up: %s; those of %s hold it, and nothing says that they are down", self, lossText(lost), strings.Join(missing, ", ")).
		WithHint("start %s, and nothing is lost; or, if they are down for certain and not to be had back: lockstep promote %s --on %s --force%s",
			strings.Join(missing, ", "), name, self, confirm)
}

// bootOf is the boot of a node that a fence has to be about.
func (f *forced) bootOf(node string) string {
	if f.rec.Primary.Node == node {
		return f.rec.Primary.Boot
	}
	if n := f.state.Node(node); n != nil {
		return n.Boot
	}
	return ""
}
