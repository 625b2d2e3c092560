package quorum

import (
	"cmp"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Fence is what is recorded about turning one node off. As a proof it is about one boot of the
// node alone, which is over for good once it was off: a boot id never comes back. It stands until
// the node registers a start in another boot.
type Fence struct {
	Target   string     `json:"target"`
	Boot     string     `json:"boot"`     // the boot of Target that it is about
	Executor string     `json:"executor"` // the only node that may fire
	ID       uint64     `json:"id"`       // of the request, random
	Phase    FencePhase `json:"phase"`
	Text     string     `json:"text"` // what proved it, or why it failed; "" while it is requested
}

// FencePhase tells how far a fence has come.
//
//	FenceRequested -> requested -- FenceConfirmed --> confirmed
//	                      |
//	                      +------- FenceFailed -----> failed -- FenceRequested --> requested
//
// Nothing leads from failed to confirmed: a fence that succeeds after it was given up is asked
// for again. Unfence, RemoveNode and NodeStarted in another boot remove it in any phase.
type FencePhase string

// Phases of a fence.
const (
	FenceAsked  FencePhase = "requested" // its executor is to fire, or has fired
	FenceProven FencePhase = "confirmed" // the boot is proven to be over
	FenceMissed FencePhase = "failed"    // nothing is proven
)

// Fence returns what is recorded about fencing target, nil if nothing is. The caller must not
// change it.
func (s *State) Fence(target string) *Fence {
	if i, ok := s.findFence(target); ok {
		return &s.Fences[i]
	}
	return nil
}

func (s *State) findFence(target string) (int, bool) {
	return slices.BinarySearchFunc(s.Fences, target, func(f Fence, t string) int { return cmp.Compare(f.Target, t) })
}

// ProvenDown reports whether a confirmed fence shows that this boot of node is over. The proof of
// another boot says nothing: the node was started since (history 24).
func (s *State) ProvenDown(node, boot string) bool {
	f := s.Fence(node)
	return f != nil && f.Phase == FenceProven && (f.Boot == boot || planted.On(planted.OldFenceProof))
}

// PrimaryOver reports whether the State proves that the recorded primary of r runs no more: its
// boot was fenced, or its node registered a later process. False if none is recorded.
func (s *State) PrimaryOver(r *Resource) bool {
	p := r.Primary
	if p.None() {
		return false
	}
	if s.ProvenDown(p.Node, p.Boot) {
		return true
	}
	n := s.Node(p.Node)
	return r.PrimaryKnown && n != nil && n.Process != p.Process
}

// Released reports whether what members promised to the primary of epoch of r is void: that very
// primary stepped down in that very epoch, or was proven down by a fence (rule 4). A false answer
// means that the promise must run out. The State must not be older than the promise.
func (s *State) Released(r *Resource, epoch uint64) bool {
	switch {
	case epoch == 0:
		return false
	case epoch == r.Epoch && r.Primary.None():
		return true // only StepDown takes a primary away without another one
	case epoch == r.Epoch:
		return s.ProvenDown(r.Primary.Node, r.Primary.Boot)
	case epoch == r.LastEpoch:
		return r.LastEnd == EndStepDown || r.LastEnd == EndFenced
	}
	return false
}
