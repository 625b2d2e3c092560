package quorum

import (
	"slices"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// nodeStarted registers a start. The process that was registered before is over then: a node runs
// one at a time, and a late copy of its own command is decided on an older catalogue.
func nodeStarted(s *State, n *NodeStarted) (*State, error) {
	i, ok := s.findNode(n.Node)
	switch {
	case !ok:
		return nil, refusef(ErrUnknown, "there is no node %q", n.Node)
	case s.Nodes[i].Gone:
		return nil, refuseGone(n.Node)
	case s.Nodes[i].Process == n.Process && s.Nodes[i].Boot == n.Boot:
		return nil, refusef(ErrExists, "process %x of node %q is registered already", n.Process, n.Node)
	}
	next := *s
	if j, fenced := s.findFence(n.Node); fenced && !planted.On(planted.OldFenceProof) {
		switch f := &s.Fences[j]; {
		case f.Boot != n.Boot:
			next.Fences = remove(s.Fences, j)
		case f.Phase == FenceProven:
			return nil, refusef(ErrFenced, "node %q is recorded as turned off (%s), and yet it runs: what turns it off must be repaired; then: lockstep unfence %s",
				n.Node, f.Text, n.Node)
		}
	}
	next.Nodes = slices.Clone(s.Nodes)
	next.Nodes[i].Boot, next.Nodes[i].Process = n.Boot, n.Process
	return &next, nil
}

// fenceRequested records who is to be turned off by whom. Two nodes never shoot at each other: who
// is to be turned off does not fire, and who fires is not turned off meanwhile.
func fenceRequested(s *State, q *FenceRequested) (*State, error) {
	target, executor := s.Node(q.Target), s.Node(q.Executor)
	switch {
	case target == nil:
		return nil, refusef(ErrUnknown, "there is no node %q", q.Target)
	case executor == nil:
		return nil, refusef(ErrUnknown, "there is no node %q", q.Executor)
	case executor.Gone:
		return nil, refuseGone(q.Executor)
	case target.Boot != "" && target.Boot != q.Boot:
		return nil, refusef(ErrStale, "node %q was started again: it runs in boot %s, not %s", q.Target, target.Boot, q.Boot)
	}
	for i := range s.Fences {
		switch f := &s.Fences[i]; {
		case f.Target == q.Executor && f.Phase != FenceMissed:
			return nil, refusef(ErrFenced, "node %q is to be turned off itself, or is off", q.Executor)
		case f.Executor == q.Target && f.Phase == FenceAsked:
			return nil, refusef(ErrFenced, "node %q is about to turn %q off; two nodes do not shoot at each other", q.Target, f.Target)
		case f.Target != q.Target:
		case f.Phase == FenceAsked:
			return nil, refusef(ErrExists, "node %q is about to turn %q off already", f.Executor, q.Target)
		case f.Phase == FenceProven && f.Boot == q.Boot:
			return nil, refusef(ErrExists, "node %q is recorded as turned off already (%s)", q.Target, f.Text)
		case f.ID == q.ID:
			return nil, refusef(ErrExists, "fence %x is recorded already", q.ID)
		}
	}
	next := *s
	next.Fences = slices.Clone(s.Fences)
	fence := Fence{Target: q.Target, Boot: q.Boot, Executor: q.Executor, ID: q.ID, Phase: FenceAsked}
	if i, ok := s.findFence(q.Target); ok {
		next.Fences[i] = fence
	} else {
		next.Fences = insert(s.Fences, i, fence)
	}
	return &next, nil
}

// fenceEnded records the result of exactly the request that is still open.
func fenceEnded(s *State, target, boot string, id uint64, phase FencePhase, text string) (*State, error) {
	i, ok := s.findFence(target)
	if !ok {
		return nil, refusef(ErrUnknown, "no fence of node %q is recorded", target)
	}
	f := s.Fences[i]
	if f.Phase != FenceAsked || f.ID != id || f.Boot != boot {
		return nil, refusef(ErrStale, "the fence of node %q is %s, id %x, boot %s; the command means id %x, boot %s",
			target, f.Phase, f.ID, f.Boot, id, boot)
	}
	next := *s
	next.Fences = slices.Clone(s.Fences)
	next.Fences[i].Phase, next.Fences[i].Text = phase, text
	return &next, nil
}

func unfence(s *State, target string) (*State, error) {
	i, ok := s.findFence(target)
	if !ok {
		return nil, refusef(ErrUnknown, "no fence of node %q is recorded", target)
	}
	next := *s
	next.Fences = remove(s.Fences, i)
	return &next, nil
}

// mayJoin refuses a node whose replica cannot be what a command makes of it: it is off, as far as
// the record knows, or the ledger was opened without it.
func mayJoin(s *State, node string) error {
	if n := s.Node(node); n == nil || n.Gone {
		return refuseGone(node)
	}
	if f := s.Fence(node); f != nil && f.Phase == FenceProven && !planted.On(planted.OldFenceProof) {
		return refusef(ErrFenced, "node %q is recorded as turned off (%s); it registers its next start first", node, f.Text)
	}
	return nil
}

// mayServe refuses a candidate on such a node, and a process that is not the one that its node
// registered last: fitness was asked of a process that is gone (history 16).
func mayServe(s *State, i Incumbent) error {
	if err := mayJoin(s, i.Node); err != nil {
		return err
	}
	n := s.Node(i.Node)
	if n.Process != 0 && (n.Process != i.Process || n.Boot != i.Boot) && !planted.On(planted.PromoteAnyProcess) {
		return refusef(ErrStale, "node %q runs process %x in boot %s, not process %x in boot %s", i.Node, n.Process, n.Boot, i.Process, i.Boot)
	}
	return nil
}

func refuseGone(node string) error {
	return refusef(ErrUnknown, "node %q was left behind by this incarnation of the ledger; it must be added again first", node)
}
