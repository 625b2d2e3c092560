package quorum

import (
	"cmp"
	"fmt"
	"slices"
)

// atVersion refuses a command about the catalogue that was decided on another one. Without it a
// late copy of CreateResource would bring a deleted resource back, and a late AddNode a removed
// voter.
func atVersion(s *State, c *Command) error {
	if c.Version != s.Version {
		return refusef(ErrStale, "the catalogue is at version %d; %s was decided on version %d", s.Version, c.Kind(), c.Version)
	}
	return nil
}

func applyCreate(s *State, c *Command) (*State, error) {
	i, exists := s.find(c.Resource)
	if exists {
		if s.Resources[i].Deleted {
			return nil, refusef(ErrExists, "resource %q is being deleted; wait until every replica is removed", c.Resource)
		}
		return nil, refusef(ErrExists, "resource %q exists", c.Resource)
	}
	if err := atVersion(s, c); err != nil {
		return nil, err
	}
	if len(s.Resources) >= MaxResources {
		return nil, refusef(ErrInvalid, "a cluster holds at most %d resources", MaxResources)
	}
	p := c.CreateResource
	r := Resource{Name: c.Resource, ID: c.ResourceID, SizeBytes: p.SizeBytes, Version: 1, Source: p.Source,
		Policy: p.Policy, LongestLease: p.Policy.WithDefaults().Lease, Lineage: []uint64{}}
	for _, n := range p.Replicas {
		node := s.Node(n.Node)
		if node == nil {
			return nil, refusef(ErrUnknown, "there is no node %q", n.Node)
		}
		if node.Witness {
			return nil, refusef(ErrInvalid, "node %q is a witness: it holds no data", n.Node)
		}
		if node.Gone {
			return nil, refuseGone(n.Node)
		}
		r.Replicas = append(r.Replicas, Replica{Node: n.Node, DataPath: n.DataPath, MetaPath: n.MetaPath, Direct: n.Direct, Priority: n.Priority})
	}
	slices.SortFunc(r.Replicas, func(a, b Replica) int { return cmp.Compare(a.Node, b.Node) })
	for j := range s.Resources {
		if s.Resources[j].ID == r.ID {
			return nil, refusef(ErrExists, "id %x belongs to resource %q", r.ID, s.Resources[j].Name)
		}
	}
	n := s.withResources(insert(s.Resources, i, r))
	n.Version++
	return n, nil
}

// registerReplica records the instance of a replica. See RegisterReplica for who enters the set.
func registerReplica(r *Resource, g *RegisterReplica) error {
	rep := r.Replica(g.Node)
	switch {
	case rep == nil:
		return refusef(ErrUnknown, "node %q has no replica of %q", g.Node, r.Name)
	case rep.Instance == g.Instance:
		return refusef(ErrExists, "instance %x on %q is registered already", g.Instance, g.Node)
	case rep.InSet && r.Epoch > 0:
		// Its acknowledged writes are gone with the old instance. Only the primary may say so,
		// by a Drop; and if it is the last member, only an operator.
		return refusef(ErrInSet, "the replica on %q is in the set as instance %x; it must be dropped before %x replaces it",
			g.Node, rep.Instance, g.Instance)
	}
	rep.Instance, rep.Failed, rep.Error, rep.Lost = g.Instance, false, "", false
	if r.Epoch == 0 && (r.Source == "" || r.Source == g.Node) {
		rep.InSet = true
	}
	return nil
}

func replicaError(r *Resource, e *ReplicaError) error {
	rep := r.Replica(e.Node)
	if rep == nil {
		return refusef(ErrUnknown, "node %q has no replica of %q", e.Node, r.Name)
	}
	rep.Error = e.Text
	return nil
}

func deleteResource(r *Resource) error {
	switch {
	case !r.Primary.None():
		return refusef(ErrPrimary, "%s is primary of %q; demote it first", r.Primary, r.Name)
	case len(r.Attachments) > 0:
		a := r.Attachments[0]
		return refusef(ErrInUse, "%q is attached to %s on %s; detach it first", r.Name, a.Device, a.Holder)
	}
	r.Deleted = true
	return nil
}

func resourceGone(r *Resource, g *ResourceGone) error {
	if !r.Deleted {
		return refusef(ErrInUse, "resource %q is not deleted", r.Name)
	}
	for _, n := range g.Nodes {
		i := slices.IndexFunc(r.Replicas, func(p Replica) bool { return p.Node == n })
		if i < 0 {
			return refusef(ErrUnknown, "node %q has no replica of %q", n, r.Name)
		}
		r.Replicas = remove(r.Replicas, i)
	}
	return nil
}

func setPolicy(r *Resource, p *SetPolicy) error {
	r.Policy = p.Policy
	r.LongestLease = max(r.LongestLease, p.Policy.WithDefaults().Lease)
	return nil
}

func setPriority(r *Resource, p *SetPriority) error {
	rep := r.Replica(p.Node)
	if rep == nil {
		return refusef(ErrUnknown, "node %q has no replica of %q", p.Node, r.Name)
	}
	rep.Priority = p.Priority
	return nil
}

// applyToNodes carries out what is about the nodes and their fences.
func applyToNodes(s *State, c *Command) (*State, error) {
	if err := atVersion(s, c); err != nil {
		return nil, err
	}
	n, err := changeNodes(s, c)
	if err != nil {
		return nil, err
	}
	n.Version++
	return n, nil
}

// changeNodes returns a new State, which nobody else sees yet.
func changeNodes(s *State, c *Command) (*State, error) {
	switch c.Kind() {
	case KindAddNode:
		return addNode(s, c.AddNode)
	case KindRemoveNode:
		return removeNode(s, c.RemoveNode.Name)
	case KindNodeStarted:
		return nodeStarted(s, c.NodeStarted)
	case KindFenceRequested:
		return fenceRequested(s, c.FenceRequested)
	case KindFenceConfirmed:
		f := c.FenceConfirmed
		return fenceEnded(s, f.Target, f.Boot, f.ID, FenceProven, f.Proof)
	case KindFenceFailed:
		f := c.FenceFailed
		return fenceEnded(s, f.Target, f.Boot, f.ID, FenceMissed, f.Text)
	case KindUnfence:
		return unfence(s, c.Unfence.Target)
	case KindAddToken:
		return addToken(s, c.AddToken)
	case KindUseToken:
		return useToken(s, c.UseToken)
	}
	panic(fmt.Sprintf("quorum: %s is not about nodes", c.Kind()))
}

func addNode(s *State, add *AddNode) (*State, error) {
	if i := s.findVoter(add.Node.VoterID); i >= 0 {
		return nil, refusef(ErrExists, "voter id %x belongs to node %q", add.Node.VoterID, s.Nodes[i].Name)
	}
	i, exists := s.findNode(add.Node.Name)
	n := *s
	switch {
	case exists && add.Replaces == 0:
		return nil, refusef(ErrExists, "node %q exists with voter id %x", add.Node.Name, s.Nodes[i].VoterID)
	case exists && add.Replaces != s.Nodes[i].VoterID:
		return nil, refusef(ErrStale, "node %q has voter id %x, not %x", add.Node.Name, s.Nodes[i].VoterID, add.Replaces)
	case exists && add.Node.Witness != s.Nodes[i].Witness:
		return nil, refusef(ErrInvalid, "node %q cannot change whether it is a witness; remove it first", add.Node.Name)
	case exists:
		n.Nodes = slices.Clone(s.Nodes)
		n.Nodes[i] = add.Node
		n.Nodes[i].Boot, n.Nodes[i].Process = s.Nodes[i].Boot, s.Nodes[i].Process
		// A node that comes back with a new ledger and its old certificate is where it was.
		if id := add.Node.Identity; id != "" && id != s.Nodes[i].Identity {
			n.Resources = lostOn(s.Resources, add.Node.Name)
		}
		n.Nodes[i].Gossip = cmp.Or(add.Node.Gossip, s.Nodes[i].Gossip)
		n.Nodes[i].Identity = cmp.Or(add.Node.Identity, s.Nodes[i].Identity)
	case add.Replaces != 0:
		return nil, refusef(ErrUnknown, "there is no node %q to replace", add.Node.Name)
	case len(s.Nodes) >= MaxNodes:
		return nil, refusef(ErrInvalid, "a cluster has at most %d nodes", MaxNodes)
	default:
		n.Nodes = insert(s.Nodes, i, add.Node)
	}
	return &n, nil
}

// lostOn returns all with the replicas of node marked as lost. Who is in the set stays in it: only
// the primary may say that its acknowledged writes are not needed.
func lostOn(all []Resource, node string) []Resource {
	out := slices.Clone(all)
	for i := range out {
		if out[i].Replica(node) == nil || out[i].Deleted {
			continue
		}
		r := out[i].clone()
		r.Replica(node).Lost = true
		r.Version++
		out[i] = *r
	}
	return out
}

func removeNode(s *State, name string) (*State, error) {
	i, ok := s.findNode(name)
	if !ok {
		return nil, refusef(ErrUnknown, "there is no node %q", name)
	}
	for j := range s.Resources {
		if s.Resources[j].Replica(name) != nil {
			return nil, refusef(ErrInUse, "node %q has a replica of %q", name, s.Resources[j].Name)
		}
	}
	n := *s
	n.Nodes = remove(s.Nodes, i)
	if !slices.ContainsFunc(n.Nodes, votes) {
		return nil, refusef(ErrInUse, "node %q is the last one that votes", name)
	}
	if j, fenced := s.findFence(name); fenced {
		n.Fences = remove(s.Fences, j)
	}
	return &n, nil
}
