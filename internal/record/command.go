package record

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// Proposer is who a core's proposals are made for.
type Proposer struct {
	Resource   string
	ResourceID uint64
	Self       quorum.Incumbent
	Peers      []string         // in the order of replication.Config.Peers
	Newest     *quorum.Resource // the newest record known; nil: none
	Hold       bool             // the next StepDown is an operator's demote
}

// Command makes the ledger's command of what the core wants. generation is a fresh random id, not
// 0; a Drop opens it.
func (p Proposer) Command(w replication.Proposal, generation uint64) quorum.Command {
	cmd := quorum.Command{Resource: p.Resource, ResourceID: p.ResourceID, Epoch: w.Epoch, Version: w.Version}
	switch w.Kind {
	case replication.ProposeDrop:
		d := &quorum.DropReplica{Incumbent: p.Self, Failed: w.Failed, Generation: generation}
		for _, i := range w.Peers {
			d.Nodes = append(d.Nodes, p.Peers[i])
		}
		cmd.DropReplica = d
	case replication.ProposeJoin:
		node := p.Peers[w.Peers[0]]
		j := &quorum.JoinReplica{Incumbent: p.Self, Node: node}
		// The instance of the record that the core decided on. If a newer one is known here,
		// the version of the command is old and the ledger refuses it, whatever stands in it.
		if p.Newest != nil {
			if r := p.Newest.Replica(node); r != nil {
				j.Instance = r.Instance
			}
		}
		cmd.JoinReplica = j
	case replication.ProposeNoOp:
		cmd.NoOp = &quorum.NoOp{}
	case replication.ProposeStepDown:
		cmd.StepDown = &quorum.StepDown{Incumbent: p.Self, Failed: w.Failed, Hold: p.Hold}
	default:
		panic(fmt.Sprintf("record: unknown proposal %+v", w))
	}
	return cmd
}

// Took reports whether rec shows the effect of cmd, a core's command that was decided on an older
// version of it.
func Took(cmd quorum.Command, rec *quorum.Resource) bool {
	if rec.ID != cmd.ResourceID || rec.Version <= cmd.Version {
		return false
	}
	switch {
	case cmd.DropReplica != nil:
		return slices.Contains(rec.Lineage, cmd.DropReplica.Generation) // random: nobody else's
	case cmd.JoinReplica != nil:
		r := rec.Replica(cmd.JoinReplica.Node)
		return rec.Epoch == cmd.Epoch && r != nil && r.InSet && r.Instance == cmd.JoinReplica.Instance
	case cmd.NoOp != nil:
		return true // whatever raised the version serves as well
	case cmd.StepDown != nil:
		return rec.Primary != cmd.StepDown.Incumbent
	}
	panic(fmt.Sprintf("record: %s is no proposal of a core", cmd.String()))
}
