package voter

import (
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

const (
	placeTicks     = 40 // between looks at who should lead
	placeMaxShift  = 6  // longest pause after transfers that failed: placeTicks << placeMaxShift
	reconcileTicks = 7  // between steps of the voter set towards the nodes of the state
)

// placement remembers, on the leader, who looked better at the last look. A node must do so
// twice: one whose link flaps would be given the lead, and lose it, for ever.
type placement struct {
	nextTick  int
	candidate uint64
	failures  int // transfers in a row after which this node still led
}

// noPreference is above every preference.
const noPreference = 4

// preference of a node as leader; lower is better, below noPreference. A leader that is also the primary of
// something goes down with it, and then two things must be elected, one after the other.
func (v *Voter) preference(node string) int {
	n := v.mach.state.Node(node)
	switch {
	case n == nil:
		return 3
	case n.Witness:
		return 0
	}
	for i := range v.mach.state.Resources {
		if v.mach.state.Resources[i].Primary.Node == node {
			return 2
		}
	}
	return 1
}

// placeLeader hands the lead to a better placed voter, if there is one that has everything.
func (v *Voter) placeLeader() {
	if !v.leads() {
		v.place = placement{nextTick: v.ticks + placeTicks}
		return
	}
	if v.ticks < v.place.nextTick {
		return
	}
	v.place.nextTick = v.ticks + placeTicks
	best := v.bestVoter(v.preference(v.cfg.Node))
	if best == 0 || best != v.place.candidate {
		v.place.candidate = best
		return
	}
	v.place.nextTick = v.ticks + placeTicks<<min(v.place.failures, placeMaxShift)
	v.place.failures++
	v.log.Info("ledger lead is handed over", "to", v.nodeOf(best))
	v.Transfer(best)
}

// Transfer hands the lead to the voter of that id, if this node leads and raft agrees. Whether
// it took it shows in Status.
func (v *Voter) Transfer(to uint64) { v.rn.TransferLeader(to) }

// bestVoter returns the reachable, caught-up voter with the lowest preference below limit, 0 if
// there is none.
func (v *Voter) bestVoter(limit int) uint64 {
	best, at, last := uint64(0), limit, v.book.last()
	v.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) { // in order of the ids
		if id == v.book.id.Voter || typ != raft.ProgressTypePeer || pr.State != tracker.StateReplicate || pr.Match != last {
			return
		}
		if p := v.preference(v.nodeOf(id)); p < at && v.up(id) {
			best, at = id, p
		}
	})
	return best
}

// TransferAway hands the lead to another voter, if this node has it, and has done called with nil
// when it has lost it, or is stopped. It serves a planned stop: the others need not wait for an
// election timeout. Nothing bounds the time; see Forget.
func (v *Voter) TransferAway(done func(error)) *Wait {
	w := &Wait{done: done}
	v.leaving = append(v.leaving, w)
	v.leave()
	return w
}

// leave hands the lead over if somebody waits for that, and tells them when it is done. It is
// called again at ticks: just elected, a leader does not know yet who has caught up.
func (v *Voter) leave() {
	if len(v.leaving) == 0 {
		return
	}
	if v.leads() {
		if best := v.bestVoter(noPreference); best != 0 && v.rn.BasicStatus().LeadTransferee == raft.None {
			v.Transfer(best)
		}
		return
	}
	for _, w := range v.leaving {
		v.answers = append(v.answers, func() { w.done(nil) })
	}
	v.leaving = nil
}

// reconcile moves raft's voters one step towards the nodes of the state, on the leader: first
// those go that the state does not name any more, then new ones become learners, then learners
// that have caught up become voters. A change at a time is raft's own rule; it refuses the next
// one while the last is not applied.
func (v *Voter) reconcile() {
	if v.ticks%reconcileTicks != 0 || !v.leads() {
		return
	}
	if kind, id, ok := v.nextChange(); ok {
		cc := &pb.ConfChange{Type: kind.Enum(), NodeId: &id}
		if err := v.rn.ProposeConfChange(cc); err != nil {
			v.log.Debug("ledger voter change not proposed", "error", err)
		}
	}
}

func (v *Voter) nextChange() (pb.ConfChangeType, uint64, bool) {
	voters, learners := v.book.pos.Conf.GetVoters(), v.book.pos.Conf.GetLearners()
	for _, id := range slices.Concat(voters, learners) {
		if v.mach.state.Voter(id) == nil {
			return pb.ConfChangeRemoveNode, id, true
		}
	}
	ready := map[uint64]bool{} // looked up only
	v.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		// Alive, too: a dead learner that became a voter could cost a cluster of one its quorum.
		// RecentActive alone is not enough, raft clears it at every check of its quorum.
		alive := pr.RecentActive || v.up(id)
		ready[id] = alive && pr.State == tracker.StateReplicate && pr.Match >= v.book.pos.Applied
	})
	for i := range v.mach.state.Nodes {
		n := &v.mach.state.Nodes[i]
		switch {
		case v.mach.state.Voter(n.VoterID) == nil: // left behind by an earlier incarnation
		case slices.Contains(voters, n.VoterID):
		case !slices.Contains(learners, n.VoterID):
			return pb.ConfChangeAddLearnerNode, n.VoterID, true
		case ready[n.VoterID]:
			return pb.ConfChangeAddNode, n.VoterID, true
		}
	}
	return 0, 0, false
}
