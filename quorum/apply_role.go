package quorum

import "github.com/lockstep-ha/lockstep/internal/planted"

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
	r.LastPrimary, r.LastEpoch, r.LastEnd = r.Primary, r.Epoch, EndStepDown
	r.Primary, r.PrimaryKnown = Incumbent{}, false
	if d.Hold {
		r.Hold = true
	}
	if d.Failed && !planted.On(planted.FailedReturns) {
		rep := r.Replica(d.Incumbent.Node)
		rep.Failed = true
		// The last member stays: the set would be empty, and there is no other copy to prefer.
		rep.InSet = len(r.Set()) == 1 && !planted.On(planted.LastMemberDropped)
	}
	return nil
}

func dropReplica(r *Resource, d *DropReplica) error {
	if err := mustLead(r, d.Incumbent); err != nil && !planted.On(planted.AnyoneProposes) {
		return err
	}
	for _, n := range d.Nodes {
		rep := r.Replica(n)
		switch {
		case rep == nil:
			return refusef(ErrUnknown, "node %q has no replica of %q", n, r.Name)
		case !rep.InSet:
			return refusef(ErrNotInSet, "the replica on %q is not in the set of %q", n, r.Name)
		case n == d.Incumbent.Node && !planted.On(planted.LastMemberDropped):
			return refusef(ErrLastMember, "a primary does not drop itself; it steps down")
		}
		rep.InSet = false
		rep.Failed = rep.Failed || d.Failed
	}
	if len(r.Set()) == 0 && !planted.On(planted.LastMemberDropped) {
		return refusef(ErrLastMember, "the drop would leave %q without any replica in the set", r.Name)
	}
	if planted.On(planted.DropAddsNoGeneration) {
		return nil
	}
	return newGeneration(r, d.Generation)
}

func joinReplica(s *State, r *Resource, j *JoinReplica) error {
	if err := mustLead(r, j.Incumbent); err != nil && !planted.On(planted.AnyoneProposes) {
		return err
	}
	rep := r.Replica(j.Node)
	switch {
	case rep == nil:
		return refusef(ErrUnknown, "node %q has no replica of %q", j.Node, r.Name)
	case rep.InSet:
		return refusef(ErrExists, "the replica on %q is in the set of %q already", j.Node, r.Name)
	case rep.Instance != j.Instance && (!planted.On(planted.JoinOfAnyInstance) || rep.Instance == 0):
		return refusef(ErrInstance, "the replica on %q is recorded as instance %x, not %x: it was replaced",
			j.Node, rep.Instance, j.Instance)
	case rep.Failed:
		return refusef(ErrFailed, "the disk of %q failed; replace it", j.Node)
	}
	if err := mayJoin(s, j.Node); err != nil {
		return err
	}
	rep.InSet, rep.Lost = true, false
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
