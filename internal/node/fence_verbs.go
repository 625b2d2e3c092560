package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
)

// FenceTest finds out whether the devices of this node could turn another one off.
func (b *backend) FenceTest(ctx context.Context, node string) (control.FenceReport, error) {
	rep := control.FenceReport{Node: node, By: b.m.self.Node}
	if err := b.notItself(node, "test it from another node, which would fire"); err != nil {
		return rep, err
	}
	if b.addrOf(node) == "" {
		return rep, noNode(node)
	}
	t := fencing.Target{Node: node}
	if st := b.m.ledger.State(); st != nil {
		if n := st.Node(node); n != nil {
			t = targetOf(st, node, n.Boot, "a test")
		}
	}
	r := b.arms.Test(ctx, t)
	rep.Works = r.Works
	for _, f := range r.Findings {
		rep.Findings = append(rep.Findings, control.FenceFinding{Device: f.Device, Severity: f.Severity.String(), Text: f.Text})
	}
	return rep, nil
}

// notItself refuses a fence of this very node: it would not live to record it.
func (b *backend) notItself(node, hint string) error {
	switch {
	case node == b.m.self.Node:
		return refusedf("a node does not turn itself off, and this is %s", node).WithHint("%s: --node NAME", hint)
	case b.arms == nil:
		return refusedf("%s has no fence devices", b.m.self.Node).WithHint("name them in the node file; docs/fencing.md tells how")
	}
	return nil
}

func noNode(node string) error {
	return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", node).WithSafety(control.SafetyYes)
}

// Fence has a node turned off by way of the ledger: it is recorded before anybody fires, so only the
// executor that it names does, and what waits for the proof goes on by itself.
func (b *backend) Fence(ctx context.Context, node string, opts control.FenceOptions) (control.FenceRecord, error) {
	if node == b.m.self.Node {
		return control.FenceRecord{}, refusedf("a node does not turn itself off, and this is %s", node).WithHint("ask another node: --node NAME")
	}
	if opts.By == node {
		return control.FenceRecord{}, refusedf("%s cannot turn itself off", node).WithHint("name another node, or none")
	}
	if err := b.m.ledger.Barrier(ctx); err != nil {
		return control.FenceRecord{}, control.Errorf(control.CodeNoQuorum, "the ledger has no majority, so nobody may be named to fire: %v", err).
			WithHint("start the missing nodes; of two nodes without a witness: turn %s off by hand, then lockstep confirm-down %s", node, node).WithSafety(control.SafetyYes)
	}
	by, err := b.executor(ctx, node, opts.By)
	if err != nil {
		return control.FenceRecord{}, err
	}
	id, err := b.requestFence(ctx, node, by)
	if err != nil {
		return control.FenceRecord{}, err
	}
	return b.awaitFence(ctx, node, id)
}

// executor chooses who fires: whom the operator names, this node, or another one that can.
func (b *backend) executor(ctx context.Context, target, named string) (string, error) {
	st := b.m.ledger.State()
	if st.Node(target) == nil {
		return "", noNode(target)
	}
	self := b.m.self.Node
	if named == "" && b.arms != nil && b.arms.Can(target) {
		return self, nil
	}
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Gone || n.Name == target || named != "" && n.Name != named || named == "" && n.Name == self {
			continue
		}
		can, err := b.canOf(ctx, n.Name)
		switch {
		case err == nil && slices.Contains(can, target):
			return n.Name, nil
		case named != "" && err != nil:
			return "", refusedf("%s does not answer, so it cannot be the one that fires: %v", named, err)
		}
	}
	if named != "" {
		return "", refusedf("%s has no way to turn %s off", named, target).WithHint("lockstep fence test %s --node %s", target, named)
	}
	return "", refusedf("no node that answers has a way to turn %s off", target).WithHint("name its devices in [fencing]; docs/fencing.md tells how")
}

// canOf returns whom a node can turn off.
func (b *backend) canOf(ctx context.Context, node string) ([]string, error) {
	if node == b.m.self.Node {
		h, err := b.FenceHistory(ctx)
		return h.Can, err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*viewTime)
	defer cancel()
	h, err := b.client(node).FenceHistory(ctx)
	return h.Can, err
}

// requestFence records who is to turn node off, and returns the id of the request. One that is under
// way already is as good.
func (b *backend) requestFence(ctx context.Context, node, by string) (uint64, error) {
	id := b.m.fresh()
	var pause backoff
	for {
		st := b.m.ledger.State()
		n := st.Node(node)
		switch f := st.Fence(node); {
		case n == nil:
			return 0, noNode(node)
		case n.Boot == "":
			return 0, refusedf("%s never registered a start, so there is nothing that a fence could be about", node).
				WithHint("start its daemon once")
		case f != nil && (f.Phase == quorum.FenceAsked || f.Phase == quorum.FenceProven && f.Boot == n.Boot || f.ID == id):
			return f.ID, nil
		}
		res, err := attempt(ctx, b.m.ledger, quorum.Command{Version: st.Version, FenceRequested: &quorum.FenceRequested{
			Target: node, Boot: n.Boot, Executor: by, ID: id,
		}})
		switch {
		case err == nil && (res.Code == quorum.Applied || res.Code == quorum.CodeExists):
			b.journal.add("", "fence_requested", fmt.Sprintf("An operator has %s turn %s off.", by, node), "peer", node)
		case err == nil && res.Code != quorum.CodeStale:
			return 0, refusal(res)
		}
		if !pause.wait(ctx) {
			return 0, control.Errorf(control.CodeOutcomeUnknown, "the ledger did not say whether %s is to turn %s off: %v", by, node, errors.Join(err, ctx.Err())).
				WithHint("lockstep fence history").WithSafety(control.SafetyYes)
		}
	}
}

// awaitFence returns when the fence of that id has a result.
func (b *backend) awaitFence(ctx context.Context, node string, id uint64) (control.FenceRecord, error) {
	for {
		_, changed := b.m.watch()
		f := b.m.ledger.State().Fence(node)
		switch {
		case f == nil:
			return control.FenceRecord{}, refusedf("the request was taken back, or %s was started again meanwhile", node).WithHint("lockstep fence history")
		case f.ID == id && f.Phase == quorum.FenceProven:
			return fenceRecord(f), nil
		case f.ID == id && f.Phase == quorum.FenceMissed:
			return fenceRecord(f), control.Errorf(control.CodeFailed, "it is not proven that %s is off; %s says: %s", node, f.Executor, f.Text).
				WithHint("lockstep fence test %s --node %s, and lockstep fence history", node, f.Executor).WithSafety(control.SafetyYes)
		case f.ID != id:
			return control.FenceRecord{}, control.Errorf(control.CodeOutcomeUnknown, "another fence of %s was asked for meanwhile", node).WithHint("lockstep fence history")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fenceRecord(f), control.Errorf(control.CodeOutcomeUnknown, "%s has not said yet whether %s is off", f.Executor, node).
				WithHint("lockstep fence history").WithSafety(control.SafetyYes)
		}
	}
}

func fenceRecord(f *quorum.Fence) control.FenceRecord {
	return control.FenceRecord{Node: f.Target, Boot: f.Boot, By: f.Executor, Phase: string(f.Phase), Text: f.Text}
}

// Unfence lets a node back. The devices come first: as long as one holds the node off, the record is
// true.
func (b *backend) Unfence(ctx context.Context, node string) (control.UnfenceResult, error) {
	var out control.UnfenceResult
	if b.addrOf(node) == "" {
		return out, noNode(node)
	}
	if err := b.m.ledger.Barrier(ctx); err != nil {
		return out, control.Errorf(control.CodeNoQuorum, "the ledger has no majority: %v", err).
			WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
	}
	if b.arms != nil {
		st := b.m.ledger.State()
		boot := ""
		if f := st.Fence(node); f != nil {
			boot = f.Boot
		}
		attempts, err := b.arms.Unfence(ctx, targetOf(st, node, boot, "an operator lets it back"))
		out.Attempts = fenceAttempts(attempts)
		if err != nil {
			return out, control.Errorf(control.CodeFailed, "a device does not let %s back, so it stays recorded as it is: %v", node, err).
				WithHint("lockstep fence history --node %s", b.m.self.Node).WithSafety(control.SafetyYes)
		}
	}
	was, err := b.forgetFence(ctx, node)
	out.Was = was
	return out, err
}

// forgetFence has the ledger forget what it records about node, and returns that; nil if there was nothing.
func (b *backend) forgetFence(ctx context.Context, node string) (*control.FenceRecord, error) {
	var pause backoff
	var was *control.FenceRecord
	id := uint64(0)
	for {
		st := b.m.ledger.State()
		f := st.Fence(node)
		if f == nil || id != 0 && f.ID != id {
			return was, nil
		}
		rec := fenceRecord(f)
		was, id = &rec, f.ID
		res, err := attempt(ctx, b.m.ledger, quorum.Command{Version: st.Version, Unfence: &quorum.Unfence{Target: node}})
		switch {
		case err == nil && (res.Code == quorum.Applied || res.Code == quorum.CodeUnknown):
			b.journal.add("", "unfenced", fmt.Sprintf("An operator lets %s back; the fence of it was %s.", node, rec.Phase), "peer", node)
			return was, nil
		case err == nil && res.Code != quorum.CodeStale:
			return was, refusal(res)
		}
		if !pause.wait(ctx) {
			return was, control.Errorf(control.CodeOutcomeUnknown, "the ledger did not say whether it forgot the fence of %s: %v", node, errors.Join(err, ctx.Err())).
				WithHint("lockstep fence history").WithSafety(control.SafetyYes)
		}
	}
}

// FenceHistory tells what is known here of fences.
func (b *backend) FenceHistory(context.Context) (control.FenceHistory, error) {
	h := control.FenceHistory{Node: b.m.self.Node}
	if st := b.m.ledger.State(); st != nil {
		for i := range st.Fences {
			h.Recorded = append(h.Recorded, fenceRecord(&st.Fences[i]))
		}
	}
	if b.arms != nil {
		for _, p := range b.peers() {
			if b.arms.Can(p.Name) {
				h.Can = append(h.Can, p.Name)
			}
		}
		h.Attempts = fenceAttempts(b.arms.History())
	}
	return h, nil
}

func fenceAttempts(list []fencing.Attempt) []control.FenceAttempt {
	out := make([]control.FenceAttempt, 0, len(list))
	for _, a := range list {
		out = append(out, control.FenceAttempt{
			Node: a.Node, Boot: a.Boot, Resource: a.Resource, Reason: a.Reason, Device: a.Device, Level: a.Level, Try: a.Try,
			Action: a.Action, Begun: a.Begun, Ended: a.Ended, Failure: a.Failure, Text: a.Text, Output: a.Output,
		})
	}
	return out
}
