package ledger

import (
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/lockstep-ha/lockstep/quorum"
)

// Status is what an operator wants to know of a ledger.
type Status struct {
	Node        string
	Voter       uint64 // id of this node's ledger file
	Incarnation uint64 // 0: this ledger belongs to none yet
	Founded     bool   // there is a state here
	Leader      string // node name, "" if none is known
	IsLeader    bool
	Term        uint64
	Commit      uint64 // log index
	Applied     uint64 // log index
	// HasQuorum: this node leads, or hears from a leader; so a majority was there within the
	// last election timeout.
	HasQuorum bool
	Voters    []Voter // sorted by name
	// Problem is a sentence for the operator: what is wrong and what to do. "" if nothing is.
	Problem string
}

// Voter is a member of raft's configuration.
type Voter struct {
	ID      uint64
	Node    string // "" if no node has that voter id
	Learner bool   // catches up and has no vote yet
	LinkUp  bool   // this node reaches it directly; true for itself
}

// Status returns the present status.
func (l *Ledger) Status() Status {
	s := *l.status.Load()
	s.Voters = slices.Clone(s.Voters)
	for i := range s.Voters {
		s.Voters[i].LinkUp = s.Voters[i].Node == s.Node || l.mesh.up(s.Voters[i].Node)
	}
	return s
}

// nodeOf returns the name of a voter's node, "" if the state names none.
func (l *Ledger) nodeOf(voter uint64) string {
	if l.mach != nil {
		if n := l.mach.state.Voter(voter); n != nil {
			return n.Name
		}
	}
	return ""
}

// reportKey is what a Status is made from, as far as it moves. Comparing it is much cheaper than
// making a Status at each tick.
type reportKey struct {
	term, commit, applied, lead, incarnation uint64
	state                                    *quorum.State
	conf                                     *pb.ConfState
	role                                     raft.StateType
	problem                                  string
}

// report stores a fresh Status if anything in it moved.
func (l *Ledger) report() {
	b := l.rn.BasicStatus()
	key := reportKey{term: b.GetTerm(), commit: b.GetCommit(), applied: l.store.applied, lead: b.Lead,
		incarnation: l.store.id.Incarnation, conf: l.store.conf, role: b.RaftState, problem: l.problem}
	if l.mach != nil {
		key.state = l.mach.state
	}
	if key == l.reported && l.status.Load() != nil {
		return
	}
	l.reported = key
	s := &Status{
		Node: l.cfg.Node, Voter: l.store.id.Voter, Incarnation: l.store.id.Incarnation, Founded: l.mach != nil,
		Leader: l.nodeOf(b.Lead), IsLeader: b.RaftState == raft.StateLeader, Term: b.GetTerm(), Commit: b.GetCommit(),
		Applied: l.store.applied, HasQuorum: b.Lead != raft.None, Problem: l.problem,
	}
	if l.store.id.Lost { // raft's view stands still from then on
		s.Leader, s.IsLeader, s.HasQuorum = "", false, false
	}
	for _, id := range l.store.conf.GetVoters() {
		s.Voters = append(s.Voters, Voter{ID: id, Node: l.nodeOf(id)})
	}
	for _, id := range l.store.conf.GetLearners() {
		s.Voters = append(s.Voters, Voter{ID: id, Node: l.nodeOf(id), Learner: true})
	}
	slices.SortFunc(s.Voters, func(a, b Voter) int {
		if a.Node != b.Node {
			if a.Node < b.Node {
				return -1
			}
			return 1
		}
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	l.status.Store(s)
	close(*l.moved.Swap(new(make(chan struct{}))))
}

// Changed returns a channel that is closed at the next change of Status (links apart) or State.
// Take the channel first, then look, then wait.
func (l *Ledger) Changed() <-chan struct{} { return *l.moved.Load() }

// setProblem records what the operator should know; the change is logged once.
func (l *Ledger) setProblem(text string) {
	if text == l.problem {
		return
	}
	l.problem = text
	if text == "" {
		l.log.Info("ledger problem is over")
	} else {
		l.log.Warn("ledger needs attention", "problem", text)
	}
	l.report()
}
