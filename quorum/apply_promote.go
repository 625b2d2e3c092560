package quorum

import (
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// promote makes the candidate primary of a new epoch. Fitness beyond what the record shows
// (disk state, unclean mark, leases that still run) was judged by the proposer.
func promote(s *State, r *Resource, p *Promote) error {
	c := p.Candidate
	rep, err := candidate(r, c, p.NewEpoch)
	if err != nil {
		return err
	}
	switch {
	case r.Source == "" && !r.Registered():
		return refusef(ErrNotRegistered, "%s of %q has not made its metadata yet; a new resource starts with all replicas",
			unregistered(r), r.Name)
	case !rep.InSet:
		return refusef(ErrNotInSet, "the replica on %q may lack acknowledged writes of %q; in the set: %s",
			c.Node, r.Name, strings.Join(r.Set(), ", "))
	}
	if err := able(s, rep, c); err != nil {
		return err
	}
	if err := replaceable(s, r, p); err != nil {
		return err
	}
	if err := newGeneration(r, p.Generation); err != nil {
		return err
	}
	crown(s, r, c, p.NewEpoch)
	r.ChosenUnclean = p.Unclean
	return nil
}

// candidate returns the replica of c in r, if epoch is one that can follow.
func candidate(r *Resource, c Incumbent, epoch uint64) (*Replica, error) {
	rep := r.Replica(c.Node)
	switch {
	case epoch <= r.Epoch:
		return nil, refusef(ErrInvalid, "new epoch %d is not above the recorded epoch %d", epoch, r.Epoch)
	case rep == nil:
		return nil, refusef(ErrUnknown, "node %q has no replica of %q", c.Node, r.Name)
	}
	return rep, nil
}

// able judges whether c is the one that the State knows, and not known to be broken or gone.
func able(s *State, rep *Replica, c Incumbent) error {
	switch {
	case rep.Instance != c.Instance && (!planted.On(planted.JoinOfAnyInstance) || rep.Instance == 0):
		return refusef(ErrInstance, "the replica on %q is recorded as instance %x, not %x: its backing or metadata was replaced",
			c.Node, rep.Instance, c.Instance)
	case rep.Failed:
		return refusef(ErrFailed, "the disk of %q failed; replace it", c.Node)
	}
	return mayServe(s, c)
}

// replaceable judges whether the role is free for p. An operator overrides what operators have
// asked for; nobody but a proof, or an operator's word on it, overrides the recorded primary where
// the policy wants that. On its own node the candidate is a later process of that primary, or
// itself: the replica's lock admits one at a time.
func replaceable(s *State, r *Resource, p *Promote) error {
	switch {
	case r.Hold && !p.Operator:
		return refusef(ErrHold, "an operator demoted %q and holds it; promote it by hand to lift that", r.Name)
	case (r.Paused || r.Policy.Failover == FailoverManual) && !p.Operator:
		return refusef(ErrHold, "failover of %q is paused or manual; promote it by hand", r.Name)
	case r.Primary.None():
		return nil
	case !p.TakeOver:
		return refusef(ErrPrimary, "%s is primary of %q", r.Primary, r.Name)
	case r.Primary.Node == p.Candidate.Node, !r.Policy.needsProof(), s.PrimaryOver(r):
		return nil
	case p.Statement != "": // an operator's: see Command.check
		return nil
	}
	return refusef(ErrNotFenced, "%s is primary of %q, and the policy %q asks for a proof that it is down: a confirmed fence, or an operator's statement",
		r.Primary, r.Name, r.Policy.Fencing)
}

// crown makes c the primary of epoch. A promise to the one before it is released only if that one
// stepped down, which stepDown has noted, or is proven down at this moment.
func crown(s *State, r *Resource, c Incumbent, epoch uint64) {
	if !r.Primary.None() {
		end := EndReplaced
		if s.ProvenDown(r.Primary.Node, r.Primary.Boot) {
			end = EndFenced
		}
		r.LastPrimary, r.LastEpoch, r.LastEnd = r.Primary, r.Epoch, end
	}
	r.Primary, r.Epoch = c, epoch
	r.PrimaryKnown = s.Node(c.Node).Process == c.Process
	r.Hold = false // either it was not set, or an operator lifts it
}

func unregistered(r *Resource) string {
	var names []string
	for i := range r.Replicas {
		if r.Replicas[i].Instance == 0 {
			names = append(names, r.Replicas[i].Node)
		}
	}
	return strings.Join(names, ", ")
}

// newGeneration appends g to the lineage. Generations are random, so one that is there already
// is a command applied twice or a broken source of randomness.
func newGeneration(r *Resource, g uint64) error {
	if slices.Contains(r.Lineage, g) {
		return refusef(ErrExists, "generation %x is in the lineage of %q already", g, r.Name)
	}
	r.addGenerations(g)
	return nil
}

// forcePromote makes the candidate primary and the whole set, and cuts the history where the
// candidate's replica left it; what that replica went on with by itself takes its place. Whoever holds what was cut is no prefix any more and stays Diverged
// until an operator has seen both timelines (rule 14).
func forcePromote(s *State, r *Resource, p *ForcePromote) error {
	rep, err := candidate(r, p.Candidate, p.NewEpoch)
	if err != nil {
		return err
	}
	if err := able(s, rep, p.Candidate); err != nil {
		return err
	}
	if err := allDown(s, r, p); err != nil {
		return err
	}
	keep := 0
	if p.Fork != 0 {
		if keep = slices.Index(r.Lineage, p.Fork) + 1; keep == 0 {
			return refusef(ErrUnknown, "generation %x, which the replica on %q holds, is not in the lineage of %q: it has diverged",
				p.Fork, p.Candidate.Node, r.Name)
		}
	}
	cut := r.Lineage[keep:]
	for _, g := range append([]uint64{p.Generation}, p.Own...) {
		// A generation of its own that the record lists is one that both hold: Fork is too old.
		if slices.Contains(r.Lineage, g) {
			return refusef(ErrExists, "generation %x is in the lineage of %q already", g, r.Name)
		}
	}
	if !planted.On(planted.ForkAtRecordEnd) {
		r.Lineage = r.Lineage[:keep]
		if keep == 0 {
			r.LineageCut = 0 // the history begins anew
		}
	}
	r.addGenerations(append(slices.Clone(p.Own), p.Generation)...)
	crown(s, r, p.Candidate, p.NewEpoch)
	r.ChosenUnclean = true // whatever it was, it was chosen knowingly
	for i := range r.Replicas {
		r.Replicas[i].InSet = r.Replicas[i].Node == p.Candidate.Node
	}
	r.noteForced(p, cut)
	return nil
}

// noteForced records what was given up, for as long as MaxForced promotions of that kind.
func (r *Resource) noteForced(p *ForcePromote, cut []uint64) {
	f := Forced{Epoch: p.NewEpoch, Node: p.Candidate.Node, Fork: p.Fork, Generation: p.Generation,
		Cut: append([]uint64{}, cut[max(0, len(cut)-MaxForcedCut):]...), CutCount: len(cut),
		Down: append([]DownProof{}, p.Down...)}
	old := r.Forced[max(0, len(r.Forced)+1-MaxForced):]
	r.Forced = append(slices.Clone(old), f)
}

// allDown demands a proof or a statement for every node that could still accept writes by the old
// record, or that holds every acknowledged write and is given up.
func allDown(s *State, r *Resource, p *ForcePromote) error {
	own := p.Candidate.Node
	for i := range r.Replicas {
		if n := r.Replicas[i].Node; r.Replicas[i].InSet && n != own {
			if err := down(s, r, p, n); err != nil {
				return err
			}
		}
	}
	if n := r.Primary.Node; n != "" && n != own {
		return down(s, r, p, n)
	}
	return nil
}

func down(s *State, r *Resource, p *ForcePromote, node string) error {
	i := slices.IndexFunc(p.Down, func(d DownProof) bool { return d.Node == node })
	if i < 0 {
		return refusef(ErrNotFenced, "%q holds acknowledged writes of %q, or is its primary, and nothing says that it is down", node, r.Name)
	}
	d := p.Down[i]
	switch {
	case d.Operator:
		return nil
	case node == r.Primary.Node && d.Boot != r.Primary.Boot && !s.PrimaryOver(r) && !planted.On(planted.OldFenceProof):
		return refusef(ErrNotFenced, "the primary of %q on %q runs in boot %s; a fence of boot %s says nothing about it", r.Name, node, r.Primary.Boot, d.Boot)
	case !s.ProvenDown(node, d.Boot):
		return refusef(ErrNotFenced, "no confirmed fence of %q in boot %s is recorded", node, d.Boot)
	}
	return nil
}
