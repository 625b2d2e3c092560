package quorum

import (
	"fmt"
	"slices"
)

// Check verifies the invariants that one State can show. The error wraps ErrInvalid and lists
// everything that is wrong.
func (s *State) Check() error {
	var f faults
	f.name("cluster", s.Cluster)
	f.nonZero("incarnation id", s.Incarnation.ID)
	f.nonZero("incarnation counter", s.Incarnation.Counter)
	f.nonZero("version", s.Version)
	if len(s.Nodes) == 0 || len(s.Nodes) > MaxNodes {
		f.addf("%d nodes, want 1 to %d", len(s.Nodes), MaxNodes)
	}
	f.text("statement", s.Statement, MaxText)
	if !slices.ContainsFunc(s.Nodes, votes) {
		f.addf("no node votes")
	}
	voters := map[uint64]bool{}
	for i, n := range s.Nodes {
		f.node(n)
		if voters[n.VoterID] {
			f.addf("voter id %x is used twice", n.VoterID)
		}
		voters[n.VoterID] = true
		f.text("boot id", n.Boot, MaxName)
		if (n.Boot == "") != (n.Process == 0) {
			f.addf("node %q has boot %q with process %x", n.Name, clip(n.Boot), n.Process)
		}
		if i > 0 && s.Nodes[i-1].Name >= n.Name {
			f.addf("node %q is out of order or there twice", n.Name)
		}
	}
	if len(s.Resources) > MaxResources {
		f.addf("%d resources, more than %d", len(s.Resources), MaxResources)
	}
	for i := range s.Resources {
		s.Resources[i].check(s, &f)
		if i > 0 && s.Resources[i-1].Name >= s.Resources[i].Name {
			f.addf("resource %q is out of order or there twice", s.Resources[i].Name)
		}
	}
	s.checkFences(&f)
	s.checkTokens(&f)
	return f.err()
}

func (s *State) checkFences(f *faults) {
	for i, x := range s.Fences {
		f.fence(x.Target, x.Boot, x.ID)
		f.name("node", x.Executor)
		f.text("fence text", x.Text, MaxText)
		if i > 0 && s.Fences[i-1].Target >= x.Target {
			f.addf("the fence of %q is out of order or there twice", x.Target)
		}
		if s.Node(x.Target) == nil || x.Executor == x.Target {
			f.addf("fence of %q by %q", x.Target, x.Executor)
		}
		switch back := s.Fence(x.Executor); {
		case x.Phase != FenceAsked && x.Phase != FenceProven && x.Phase != FenceMissed:
			f.addf("fence of %q is %q", x.Target, clip(string(x.Phase)))
		case x.Phase == FenceAsked && back != nil && back.Phase == FenceAsked:
			f.addf("%q is to turn %q off, and is to be turned off itself", x.Executor, x.Target)
		}
	}
}

func (r *Resource) check(s *State, f *faults) {
	bad := func(format string, a ...any) { f.addf("resource %q: %s", clip(r.Name), fmt.Sprintf(format, a...)) }
	f.name("resource", r.Name)
	f.nonZero("resource id", r.ID)
	f.nonZero("resource version", r.Version)
	f.size(r.SizeBytes)
	f.policy(r.Policy)
	if len(r.Replicas) == 0 || len(r.Replicas) > MaxReplicas {
		bad("%d replicas", len(r.Replicas))
	}
	for i, p := range r.Replicas {
		if n := s.Node(p.Node); n == nil || n.Witness {
			bad("replica on %q, which is no data node", p.Node)
		}
		if i > 0 && r.Replicas[i-1].Node >= p.Node {
			bad("replica on %q is out of order or there twice", p.Node)
		}
		if p.InSet && p.Instance == 0 {
			bad("%q is in the set without an instance", p.Node)
		}
		f.priority(p.Priority)
		f.text("services text", p.ServicesFailed, MaxText)
	}
	f.services(r.Services)
	r.checkEnds(bad)
	r.checkAttachments(f, bad)
	f.text("paused text", r.PausedText, MaxText)
	if (r.Epoch > 0) != (len(r.Lineage) > 0) {
		bad("epoch %d with %d generations", r.Epoch, len(r.Lineage))
	}
	if r.Epoch > 0 && !r.Deleted && len(r.Set()) == 0 {
		bad("the in-sync set is empty")
	}
	if len(r.Lineage) > MaxLineage || slices.Contains(r.Lineage, 0) {
		bad("lineage of %d is too long or holds a 0", len(r.Lineage))
	}
	if r.Primary.None() {
		if r.PrimaryKnown {
			bad("nobody is primary, but known")
		}
		return
	}
	switch p := r.Replica(r.Primary.Node); {
	case p == nil || !p.InSet || p.Instance != r.Primary.Instance:
		bad("its primary %s is not in the set", r.Primary)
	case r.Epoch == 0 || r.Deleted:
		bad("it has a primary, epoch %d, deleted %t", r.Epoch, r.Deleted)
	}
}

// checkEnds verifies what is recorded about roles and histories that ended.
func (r *Resource) checkEnds(bad func(format string, a ...any)) {
	switch r.LastEnd {
	case EndStepDown, EndFenced, EndReplaced:
		if r.LastPrimary.None() || r.LastEpoch == 0 || r.LastEpoch > r.Epoch {
			bad("last primary %s in epoch %d of %d", r.LastPrimary, r.LastEpoch, r.Epoch)
		}
	case "": // nobody was primary before
		if r.LastEpoch != 0 {
			bad("nothing says how the role of epoch %d ended", r.LastEpoch)
		}
	default:
		bad("role ended as %q", clip(string(r.LastEnd)))
	}
	if len(r.Forced) > MaxForced {
		bad("%d forced promotions", len(r.Forced))
	}
	for i, f := range r.Forced {
		if f.Epoch == 0 || f.Epoch > r.Epoch || i > 0 && r.Forced[i-1].Epoch >= f.Epoch {
			bad("forced promotion in epoch %d is out of order", f.Epoch)
		}
		if len(f.Cut) > min(f.CutCount, MaxForcedCut) || len(f.Down) > MaxReplicas {
			bad("forced promotion in epoch %d cut %d generations and shows %d, with %d proofs", f.Epoch, f.CutCount, len(f.Cut), len(f.Down))
		}
	}
}
