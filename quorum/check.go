package quorum

import (
	"fmt"
	"slices"
	"strings"
)

// ValidName reports whether s may name a node, a cluster or a resource: 1 to MaxName of the
// bytes a-z A-Z 0-9 . _ -, the first one a letter or a digit.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && (i == 0 || b != '.' && b != '_' && b != '-') {
			return false
		}
	}
	return true
}

// check verifies what c shows by itself, without a State.
func (c *Command) check() error {
	k := c.Kind()
	var f faults
	switch k {
	case KindNone:
		f.addf("a command has exactly one kind")
	case KindAddNode, KindRemoveNode:
		if c.Resource != "" || c.ResourceID != 0 || c.Epoch != 0 {
			f.addf("%s is about no resource", k)
		}
	default:
		if !ValidName(c.Resource) {
			f.addf("%q is no valid resource name", clip(c.Resource))
		}
		if c.ResourceID == 0 {
			f.addf("resource id 0")
		}
	}
	c.checkBody(k, &f)
	return f.err()
}

func (c *Command) checkBody(k Kind, f *faults) {
	switch k {
	case KindCreateResource:
		if c.Epoch != 0 {
			f.addf("a new resource has epoch 0")
		}
		c.CreateResource.check(f)
	case KindRegisterReplica:
		f.name("node", c.RegisterReplica.Node)
		f.nonZero("instance", c.RegisterReplica.Instance)
	case KindReplicaError:
		f.name("node", c.ReplicaError.Node)
		f.text("error text", c.ReplicaError.Text, MaxText)
	case KindResourceGone:
		f.nodes(c.ResourceGone.Nodes)
	case KindPromote:
		f.incumbent(c.Promote.Candidate)
		f.nonZero("generation", c.Promote.Generation)
	case KindStepDown:
		f.incumbent(c.StepDown.Incumbent)
	case KindDropReplica:
		f.incumbent(c.DropReplica.Incumbent)
		f.nodes(c.DropReplica.Nodes)
		f.nonZero("generation", c.DropReplica.Generation)
	case KindJoinReplica:
		f.incumbent(c.JoinReplica.Incumbent)
		f.name("node", c.JoinReplica.Node)
		f.nonZero("instance", c.JoinReplica.Instance)
	case KindResize:
		f.incumbent(c.Resize.Incumbent)
		f.size(c.Resize.SizeBytes)
	case KindSetPolicy:
		f.policy(c.SetPolicy.Policy)
	case KindAddNode:
		f.node(c.AddNode.Node)
	case KindRemoveNode:
		f.name("node", c.RemoveNode.Name)
	}
}

func (p *CreateResource) check(f *faults) {
	f.size(p.SizeBytes)
	f.policy(p.Policy)
	if len(p.Replicas) == 0 || len(p.Replicas) > MaxReplicas {
		f.addf("%d replicas, want 1 to %d", len(p.Replicas), MaxReplicas)
	}
	names := make([]string, 0, len(p.Replicas))
	for _, r := range p.Replicas {
		f.name("node", r.Node)
		f.text("data path", r.DataPath, MaxPath)
		f.text("metadata path", r.MetaPath, MaxPath)
		if r.DataPath == "" {
			f.addf("no data path on node %q", clip(r.Node))
		}
		names = append(names, r.Node)
	}
	f.distinct(names)
	if p.Source != "" && !slices.Contains(names, p.Source) {
		f.addf("source %q has no replica", clip(p.Source))
	}
}

func (f *faults) name(what, s string) {
	if !ValidName(s) {
		f.addf("%q is no valid %s name", clip(s), what)
	}
}

func (f *faults) nonZero(what string, v uint64) {
	if v == 0 {
		f.addf("%s is 0", what)
	}
}

// text refuses what would not survive JSON unchanged, or not print on one line.
func (f *faults) text(what, s string, most int) {
	if len(s) > most {
		f.addf("%s has %d bytes, more than %d", what, len(s), most)
	}
	if s != strings.ToValidUTF8(s, "") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		f.addf("%s is not printable text", what)
	}
}

func (f *faults) size(n int64) {
	if n <= 0 || n > MaxSizeBytes || n%SizeUnit != 0 {
		f.addf("size of %d bytes is not a positive multiple of %d", n, SizeUnit)
	}
}

func (f *faults) policy(p Policy) {
	if err := p.Validate(); err != nil {
		f.addf("%s", strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
	}
}

func (f *faults) incumbent(i Incumbent) {
	f.name("node", i.Node)
	f.nonZero("instance", i.Instance)
	f.nonZero("process", i.Process)
	f.text("boot id", i.Boot, MaxName)
	if i.Boot == "" {
		f.addf("boot id is empty")
	}
}

func (f *faults) nodes(names []string) {
	if len(names) == 0 || len(names) > MaxReplicas {
		f.addf("%d nodes, want 1 to %d", len(names), MaxReplicas)
	}
	for _, n := range names {
		f.name("node", n)
	}
	f.distinct(names)
}

func (f *faults) distinct(names []string) {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(names) {
		f.addf("a node is named twice")
	}
}

func (f *faults) node(n Node) {
	f.name("node", n.Name)
	f.nonZero("voter id", n.VoterID)
	f.text("address", n.Addr, MaxText)
	if n.Addr == "" {
		f.addf("node %q has no address", clip(n.Name))
	}
}

// clip keeps a hostile name from filling the log.
func clip(s string) string {
	if len(s) > MaxName {
		return s[:MaxName] + "..."
	}
	return s
}

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
	voters := map[uint64]bool{}
	for i, n := range s.Nodes {
		f.node(n)
		if voters[n.VoterID] {
			f.addf("voter id %x is used twice", n.VoterID)
		}
		voters[n.VoterID] = true
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
	return f.err()
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
	}
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
		return
	}
	switch p := r.Replica(r.Primary.Node); {
	case p == nil || !p.InSet || p.Instance != r.Primary.Instance:
		bad("its primary %s is not in the set", r.Primary)
	case r.Epoch == 0 || r.Deleted:
		bad("it has a primary, epoch %d, deleted %t", r.Epoch, r.Deleted)
	}
}
