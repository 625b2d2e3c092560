package ledger

import (
	"context"
	"fmt"
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
func (l *Ledger) preference(node string) int {
	n := l.mach.state.Node(node)
	switch {
	case n == nil:
		return 3
	case n.Witness:
		return 0
	}
	for i := range l.mach.state.Resources {
		if l.mach.state.Resources[i].Primary.Node == node {
			return 2
		}
	}
	return 1
}

// placeLeader hands the lead to a better placed voter, if there is one that has everything.
func (l *Ledger) placeLeader() {
	if l.mach == nil || l.rn.BasicStatus().RaftState != raft.StateLeader {
		l.place = placement{nextTick: l.ticks + placeTicks}
		return
	}
	if l.ticks < l.place.nextTick {
		return
	}
	l.place.nextTick = l.ticks + placeTicks
	best := l.bestVoter(l.preference(l.cfg.Node))
	if best == 0 || best != l.place.candidate {
		l.place.candidate = best
		return
	}
	l.place.nextTick = l.ticks + placeTicks<<min(l.place.failures, placeMaxShift)
	l.place.failures++
	l.log.Info("ledger lead is handed over", "to", l.nodeOf(best))
	l.rn.TransferLeader(best)
}

// bestVoter returns the reachable, caught-up voter with the lowest preference below limit, 0 if
// there is none.
func (l *Ledger) bestVoter(limit int) uint64 {
	best, at := uint64(0), limit
	last, _ := l.store.mem.LastIndex()
	l.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		if id == l.store.id.Voter || typ != raft.ProgressTypePeer || pr.State != tracker.StateReplicate || pr.Match != last {
			return
		}
		if p := l.preference(l.nodeOf(id)); p < at && l.mesh.upVoter(id) {
			best, at = id, p
		}
	})
	return best
}

// TransferAway hands the lead to another voter, if this node has it, and returns when it has
// lost it. It serves a planned stop: the others need not wait for an election timeout.
//
// Errors: ErrNoQuorum, if no other voter took it within ctx.
func (l *Ledger) TransferAway(ctx context.Context) error {
	ctx, cancel := l.withTimeout(ctx)
	defer cancel()
	gone := make(chan struct{})
	err := l.call(ctx, func() {
		l.leaving[gone] = true
		l.leave()
	})
	if err == nil {
		select {
		case <-gone:
			return nil
		case <-l.done:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
			_ = l.call(context.Background(), func() { delete(l.leaving, gone) })
		}
	}
	return fmt.Errorf("hand the ledger lead over: %w: %w", ErrNoQuorum, err)
}

// leave hands the lead over if somebody waits for that, and tells them when it is done. It is
// called again at ticks: just elected, a leader does not know yet who has caught up.
func (l *Ledger) leave() {
	if len(l.leaving) == 0 {
		return
	}
	if b := l.rn.BasicStatus(); l.mach != nil && b.RaftState == raft.StateLeader {
		if best := l.bestVoter(noPreference); best != 0 && b.LeadTransferee == raft.None {
			l.rn.TransferLeader(best)
		}
		return
	}
	for c := range l.leaving {
		close(c)
	}
	clear(l.leaving)
}

// reconcile moves raft's voters one step towards the nodes of the state, on the leader: first
// those go that the state does not name any more, then new ones become learners, then learners
// that have caught up become voters. A change at a time is raft's own rule; it refuses the next
// one while the last is not applied.
func (l *Ledger) reconcile() {
	if l.ticks%reconcileTicks != 0 || l.mach == nil || l.rn.BasicStatus().RaftState != raft.StateLeader {
		return
	}
	if kind, id, ok := l.nextChange(); ok {
		cc := &pb.ConfChange{Type: kind.Enum(), NodeId: &id}
		if err := l.rn.ProposeConfChange(cc); err != nil {
			l.log.Debug("ledger voter change not proposed", "error", err)
		}
	}
}

func (l *Ledger) nextChange() (pb.ConfChangeType, uint64, bool) {
	voters, learners := l.store.conf.GetVoters(), l.store.conf.GetLearners()
	for _, id := range slices.Concat(voters, learners) {
		if l.mach.state.Voter(id) == nil {
			return pb.ConfChangeRemoveNode, id, true
		}
	}
	ready := map[uint64]bool{}
	l.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		// Alive, too: a dead learner that became a voter could cost a cluster of one its quorum.
		// RecentActive alone is not enough, raft clears it at every check of its quorum.
		alive := pr.RecentActive || l.mesh.upVoter(id)
		ready[id] = alive && pr.State == tracker.StateReplicate && pr.Match >= l.store.applied
	})
	for _, n := range l.mach.state.Nodes {
		switch {
		case slices.Contains(voters, n.VoterID):
		case !slices.Contains(learners, n.VoterID):
			return pb.ConfChangeAddLearnerNode, n.VoterID, true
		case ready[n.VoterID]:
			return pb.ConfChangeAddNode, n.VoterID, true
		}
	}
	return 0, 0, false
}
