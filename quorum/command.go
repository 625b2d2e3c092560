package quorum

import "fmt"

// Command asks for one change of the State. Exactly one of the pointer fields is set; it gives
// the command its kind. The fields before them say what the proposer had before its eyes.
//
// About a resource: Resource, ResourceID, Epoch and Version are copied from the record that
// the proposer decided on, and any difference is a refusal with ErrStale (or ErrUnknown, when
// the id is another one). About the catalogue (CreateResource, nodes, fences): Version is
// State.Version; CreateResource names the new resource in Resource and ResourceID; the rest is
// zero.
type Command struct {
	Resource   string `json:"resource,omitempty"`
	ResourceID uint64 `json:"resource_id,omitempty"`
	Epoch      uint64 `json:"epoch,omitempty"`
	Version    uint64 `json:"version,omitempty"`

	CreateResource  *CreateResource  `json:"create_resource,omitempty"`
	RegisterReplica *RegisterReplica `json:"register_replica,omitempty"`
	ReplicaError    *ReplicaError    `json:"replica_error,omitempty"`
	DeleteResource  *DeleteResource  `json:"delete_resource,omitempty"`
	ResourceGone    *ResourceGone    `json:"resource_gone,omitempty"`
	Promote         *Promote         `json:"promote,omitempty"`
	StepDown        *StepDown        `json:"step_down,omitempty"`
	DropReplica     *DropReplica     `json:"drop_replica,omitempty"`
	JoinReplica     *JoinReplica     `json:"join_replica,omitempty"`
	Resize          *Resize          `json:"resize,omitempty"`
	SetPolicy       *SetPolicy       `json:"set_policy,omitempty"`
	Hold            *Hold            `json:"hold,omitempty"`
	NoOp            *NoOp            `json:"no_op,omitempty"`
	ForcePromote    *ForcePromote    `json:"force_promote,omitempty"`
	SetPriority     *SetPriority     `json:"set_priority,omitempty"`
	SetServices     *SetServices     `json:"set_services,omitempty"`
	ServicesFailed  *ServicesFailed  `json:"services_failed,omitempty"`
	PauseFailover   *PauseFailover   `json:"pause_failover,omitempty"`
	Attach          *Attach          `json:"attach,omitempty"`
	Detach          *Detach          `json:"detach,omitempty"`

	AddNode        *AddNode        `json:"add_node,omitempty"`
	RemoveNode     *RemoveNode     `json:"remove_node,omitempty"`
	NodeStarted    *NodeStarted    `json:"node_started,omitempty"`
	FenceRequested *FenceRequested `json:"fence_requested,omitempty"`
	FenceConfirmed *FenceConfirmed `json:"fence_confirmed,omitempty"`
	FenceFailed    *FenceFailed    `json:"fence_failed,omitempty"`
	Unfence        *Unfence        `json:"unfence,omitempty"`
	AddToken       *AddToken       `json:"add_token,omitempty"`
	UseToken       *UseToken       `json:"use_token,omitempty"`
}

// Kind tells what a Command asks for.
type Kind uint8

// The kinds of commands, in the order of the fields of Command.
const (
	KindNone Kind = iota // no field is set: the command is not valid
	KindCreateResource
	KindRegisterReplica
	KindReplicaError
	KindDeleteResource
	KindResourceGone
	KindPromote
	KindStepDown
	KindDropReplica
	KindJoinReplica
	KindResize
	KindSetPolicy
	KindHold
	KindNoOp
	KindForcePromote
	KindSetPriority
	KindSetServices
	KindServicesFailed
	KindPauseFailover
	KindAttach
	KindDetach
	KindAddNode
	KindRemoveNode
	KindNodeStarted
	KindFenceRequested
	KindFenceConfirmed
	KindFenceFailed
	KindUnfence
	KindAddToken
	KindUseToken
	kindEnd
)

var kindNames = [kindEnd]string{"none", "create-resource", "register-replica", "replica-error",
	"delete-resource", "resource-gone", "promote", "step-down", "drop-replica", "join-replica",
	"resize", "set-policy", "hold", "no-op", "force-promote", "set-priority", "set-services", "services-failed", "pause-failover",
	"attach", "detach", "add-node", "remove-node", "node-started", "fence-requested", "fence-confirmed", "fence-failed",
	"unfence", "add-token", "use-token"}

// aboutNodes reports whether k is about the nodes of the catalogue and names no resource.
func (k Kind) aboutNodes() bool { return k >= KindAddNode && k < kindEnd }

func (k Kind) String() string {
	if k < kindEnd {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// CreateResource adds a resource. Its name and id are Command.Resource and Command.ResourceID.
type CreateResource struct {
	SizeBytes int64        `json:"size_bytes"` // a positive multiple of SizeUnit
	Replicas  []NewReplica `json:"replicas"`   // one per node, none on a witness
	// Source is the node whose existing data is taken over; "" when all backing files are new.
	Source string `json:"source,omitempty"`
	Policy Policy `json:"policy"`
}

// NewReplica is where one node keeps its copy of a new resource.
type NewReplica struct {
	Node     string `json:"node"`
	DataPath string `json:"data_path"`
	MetaPath string `json:"meta_path,omitempty"`
	Direct   bool   `json:"direct,omitempty"`
	Priority int    `json:"priority,omitempty"` // see Replica.Priority
}

// RegisterReplica reports that Node has made the metadata of its replica. Before the first
// promotion of a resource without a source the replica enters the set with it; of a resource
// with a source, only the source does. Later it names a replacement: a new instance, outside
// the set, not failed.
type RegisterReplica struct {
	Node     string `json:"node"`
	Instance uint64 `json:"instance"` // not 0
}

// ReplicaError records what keeps Node from serving its replica; "" clears it. It has no effect
// on the set.
type ReplicaError struct {
	Node string `json:"node"`
	Text string `json:"text"` // at most MaxText bytes
}

// DeleteResource marks the resource deleted. It is refused while a primary is recorded, and while it
// is attached.
type DeleteResource struct{}

// ResourceGone reports that the replicas of a deleted resource on Nodes are removed. With the
// last one the record itself goes, and the name is free.
type ResourceGone struct {
	Nodes []string `json:"nodes"`
}

// Promote makes Candidate the primary of NewEpoch.
type Promote struct {
	Candidate  Incumbent `json:"candidate"`
	NewEpoch   uint64    `json:"new_epoch"`           // above Command.Epoch and every epoch that a reachable replica persisted
	Generation uint64    `json:"generation"`          // random, not 0, appended to the lineage
	TakeOver   bool      `json:"take_over,omitempty"` // replaces the recorded primary, which may be an earlier process of the same node
	Operator   bool      `json:"operator,omitempty"`  // an operator asked for it: a hold is lifted
	Unclean    bool      `json:"unclean,omitempty"`   // the candidate is unclean and was chosen knowingly (rule 9)
	// Statement is an operator's word that the recorded primary is down, which stands for a fence
	// where the policy asks for one; "" is none.
	Statement string `json:"statement,omitempty"`
}

// ForcePromote makes Candidate the primary of NewEpoch and the only member of the set, whatever
// the set was: an operator's last resort. What the others hold beyond Fork is given up.
type ForcePromote struct {
	Candidate  Incumbent `json:"candidate"`
	NewEpoch   uint64    `json:"new_epoch"`  // above Command.Epoch and every epoch that a reachable replica persisted
	Generation uint64    `json:"generation"` // random, not 0, appended to the lineage behind Fork
	// Fork is the newest generation that the candidate's replica really holds; 0: none. The lineage
	// is cut behind it, so that a replica that holds more is no prefix any longer.
	Fork uint64 `json:"fork"`
	// Own holds the generations that the candidate's replica has beyond Fork and the record does not
	// list, oldest first. They become history again, between Fork and Generation: what the replica
	// wrote on a timeline of its own is kept, by the operator's choice.
	Own []uint64 `json:"own,omitempty"`
	// Down names every other member of the set, and the recorded primary unless it is on the
	// candidate's own node, and says why each is taken for down.
	Down []DownProof `json:"down,omitempty"`
}

// DownProof says why a node is taken for down: a confirmed fence of Boot, or an operator's word.
type DownProof struct {
	Node     string `json:"node"`
	Boot     string `json:"boot,omitempty"`     // kernel boot id; "" with an operator's word
	Operator bool   `json:"operator,omitempty"` // no fence, but a statement
	Text     string `json:"text,omitempty"`     // of the operator; not "" then
}

// SetPriority changes the priority of the replica on Node.
type SetPriority struct {
	Node     string `json:"node"`
	Priority int    `json:"priority"`
}

// PauseFailover sets or lifts an operator's pause: while it is on, only an operator promotes.
type PauseFailover struct {
	On   bool   `json:"on"`
	Text string `json:"text,omitempty"` // why, for the next operator
}

// StepDown ends the primary's role. It has stopped serving before it proposes this, and never
// serves again in that epoch, whatever comes of it (safety rule 3).
type StepDown struct {
	Incumbent Incumbent `json:"incumbent"` // as recorded
	// Failed: its disk failed. It leaves the set in the same command, unless it is the last
	// member: then it stays and is only marked, since there its data is the only copy.
	Failed bool `json:"failed,omitempty"`
	Hold   bool `json:"hold,omitempty"` // an operator's demote: see Resource.Hold
}

// DropReplica takes Nodes out of the set, for the recorded primary alone.
type DropReplica struct {
	Incumbent  Incumbent `json:"incumbent"`        // the primary that proposes it, as recorded
	Nodes      []string  `json:"nodes"`            // members of the set, not the primary
	Failed     bool      `json:"failed,omitempty"` // their disks failed
	Generation uint64    `json:"generation"`       // random, not 0, appended to the lineage
}

// JoinReplica takes Node into the set, for the recorded primary alone. The proposer has met
// the conditions of safety rule 2.
type JoinReplica struct {
	Incumbent Incumbent `json:"incumbent"` // the primary that proposes it, as recorded
	Node      string    `json:"node"`
	Instance  uint64    `json:"instance"` // the replica instance that was made equal
}

// Resize makes the new size visible. The primary proposes it after the new space is zeroed or
// dirty on all members (safety rule 16). A resource never shrinks.
type Resize struct {
	Incumbent Incumbent `json:"incumbent"`
	SizeBytes int64     `json:"size_bytes"`
}

// SetPolicy replaces the policy.
type SetPolicy struct {
	Policy Policy `json:"policy"`
}

// Hold sets or lifts the hold. It does not end the role of a primary; StepDown does.
type Hold struct {
	On bool `json:"on"`
}

// NoOp only raises the version, so that an older proposal of unknown outcome can never apply.
type NoOp struct{}

// AddNode adds a node, or gives a known one the voter id of its new ledger file. Gone, Boot and
// Process of Node are not for the proposer to say: they are zero.
type AddNode struct {
	Node Node `json:"node"`
	// Replaces is the voter id that the node of that name has now; 0 when the node is new.
	Replaces uint64 `json:"replaces,omitempty"`
}

// RemoveNode removes a node that holds no replica.
type RemoveNode struct {
	Name string `json:"name"`
}

// NodeStarted registers a process of Node that has just started. It ends a fence of an earlier
// boot. A node proposes it before anything else that names its boot or process.
type NodeStarted struct {
	Node    string `json:"node"`
	Boot    string `json:"boot"`
	Process uint64 `json:"process"`
}

// FenceRequested asks Executor to turn Target off, which runs in Boot. Nobody but the executor
// of an applied request fires.
type FenceRequested struct {
	Target   string `json:"target"`
	Boot     string `json:"boot"`
	Executor string `json:"executor"` // not Target
	ID       uint64 `json:"id"`       // random, not 0
}

// FenceConfirmed records that Target was seen to be off, as the request with that ID asked.
type FenceConfirmed struct {
	Target string `json:"target"`
	Boot   string `json:"boot"`
	ID     uint64 `json:"id"`
	Proof  string `json:"proof"` // what showed it, for the operator; not ""
}

// FenceFailed records that the request with that ID proved nothing. A fence that timed out has
// failed, whatever it may have done.
type FenceFailed struct {
	Target string `json:"target"`
	Boot   string `json:"boot"`
	ID     uint64 `json:"id"`
	Text   string `json:"text"` // why, for the operator
}

// Unfence removes what is recorded about a fence of Target, for an operator who knows better.
type Unfence struct {
	Target string `json:"target"`
}

// present tells, by kind, which of the pointer fields are set.
func (c *Command) present() [kindEnd]bool {
	return [kindEnd]bool{
		KindCreateResource:  c.CreateResource != nil,
		KindRegisterReplica: c.RegisterReplica != nil,
		KindReplicaError:    c.ReplicaError != nil,
		KindDeleteResource:  c.DeleteResource != nil,
		KindResourceGone:    c.ResourceGone != nil,
		KindPromote:         c.Promote != nil,
		KindStepDown:        c.StepDown != nil,
		KindDropReplica:     c.DropReplica != nil,
		KindJoinReplica:     c.JoinReplica != nil,
		KindResize:          c.Resize != nil,
		KindSetPolicy:       c.SetPolicy != nil,
		KindHold:            c.Hold != nil,
		KindNoOp:            c.NoOp != nil,
		KindForcePromote:    c.ForcePromote != nil,
		KindSetPriority:     c.SetPriority != nil,
		KindSetServices:     c.SetServices != nil,
		KindServicesFailed:  c.ServicesFailed != nil,
		KindPauseFailover:   c.PauseFailover != nil,
		KindAttach:          c.Attach != nil,
		KindDetach:          c.Detach != nil,
		KindAddNode:         c.AddNode != nil,
		KindRemoveNode:      c.RemoveNode != nil,
		KindNodeStarted:     c.NodeStarted != nil,
		KindFenceRequested:  c.FenceRequested != nil,
		KindFenceConfirmed:  c.FenceConfirmed != nil,
		KindFenceFailed:     c.FenceFailed != nil,
		KindUnfence:         c.Unfence != nil,
		KindAddToken:        c.AddToken != nil,
		KindUseToken:        c.UseToken != nil,
	}
}

// Kind returns what c asks for, KindNone if that is nothing or more than one thing.
func (c *Command) Kind() Kind {
	found := KindNone
	for k, on := range c.present() {
		if !on {
			continue
		}
		if found != KindNone {
			return KindNone
		}
		found = Kind(k)
	}
	return found
}

func (c *Command) String() string {
	return fmt.Sprintf("%s of %q, epoch %d, version %d", c.Kind(), c.Resource, c.Epoch, c.Version)
}

// On returns a Command that is bound to r as it stands; the caller sets the field of its kind.
func On(r *Resource) Command {
	return Command{Resource: r.Name, ResourceID: r.ID, Epoch: r.Epoch, Version: r.Version}
}
