package quorum

import (
	"cmp"
	"fmt"
	"slices"
)

// Bounds of what a State may hold. A command that would exceed one is refused with ErrInvalid.
const (
	MaxLineage   = 4096    // generation ids kept for a resource
	MaxNodes     = 64      // nodes of a cluster, witnesses included
	MaxReplicas  = 16      // replicas of one resource
	MaxResources = 4096    // resources of a cluster, those being deleted included
	MaxName      = 64      // bytes of a node, cluster or resource name
	MaxPath      = 4096    // bytes of a path
	MaxText      = 1024    // bytes of an address or of an error text
	MaxSizeBytes = 1 << 60 // bytes of a device
	MaxPriority  = 1000    // of a replica, either sign
	MaxForced    = 8       // forced promotions kept for a resource
	MaxForcedCut = 256     // cut generation ids kept for one of them
	SizeUnit     = 4 << 10 // a device is a whole number of these, in bytes
)

// State is all that the ledger replicates. It is immutable; see the package comment.
type State struct {
	Cluster     string      `json:"cluster"`
	Incarnation Incarnation `json:"incarnation"`
	Version     uint64      `json:"version"`   // raised by every applied command about the catalogue
	Nodes       []Node      `json:"nodes"`     // sorted by name
	Resources   []Resource  `json:"resources"` // sorted by name
	// Fences holds at most one fence of each node, sorted by target: the newest.
	Fences []Fence `json:"fences,omitempty"`
	// Tokens are the permissions to join that were given out, sorted by id.
	Tokens []Token `json:"tokens,omitempty"`
	// Statement says who opened this incarnation by force, and why; "" for the first one.
	Statement string `json:"statement,omitempty"`
}

// Incarnation tells one ledger of a cluster from another one that was opened after it by force
// (DESIGN section 4). No raft message crosses from one to another.
type Incarnation struct {
	Counter     uint64 `json:"counter"` // 1 for the first
	ID          uint64 `json:"id"`      // random, not 0
	Parent      uint64 `json:"parent"`  // ID of the one it was rewritten from; 0 for the first
	ParentIndex uint64 `json:"parent_index"`
}

// Node is a host of the cluster.
type Node struct {
	Name    string `json:"name"`
	VoterID uint64 `json:"voter_id"` // made with the node's ledger file; a name alone never votes
	Addr    string `json:"addr"`     // host:port of its transport
	// Gossip is host:port of its membership gossip, and Identity is what its certificate says
	// beyond its name; both are "" where the node files and a shared key say who is who.
	Gossip   string `json:"gossip,omitempty"`
	Identity string `json:"identity,omitempty"`
	Witness  bool   `json:"witness"` // votes and holds no data
	// Gone: it was left behind when this incarnation was opened. It keeps the voter id that it
	// had, which votes no longer; AddNode with its new ledger file's id takes it in again.
	Gone bool `json:"gone,omitempty"`
	// Boot and Process are those that the node registered with its newest start; "" and 0 if it
	// never did.
	Boot    string `json:"boot,omitempty"`
	Process uint64 `json:"process,omitempty"`
}

// Incumbent names one primary exactly: not the node, but the replica instance on it, the boot
// and the process. A process that was restarted is another incumbent (safety rule 3).
type Incumbent struct {
	Node     string `json:"node"`
	Instance uint64 `json:"instance"` // replica instance id
	Boot     string `json:"boot"`     // kernel boot id
	Process  uint64 `json:"process"`  // fresh at each start of the daemon
}

// None reports whether i names nobody.
func (i Incumbent) None() bool { return i == Incumbent{} }

func (i Incumbent) String() string {
	if i.None() {
		return "nobody"
	}
	return fmt.Sprintf("%s (instance %x, process %x)", i.Node, i.Instance, i.Process)
}

// Replica is one node's copy of a resource, as the ledger knows it.
type Replica struct {
	Node     string `json:"node"`
	DataPath string `json:"data_path"` // backing file or block device on that node
	MetaPath string `json:"meta_path"` // metadata file on that node; "" means beside the data
	Direct   bool   `json:"direct"`    // direct I/O
	Instance uint64 `json:"instance"`  // id made with the metadata; 0 until the node registered it
	InSet    bool   `json:"in_set"`    // member of the in-sync set
	Failed   bool   `json:"failed"`    // its disk failed; only a new instance heals that (rule 13)
	Error    string `json:"error"`     // what the node last reported, for the operator; "" is none
	Priority int    `json:"priority"`  // of those equally fit the highest is promoted; default 0
	// Lost: its node was replaced by one with nothing on its disks, which is to make a new instance.
	Lost bool `json:"lost,omitempty"`
	// ServicesFailed says why the services that follow the primary are not tried on this node; "": they are.
	ServicesFailed string `json:"services_failed,omitempty"`
}

// Resource is the record of one replicated device.
type Resource struct {
	Name      string `json:"name"`
	ID        uint64 `json:"id"`         // random, not 0; tells a new resource from its namesake
	SizeBytes int64  `json:"size_bytes"` // a multiple of SizeUnit
	Version   uint64 `json:"version"`    // raised by every applied command that touches the record

	Epoch       uint64    `json:"epoch"`        // 0 before the first promotion
	Primary     Incumbent `json:"primary"`      // zero when none
	LastPrimary Incumbent `json:"last_primary"` // who served last; zero when none ever did
	// LastEpoch is the epoch of LastPrimary and LastEnd how its role ended. See State.Released.
	LastEpoch uint64  `json:"last_epoch"`
	LastEnd   RoleEnd `json:"last_end"`
	// PrimaryKnown: the node of Primary had registered that very process when it was promoted. So
	// if the node has another one registered now, the primary's process is over.
	PrimaryKnown bool `json:"primary_known"`
	// ChosenUnclean: the promotion of Epoch knowingly chose an unclean replica (rule 9).
	ChosenUnclean bool `json:"chosen_unclean"`

	Replicas []Replica `json:"replicas"` // sorted by node
	// Source is the node whose existing data is taken over; "" when the resource was created
	// empty, and then every replica starts in the set.
	Source string `json:"source"`
	// Lineage holds generation ids, a new one at each Promote and Drop, oldest first. LineageCut
	// counts the older ids that were cut, so that two lists can be aligned. A forced promotion
	// cuts its newer end; see Forced.
	Lineage    []uint64 `json:"lineage"`
	LineageCut uint64   `json:"lineage_cut"`
	Forced     []Forced `json:"forced,omitempty"` // the newest forced promotions, oldest first

	Hold       bool   `json:"hold"`                  // an operator demoted it: only an operator promotes it again
	Paused     bool   `json:"paused"`                // an operator paused failover: a role that ends is given to nobody
	PausedText string `json:"paused_text,omitempty"` // why
	Deleted    bool   `json:"deleted"`               // waits for its replicas to be removed; nothing else applies
	Policy     Policy `json:"policy"`
	// Attachments are the registered users, sorted by number: one that is exclusive, or any number
	// of shared ones. LastAttachment is the highest number that was given.
	Attachments    []Attachment `json:"attachments,omitempty"`
	LastAttachment uint64       `json:"last_attachment,omitempty"`
	// Services follow the primary, in the order in which the operator gave them.
	Services []Service `json:"services,omitempty"`
	// LongestLease is the longest Policy.Lease that was ever in force. A process that starts
	// behaves as if it had just acknowledged a beacon of that lease (rule 4): Policy.Lease may
	// have been shortened while a longer one was out.
	LongestLease Duration `json:"longest_lease"`
}

// RoleEnd says how the role of a primary ended.
type RoleEnd string

// How a role ends. Only EndStepDown and EndFenced release what members promised to that primary.
const (
	EndStepDown RoleEnd = "stepped-down" // it had stopped serving and said so
	EndFenced   RoleEnd = "fenced"       // it was replaced while a fence proved it down
	EndReplaced RoleEnd = "replaced"     // it was replaced, and may have served on until its lease ran out
)

// Forced says what a forced promotion did to the history, so that both timelines can be shown.
type Forced struct {
	Epoch      uint64      `json:"epoch"`
	Node       string      `json:"node"`       // which was promoted
	Fork       uint64      `json:"fork"`       // the newest listed generation that its replica held; 0: none
	Generation uint64      `json:"generation"` // that it opened
	Cut        []uint64    `json:"cut"`        // generations that are history no longer, oldest first; the newest MaxForcedCut
	CutCount   int         `json:"cut_count"`  // all of them
	Down       []DownProof `json:"down"`       // why the others were taken for down
}

// CutBy returns the forced promotion that cut generation, nil if none that is still recorded did, or
// a later one made it history again. A replica that holds a cut generation is Diverged.
func (r *Resource) CutBy(generation uint64) *Forced {
	if slices.Contains(r.Lineage, generation) {
		return nil
	}
	for i := len(r.Forced) - 1; i >= 0; i-- { // cut, made history again, cut again: the last one counts
		if slices.Contains(r.Forced[i].Cut, generation) {
			return &r.Forced[i]
		}
	}
	return nil
}

// Find returns the resource of that name, nil if there is none. The caller must not change it.
func (s *State) Find(name string) *Resource {
	if i, ok := s.find(name); ok {
		return &s.Resources[i]
	}
	return nil
}

func (s *State) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.Resources, name, func(r Resource, n string) int { return cmp.Compare(r.Name, n) })
}

// Node returns the node of that name, nil if there is none. The caller must not change it.
func (s *State) Node(name string) *Node {
	if i, ok := s.findNode(name); ok {
		return &s.Nodes[i]
	}
	return nil
}

func (s *State) findNode(name string) (int, bool) {
	return slices.BinarySearchFunc(s.Nodes, name, func(n Node, k string) int { return cmp.Compare(n.Name, k) })
}

// votes reports whether n is a voter, or will be one once it has caught up.
func votes(n Node) bool { return !n.Gone }

// Voter returns the node that votes with that id, nil if there is none: a node that is Gone does
// not vote.
func (s *State) Voter(id uint64) *Node {
	if i := s.findVoter(id); i >= 0 && votes(s.Nodes[i]) {
		return &s.Nodes[i]
	}
	return nil
}

// findVoter finds those that are gone, too: an id is never used again.
func (s *State) findVoter(id uint64) int {
	return slices.IndexFunc(s.Nodes, func(n Node) bool { return n.VoterID == id })
}

// Replica returns the replica on node, nil if there is none. The caller must not change it.
func (r *Resource) Replica(node string) *Replica {
	for i := range r.Replicas {
		if r.Replicas[i].Node == node {
			return &r.Replicas[i]
		}
	}
	return nil
}

// Set returns the names of the nodes whose replicas are in the in-sync set, sorted.
func (r *Resource) Set() []string {
	var out []string
	for i := range r.Replicas {
		if r.Replicas[i].InSet {
			out = append(out, r.Replicas[i].Node)
		}
	}
	return out
}

// Registered reports whether every replica has made its metadata.
func (r *Resource) Registered() bool {
	return !slices.ContainsFunc(r.Replicas, func(p Replica) bool { return p.Instance == 0 })
}

// clone returns a copy of r whose replicas may be changed. Lineage and Attachments are shared: they
// are only ever replaced as a whole.
func (r *Resource) clone() *Resource {
	c := *r
	c.Replicas = slices.Clone(r.Replicas)
	return &c
}

// addGenerations appends g to the lineage of r, which must be a clone.
func (r *Resource) addGenerations(g ...uint64) {
	l := append(slices.Clip(r.Lineage), g...) // Clip: the older State keeps its own array
	if over := len(l) - MaxLineage; over > 0 {
		l = slices.Clone(l[over:])
		r.LineageCut += uint64(over)
	}
	r.Lineage = l
}

// Genesis returns the first State of a cluster: its nodes and no resource.
//
// Errors: ErrInvalid with all that is wrong with the arguments.
func Genesis(cluster string, inc Incarnation, nodes []Node) (*State, error) {
	s := &State{Cluster: cluster, Incarnation: inc, Version: 1, Nodes: slices.Clone(nodes), Resources: []Resource{}}
	slices.SortFunc(s.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("genesis of cluster %q: %w", cluster, err)
	}
	return s, nil
}
