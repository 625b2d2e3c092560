package voter

import (
	"cmp"
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
	Voters    []Peer // sorted by name
	// Problem is a sentence for the operator: what is wrong and what to do. "" if nothing is.
	Problem string
}

// Peer is a member of raft's configuration.
type Peer struct {
	ID      uint64
	Node    string // "" if no node has that voter id
	Learner bool   // catches up and has no vote yet
	LinkUp  bool   // this node reaches it directly; true for itself
}

// reportKey is what a Status is made from, as far as it moves. Comparing it is much cheaper than
// making a Status at each tick.
type reportKey struct {
	term, commit, applied, lead, voter, incarnation uint64
	state                                           *quorum.State
	conf                                            *pb.ConfState
	role                                            raft.StateType
	problem                                         string
}

// report tells OnStatus if anything in Status moved.
func (v *Voter) report() {
	b := v.rn.BasicStatus()
	key := reportKey{term: b.GetTerm(), commit: b.GetCommit(), applied: v.book.pos.Applied, lead: b.Lead,
		voter: v.book.id.Voter, incarnation: v.book.id.Incarnation, conf: v.book.pos.Conf, role: b.RaftState, problem: v.problem}
	if v.mach != nil {
		key.state = v.mach.state
	}
	if key == v.reported {
		return
	}
	v.reported = key
	if v.cfg.OnStatus != nil {
		v.cfg.OnStatus(v.Status())
	}
}

// Status returns the present status.
func (v *Voter) Status() Status {
	b, id := v.rn.BasicStatus(), v.book.id
	s := Status{
		Node: v.cfg.Node, Voter: id.Voter, Incarnation: id.Incarnation, Founded: v.mach != nil,
		Leader: v.nodeOf(b.Lead), IsLeader: b.RaftState == raft.StateLeader, Term: b.GetTerm(), Commit: b.GetCommit(),
		Applied: v.book.pos.Applied, HasQuorum: b.Lead != raft.None, Problem: v.problem,
	}
	if v.idle() { // raft's view stands still from then on
		s.Leader, s.IsLeader, s.HasQuorum = "", false, false
	}
	for _, p := range v.book.pos.Conf.GetVoters() {
		s.Voters = append(s.Voters, v.peer(p, false))
	}
	for _, p := range v.book.pos.Conf.GetLearners() {
		s.Voters = append(s.Voters, v.peer(p, true))
	}
	slices.SortFunc(s.Voters, func(a, b Peer) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) })
	return s
}

func (v *Voter) peer(id uint64, learner bool) Peer {
	return Peer{ID: id, Node: v.nodeOf(id), Learner: learner, LinkUp: id == v.book.id.Voter || v.up(id)}
}

// setProblem records what the operator should know; the change is logged once.
func (v *Voter) setProblem(text string) {
	if text == v.problem {
		return
	}
	v.problem = text
	if text == "" {
		v.log.Info("ledger problem is over")
	} else {
		v.log.Warn("ledger needs attention", "problem", text)
	}
	v.report()
}

// silent is a Logger that keeps nothing.
type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}
