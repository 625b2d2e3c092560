package coordinator

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// EventKind tells what an Event says.
type EventKind uint8

// Events.
const (
	EvTick         EventKind = iota + 1 // Now; at least every TickInterval
	EvLead                              // On: this node leads the ledger now, or no longer
	EvState                             // State: newer than the last one
	EvReport                            // Report: arrived at the leader
	EvHint                              // Node, On: membership believes that the node is up, or not
	EvProposalDone                      // Token, Outcome, Code: exactly one for each ActPropose
	EvFenceDone                         // ID, Fenced, Text: exactly one for each ActFence
	evEnd
)

var eventNames = [evEnd]string{"none", "tick", "lead", "state", "report", "hint", "proposal-done", "fence-done"}

func (k EventKind) String() string {
	if k < evEnd {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is one thing that happened. Which fields count depends on Kind.
type Event struct {
	Kind EventKind
	Now  time.Duration // on a clock of this node that never goes back

	On     bool
	State  *quorum.State
	Report Report
	Node   string

	Token   uint64
	Outcome Outcome
	Code    quorum.Code // why it was refused

	ID     uint64 // of the fence
	Fenced FenceResult
	Text   string // of the agent, for the operator
}

// Outcome is what became of a proposal.
type Outcome uint8

// Outcomes.
const (
	OutcomeApplied Outcome = iota + 1
	OutcomeRefused         // by Apply
	OutcomeNotDone         // certainly not applied
	OutcomeUnknown         // it may have been applied, or may be later
)

// FenceResult is what became of an attempt to turn a node off.
type FenceResult uint8

// Results of a fence.
const (
	FenceOK       FenceResult = iota + 1 // the node was seen to be off
	FenceError                           // the agent says that it is not, or could not tell
	FenceTimedOut                        // the agent said nothing in time; the node may be off
)

// Role is what a process is for a resource.
type Role string

// Roles.
const (
	RoleNone      Role = ""          // it has no open replica
	RoleSecondary Role = "secondary" // it follows, or waits for somebody to follow
	RoleStarting  Role = "starting"  // promoted, and not serving yet
	RolePrimary   Role = "primary"   // it serves, or is frozen
	RoleStopping  Role = "stopping"  // it has stopped serving and is giving its role up
)

// Disk states that the Coordinator knows, as replication.DiskState names them. Any other one is
// neither.
const (
	DiskUpToDate = "UpToDate"
	DiskFailed   = "Failed"
)

// Report is what one node says of itself about one resource. A node without a replica of it, such
// as a witness, says whether it hears the primary, and leaves the rest empty.
type Report struct {
	Node       string           `json:"node"`
	Resource   string           `json:"resource"`
	ResourceID uint64           `json:"resource_id"`
	Incumbent  quorum.Incumbent `json:"incumbent"` // what it would be recorded as; Instance 0 without a replica

	Role       Role   `json:"role"`
	DiskState  string `json:"disk_state"` // "" without an open replica
	Unclean    bool   `json:"unclean"`
	Failed     bool   `json:"failed"`     // its disk failed, or hangs
	Hangs      bool   `json:"hangs"`      // it merely hangs: the next process may find it whole
	Epoch      uint64 `json:"epoch"`      // the highest that it has stored
	Generation uint64 `json:"generation"` // the last of its own lineage; 0: none
	InSet      bool   `json:"in_set"`     // by its own ledger copy
	Version    uint64 `json:"version"`    // of the record in its own ledger copy

	// HeardPrimary is how long ago it last heard the recorded primary; below 0: never. A replica
	// hears frames of the primary's session, any other node hears whatever that node sends it.
	HeardPrimary time.Duration `json:"heard_primary"`

	Frozen      bool `json:"frozen"`       // as primary: requests wait
	CannotDrop  bool `json:"cannot_drop"`  // as primary: a Drop that it needs reaches no quorum
	Leaving     bool `json:"leaving"`      // its process is about to stop
	CannotFence bool `json:"cannot_fence"` // it has no way to turn the node of the recorded primary off
}

// ActionKind tells what an Action asks for.
type ActionKind uint8

// Actions.
const (
	ActPropose ActionKind = iota + 1 // Command, Token: propose it once and answer with EvProposalDone
	ActFence                         // Fence: turn its target off and answer with EvFenceDone
)

// Action is one thing to do.
type Action struct {
	Kind    ActionKind
	Token   uint64
	Command quorum.Command
	Fence   quorum.Fence
	Why     string // one sentence for the log and the operator
}
