package quorum

import (
	"slices"
	"strings"
)

// promote makes the candidate primary of a new epoch. Fitness beyond what the record shows
// (disk state, unclean mark, leases that still run) was judged by the proposer.
func promote(r *Resource, p *Promote) error {
	c := p.Candidate
	rep := r.Replica(c.Node)
	switch {
	case p.NewEpoch <= r.Epoch:
		return refusef(ErrInvalid, "new epoch %d is not above the recorded epoch %d", p.NewEpoch, r.Epoch)
	case rep == nil:
		return refusef(ErrUnknown, "node %q has no replica of %q", c.Node, r.Name)
	case r.Source == "" && !r.Registered():
		return refusef(ErrNotRegistered, "%s of %q has not made its metadata yet; a new resource starts with all replicas",
			unregistered(r), r.Name)
	case !rep.InSet:
		return refusef(ErrNotInSet, "the replica on %q may lack acknowledged writes of %q; in the set: %s",
			c.Node, r.Name, strings.Join(r.Set(), ", "))
	case rep.Instance != c.Instance:
		return refusef(ErrInstance, "the replica on %q is recorded as instance %x, not %x: its backing or metadata was replaced",
			c.Node, rep.Instance, c.Instance)
	case rep.Failed:
		return refusef(ErrFailed, "the disk of %q failed; replace it", c.Node)
	case r.Hold && !p.Operator:
		return refusef(ErrHold, "an operator demoted %q and holds it; promote it by hand to lift that", r.Name)
	case !r.Primary.None() && !p.TakeOver:
		return refusef(ErrPrimary, "%s is primary of %q", r.Primary, r.Name)
	}
	if err := newGeneration(r, p.Generation); err != nil {
		return err
	}
	if !r.Primary.None() {
		r.LastPrimary = r.Primary
	}
	r.Primary, r.Epoch = c, p.NewEpoch
	r.ChosenUnclean = p.Unclean
	r.Hold = false // either it was not set, or an operator lifts it
	return nil
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
	r.addGeneration(g)
	return nil
}

// mustLead refuses whoever is not exactly the recorded primary: the node's name alone would let
// an earlier process of it change the set.
func mustLead(r *Resource, i Incumbent) error {
	if r.Primary.None() || r.Primary != i {
		return refusef(ErrNotPrimary, "%s is not the primary of %q in epoch %d; that is %s", i, r.Name, r.Epoch, r.Primary)
	}
	return nil
}

func stepDown(r *Resource, d *StepDown) error {
	if err := mustLead(r, d.Incumbent); err != nil {
		return err
	}
	r.LastPrimary, r.Primary = r.Primary, Incumbent{}
	if d.Hold {
		r.Hold = true
	}
	if d.Failed {
		rep := r.Replica(d.Incumbent.Node)
		rep.Failed = true
		// The last member stays: the set would be empty, and there is no other copy to prefer.
		rep.InSet = len(r.Set()) == 1
	}
	return nil
}

func dropReplica(r *Resource, d *DropReplica) error {
	if err := mustLead(r, d.Incumbent); err != nil {
		return err
	}
	for _, n := range d.Nodes {
		rep := r.Replica(n)
		switch {
		case rep == nil:
			return refusef(ErrUnknown, "node %q has no replica of %q", n, r.Name)
		case !rep.InSet:
			return refusef(ErrNotInSet, "the replica on %q is not in the set of %q", n, r.Name)
		case n == d.Incumbent.Node:
			return refusef(ErrLastMember, "a primary does not drop itself; it steps down")
		}
		rep.InSet = false
		rep.Failed = rep.Failed || d.Failed
	}
	if len(r.Set()) == 0 {
		return refusef(ErrLastMember, "the drop would leave %q without any replica in the set", r.Name)
	}
	return newGeneration(r, d.Generation)
}

func joinReplica(r *Resource, j *JoinReplica) error {
	if err := mustLead(r, j.Incumbent); err != nil {
		return err
	}
	rep := r.Replica(j.Node)
	switch {
	case rep == nil:
		return refusef(ErrUnknown, "node %q has no replica of %q", j.Node, r.Name)
	case rep.InSet:
		return refusef(ErrExists, "the replica on %q is in the set of %q already", j.Node, r.Name)
	case rep.Instance != j.Instance:
		return refusef(ErrInstance, "the replica on %q is recorded as instance %x, not %x: it was replaced",
			j.Node, rep.Instance, j.Instance)
	case rep.Failed:
		return refusef(ErrFailed, "the disk of %q failed; replace it", j.Node)
	}
	rep.InSet = true
	return nil
}

func resize(r *Resource, z *Resize) error {
	if err := mustLead(r, z.Incumbent); err != nil {
		return err
	}
	if z.SizeBytes <= r.SizeBytes {
		return refusef(ErrInvalid, "%q has %d bytes; a resource only grows", r.Name, r.SizeBytes)
	}
	r.SizeBytes = z.SizeBytes
	return nil
}
