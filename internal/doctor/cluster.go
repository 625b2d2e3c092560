package doctor

import (
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// Cluster is what is judged: what one node says of the cluster, and what each says of itself.
type Cluster struct {
	Status control.Status
	Nodes  []Node // in the order of Status.Nodes
}

// Node is what one node says of itself, or why it says nothing.
type Node struct {
	Name   string
	Facts  *control.Facts // nil: it did not answer
	Silent string         // why
}

// node returns the node of that name, nil if there is none.
func (c *Cluster) node(name string) *Node {
	for i := range c.Nodes {
		if c.Nodes[i].Name == name {
			return &c.Nodes[i]
		}
	}
	return nil
}

// facts returns what a node says of itself, nil if it says nothing.
func (c *Cluster) facts(name string) *control.Facts {
	if n := c.node(name); n != nil {
		return n.Facts
	}
	return nil
}

// up reports whether a node answers.
func (c *Cluster) up(name string) bool { return c.facts(name) != nil }

// replica returns what a node says of its replica, nil if it says nothing.
func (c *Cluster) replica(node, resource string) *control.ReplicaFacts {
	f := c.facts(node)
	if f == nil {
		return nil
	}
	for i := range f.Replicas {
		if f.Replicas[i].Resource == resource {
			return &f.Replicas[i]
		}
	}
	return nil
}

// voters returns the names of the nodes that have a vote, in order.
func (c *Cluster) voters() []string {
	var out []string
	for _, n := range c.Status.Nodes {
		if n.Voter {
			out = append(out, n.Name)
		}
	}
	return out
}

// majority reports whether the voters that answer, without those in lost, are a majority of all.
func (c *Cluster) majority(lost []string) (ok bool, left, all int) {
	v := c.voters()
	for _, n := range v {
		if c.up(n) && !slices.Contains(lost, n) {
			left++
		}
	}
	return 2*left > len(v), left, len(v)
}

// fencer returns a node that can turn target off, not in lost; "" if there is none.
func (c *Cluster) fencer(target string, lost []string) string {
	for _, n := range c.Nodes {
		if n.Facts != nil && n.Name != target && !slices.Contains(lost, n.Name) && slices.Contains(n.Facts.Fences, target) {
			return n.Name
		}
	}
	return ""
}

// alone returns the node of a pair without a witness that goes on alone when the other one, in lost, is proven
// off; "" if there is none. It is quorum/pair that decides so: somebody can fence, no operator has a
// resource in hand, and the node holds every replica that both have.
func (c *Cluster) alone(lost []string) string {
	v := c.voters()
	if len(v) != 2 || len(c.Status.Nodes) != 2 || len(lost) != 1 || !slices.Contains(v, lost[0]) {
		return ""
	}
	left := v[0]
	if left == lost[0] {
		left = v[1]
	}
	f := c.facts(left)
	if f == nil || !slices.Contains(f.Fences, lost[0]) || slices.ContainsFunc(c.Status.Nodes, func(n control.Node) bool { return n.Witness }) {
		return ""
	}
	for i := range c.Status.Resources {
		r := &c.Status.Resources[i]
		if both := holders(r); !slices.Contains(both, left) || !slices.Contains(both, lost[0]) {
			continue
		}
		if p := r.Policy; p.Fencing == "manual" || p.Failover == "manual" || p.Paused || !slices.Contains(c.heirs(r, lost), left) {
			return ""
		}
	}
	return left
}

// host is a machine and the nodes that run on it.
type host struct {
	boot  string
	nodes []string
}

// hosts returns the machines of those nodes that answer, in the order of their first node.
func (c *Cluster) hosts() []host {
	var out []host
	for _, n := range c.Nodes {
		if n.Facts == nil || n.Facts.Boot == "" {
			continue
		}
		i := slices.IndexFunc(out, func(h host) bool { return h.boot == n.Facts.Boot })
		if i < 0 {
			out = append(out, host{boot: n.Facts.Boot})
			i = len(out) - 1
		}
		out[i].nodes = append(out[i].nodes, n.Name)
	}
	return out
}

// list joins names for people: "n1, n2 and w".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// holders returns the nodes that hold a replica of r.
func holders(r *control.Resource) []string {
	var out []string
	for _, p := range r.Replicas {
		out = append(out, p.Node)
	}
	return out
}
