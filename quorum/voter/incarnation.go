package voter

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
)

// Errors of opening an incarnation, and of deciding between two.
var (
	ErrNotVoter   = errors.New("this node is no voter of a ledger")
	ErrAlone      = errors.New("this node is the only voter already")
	ErrStopped    = errors.New("the ledger on this node has stopped for an operator")
	ErrNoConflict = errors.New("the ledger on this node has met no other one")
)

// maxForks is how many openings of incarnations the machine remembers. It is part of the
// replicated state: to change it is a new format.
const maxForks = 16

// fork is where an incarnation parted from its parent. With it, a node that still has the parent
// can tell whether all that was committed there is in the child.
type fork struct {
	ID     uint64 `json:"id"`     // the incarnation that was opened
	Parent uint64 `json:"parent"` // the one it was opened from
	Voter  uint64 `json:"voter"`  // who opened it
	// Index is the last log entry that the opener had: all up to it is in the child. Commit is
	// what it knew to be committed: up to it, all logs of the parent are equal.
	Index  uint64 `json:"index"`
	Commit uint64 `json:"commit"`
	// Tail gives the terms of the entries behind Commit, which may differ from another node's.
	Tail []termRun `json:"tail,omitempty"`
}

// termRun is a run of log entries of one term, up to where the next one begins.
type termRun struct {
	First uint64 `json:"first"` // log index
	Term  uint64 `json:"term"`
}

// holds reports whether the opener's log had the entry of that index and term. Two logs that
// agree in one entry agree in all before it.
func (f *fork) holds(index, term uint64) bool {
	if index <= f.Commit {
		return true
	}
	at := uint64(0)
	for _, r := range f.Tail {
		if r.First <= index {
			at = r.Term
		}
	}
	return index <= f.Index && at == term
}

// forkOf returns the fork at which the ledger of forks left parent, nil if it never was there.
func forkOf(forks []fork, parent uint64) *fork {
	if i := slices.IndexFunc(forks, func(f fork) bool { return f.Parent == parent }); i >= 0 {
		return &forks[i]
	}
	return nil
}

// descends reports whether the ledger id, forks is the incarnation of, or comes from it.
func descends(id uint64, forks []fork, of uint64) bool { return id == of || forkOf(forks, of) != nil }

// related reports whether two ledgers have an incarnation in common.
func related(a uint64, aForks []fork, b uint64, bForks []fork) bool {
	return descends(b, bForks, a) || slices.ContainsFunc(aForks, func(f fork) bool { return descends(b, bForks, f.Parent) })
}

// OpenIncarnation lets this voter go on alone, in a new incarnation of the ledger. All of its log
// counts as committed, the tail that no majority confirmed too: the lost voters may have seen it
// committed (history 9). Statement says who allowed it and why, and is recorded in the state.
//
// Whether it may go on alone is for the caller to judge, before: the other's power is confirmed
// off, or an operator said so, and this very process held the session when it broke. Two voters
// that both do this have two ledgers, which is found when they meet, and mended by nobody but an
// operator.
//
// When it returns nil, the new incarnation is durable and this node leads it. Errors: ErrNotVoter,
// ErrAlone, ErrStopped, quorum.ErrInvalid; or what ended this Voter, and then it is not known
// whether the incarnation was opened.
func (v *Voter) OpenIncarnation(statement string) error {
	if err := v.Ready(); err != nil { // the log must be in the book
		return err
	}
	switch {
	case v.idle():
		return ErrStopped
	case v.mach == nil || !slices.Contains(v.book.pos.Conf.GetVoters(), v.book.id.Voter):
		return ErrNotVoter
	case v.book.alone():
		return ErrAlone
	}
	f := v.newFork()
	m, settled, err := v.reincarnated(f, statement)
	if err != nil {
		return err
	}
	if v.err = v.rewrite(f, m); v.err != nil {
		return v.err
	}
	for _, o := range settled {
		v.settle(o.id, o.res)
	}
	mark.Hit("incarnation-opened")
	v.log.Warn("ledger incarnation opened", "incarnation", f.ID, "parent", f.Parent, "index", f.Index, "statement", statement)
	return v.Ready()
}

// newFork describes the log as it is.
func (v *Voter) newFork() fork {
	f := fork{ID: randomID(v.rng), Parent: v.book.id.Incarnation, Voter: v.book.id.Voter,
		Index: v.book.last(), Commit: v.rn.BasicStatus().GetCommit()}
	if planted.On(planted.TailDropped) {
		f.Index = f.Commit
	}
	for i := f.Commit + 1; i <= f.Index; i++ {
		term, _ := v.book.mem.Term(i) // what is behind the commit index was not compacted
		if len(f.Tail) == 0 || f.Tail[len(f.Tail)-1].Term != term {
			f.Tail = append(f.Tail, termRun{First: i, Term: term})
		}
	}
	return f
}

// settled is what became of a proposal.
type settled struct {
	id  proposalID
	res quorum.Result
}

// reincarnated returns a machine that has applied the tail of the log up to f, under the new
// incarnation, and what became of the proposals in the tail.
func (v *Voter) reincarnated(f fork, statement string) (*machine, []settled, error) {
	var all []settled
	m := v.mach.clone()
	err := v.book.replay(m, v.book.pos.Applied+1, f.Index, func(id proposalID, res quorum.Result) {
		all = append(all, settled{id, res})
	})
	if err != nil {
		return nil, nil, err
	}
	if m.state.Node(v.cfg.Node) == nil { // its removal is in the tail
		return nil, nil, ErrNotVoter
	}
	inc := quorum.Incarnation{Counter: m.state.Incarnation.Counter + 1, ID: f.ID, Parent: f.Parent, ParentIndex: f.Index}
	m.state = quorum.Reincarnate(m.state, inc, f.Voter, v.cfg.Node, statement)
	m.forks = append(m.forks, f)
	m.forks = m.forks[max(0, len(m.forks)-maxForks):]
	return m, all, m.state.Check()
}

// rewrite makes the new incarnation durable and starts it: one snapshot at the end of the log,
// with this voter alone.
func (v *Voter) rewrite(f fork, m *machine) error {
	data, err := m.encode()
	if err != nil {
		return err
	}
	term, err := v.book.mem.Term(f.Index)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	snap := &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{
		ConfState: &pb.ConfState{Voters: []uint64{f.Voter}}, Index: &f.Index, Term: &term}}
	id := v.book.id
	id.Incarnation = f.ID
	if err := v.book.replace(id, v.book.pos.Hard.GetTerm(), snap); err != nil {
		return err
	}
	v.mach, v.changed, v.logBytes, v.newConf = m, true, 0, false
	v.askAgain()
	if err := v.startRaft(); err != nil {
		return err
	}
	return v.campaignAlone()
}

// mayGiveUp reports whether this ledger holds nothing committed that is not in the child opened
// at f (history 10).
func (v *Voter) mayGiveUp(f *fork) bool {
	upTo := v.rn.BasicStatus().GetCommit()
	voters := v.book.pos.Conf.GetVoters()
	others := len(voters)
	if slices.Contains(voters, f.Voter) {
		others--
	}
	if others > len(voters)/2 {
		// A majority without the opener may have committed more than this node knows of, or than
		// it had written when it was killed: its whole log counts.
		upTo = v.book.last()
	}
	term, err := v.book.mem.Term(upTo)
	return err == nil && f.holds(upTo, term)
}

// giveUp sets this ledger aside for that of another incarnation, and begins an empty one, as
// another voter.
func (v *Voter) giveUp(incarnation uint64) {
	was := v.book.id
	next := Identity{Format: Format, Cluster: was.Cluster, Node: was.Node, Voter: newVoterID(was.Node, v.rng),
		Incarnation: incarnation, Aside: was.Incarnation}
	if v.err = v.book.setAside(next); v.err != nil {
		return
	}
	mark.Hit("ledger-given-up")
	v.log.Warn("ledger given up", "incarnation", was.Incarnation, "for", incarnation)
	v.mach, v.logBytes, v.newConf = nil, 0, false
	v.askAgain()
	clear(v.greeted)
	if v.err = v.startRaft(); v.err == nil {
		v.setProblem(v.ownProblem())
	}
}

// stop ends this ledger's part until an operator decides, because of the ledger that it met.
func (v *Voter) stop(other uint64) {
	id := v.book.id
	id.Conflict = other
	mark.Hit("ledger-stopped-for-operator")
	v.err = v.change(id)
}

// change gives the ledger another identity under the same voter id, and raft a new start.
func (v *Voter) change(id Identity) error {
	if err := v.book.flush(); err != nil {
		return err
	}
	if err := v.book.setIdentity(id); err != nil {
		return err
	}
	if err := v.startRaft(); err != nil {
		return err
	}
	v.setProblem(v.ownProblem())
	return v.campaignAlone()
}

// Keep carries out an operator's decision, after this ledger met another one and both stopped:
// this one is kept, and what it met is not heard any more.
//
// Errors: ErrNoConflict, or what ended this Voter.
func (v *Voter) Keep() error {
	if v.err != nil || v.book.id.Conflict == 0 {
		return v.noConflict()
	}
	id := v.book.id
	id.Refused = append(slices.Clone(id.Refused), id.Conflict)
	id.Conflict = 0
	v.err = v.change(id)
	return v.err
}

// GiveUp carries out the opposite decision: this ledger is set aside, and this node joins the
// one that it met.
//
// Errors: ErrNoConflict, or what ended this Voter.
func (v *Voter) GiveUp() error {
	if v.err != nil || v.book.id.Conflict == 0 {
		return v.noConflict()
	}
	v.giveUp(v.book.id.Conflict)
	return v.err
}

func (v *Voter) noConflict() error {
	if v.err != nil {
		return v.err
	}
	return ErrNoConflict
}

// ownProblem is what the identity alone tells the operator.
func (v *Voter) ownProblem() string {
	id := v.book.id
	switch {
	case id.Lost:
		return fmt.Sprintf("the ledger file on %s lacks entries that it had acknowledged: it was restored or damaged, and no longer votes. "+
			"Put the newest copy of its ledger.db back; or, in a cluster with certificates, give the node a new place: "+
			"'lockstep node replace %s' on another node, then 'lockstep cluster join' here with an empty data directory", id.Node, id.Node)
	case id.Conflict != 0:
		return fmt.Sprintf("the ledger went on in two places: %s has incarnation %x and has met incarnation %x, and each may hold what the other lacks. "+
			"Nothing is decided on %s until an operator has chosen: type 'lockstep ledger keep' on the nodes of the one to be kept, "+
			"and 'lockstep ledger give-up' on those of the other, whose file is kept as ledger.db.%x on this node", id.Node, id.Incarnation, id.Conflict, id.Node, id.Incarnation)
	case v.asks():
		return fmt.Sprintf("%s has given up its ledger of incarnation %x, which is kept as ledger.db.%x, "+
			"and waits for the leader of incarnation %x to admit it", id.Node, id.Aside, id.Aside, id.Incarnation)
	}
	return ""
}
