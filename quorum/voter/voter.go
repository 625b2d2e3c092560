package voter

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
)

// Errors of a proposal, and of a Voter that was stopped.
var (
	// ErrNotProposed: the command is in no log and cannot get into one any more.
	ErrNotProposed = errors.New("certainly not done")
	// ErrOutcomeUnknown: the command may have been applied, or may yet be. Who must know waits,
	// or has a NoOp applied, after which it cannot apply any more.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrTooLarge: the command is larger than MaxProposal.
	ErrTooLarge = errors.New("the command is too large")
	// ErrClosed: the voter was stopped.
	ErrClosed = errors.New("the ledger is closed")
)

// Logger takes what an operator may want to read. *slog.Logger is one.
type Logger interface {
	Debug(msg string, args ...any)
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
	Error(msg string, args ...any)
}

// Member is one node of the static list, as far as all node files must agree on it, in order.
type Member struct {
	Name    string `json:"name"`
	Witness bool   `json:"witness"`
}

// Config is what a Voter needs beside its Storage and its Net. Zero numbers mean the defaults.
type Config struct {
	Cluster string
	Node    string   // name of this node; it is in Members
	Members []Member // who is asked while there is no state; the first one with data founds the ledger

	ElectionTicks   int // ticks without a leader's message before an election; 0: 10
	HeartbeatTicks  int // ticks between a leader's heartbeats; 0: 2
	SnapshotEntries int // log entries between snapshots; 0: 1000
	KeepEntries     int // log entries kept behind a snapshot; 0: a fifth of SnapshotEntries

	Logger     Logger      // nil: nothing is logged
	RaftLogger raft.Logger // raft's own; nil: nothing is logged. Its Panic and Fatal must panic

	// OnState is called with each new state, in order, before anybody is answered who may rely on
	// it. OnStatus is called when Status moved, links apart. Both may be nil, and neither may
	// call the Voter.
	OnState  func(*quorum.State)
	OnStatus func(Status)
}

func (c *Config) setDefaults() {
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 2
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 1000
	}
	if c.KeepEntries == 0 {
		c.KeepEntries = c.SnapshotEntries / 5
	}
	if c.Logger == nil {
		c.Logger = silent{}
	}
	if c.RaftLogger == nil {
		c.RaftLogger = silentRaft{}
	}
}

// Voter is one node's part in the ledger. See the package comment for how it is driven. It is
// not safe for concurrent use.
type Voter struct {
	cfg Config
	log Logger
	net Net
	rng func() uint64

	book  *book
	mach  *machine // nil while the ledger is not founded here
	rn    *raft.RawNode
	ticks int
	err   error // what ended this voter: nothing is done or sent after it

	shown    *quorum.State // newest that OnState was told
	changed  bool          // the state moved since then
	logBytes int           // bytes of entries since the last snapshot
	newConf  bool          // the voters changed since the last snapshot
	problem  string

	proposals []*Proposal // under way, in the order in which they came
	reads     []*Wait     // likewise
	leaving   []*Wait     // who wants to know that this node does not lead any more
	answers   []func()    // to be called once the state is shown

	lastLead leadership
	reported reportKey
	place    placement
	admitted *Proposal      // of the last node that was admitted again
	foreign  int            // messages of other incarnations, for the log
	greeted  map[string]int // node -> tick of the last hello to it; looked up, never ranged over
}

// New opens the ledger that st holds, or makes it, and takes part from the next Tick on.
// All random numbers come from rng, but for raft's election timeouts, which raft draws from
// crypto/rand.Reader.
//
// Errors: ErrForeign, ErrCorrupt, quorum.ErrFormat for a ledger of a newer version, or st's.
func New(cfg Config, st Storage, net Net, rng func() uint64) (*Voter, error) {
	cfg.setDefaults()
	b, err := openBook(st, cfg.Cluster, cfg.Node, rng)
	if err != nil {
		return nil, err
	}
	v := &Voter{cfg: cfg, log: cfg.Logger, net: net, rng: rng, book: b, greeted: map[string]int{}, changed: true}
	if v.mach, err = b.machine(); err != nil {
		return nil, err
	}
	snap, err := b.mem.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	v.newConf = v.mach != nil && snap.GetMetadata().GetConfState().Equivalent(b.pos.Conf) != nil
	if err := v.startRaft(); err != nil {
		return nil, err
	}
	v.setProblem(v.ownProblem())
	v.publish()
	return v, v.campaignAlone()
}

// startRaft begins raft on the book, as a follower. What the last instance had not yet written
// is forgotten.
func (v *Voter) startRaft() error {
	rn, err := raft.NewRawNode(&raft.Config{
		ID:              v.book.id.Voter,
		ElectionTick:    v.cfg.ElectionTicks,
		HeartbeatTick:   v.cfg.HeartbeatTicks,
		Storage:         raftStorage{MemoryStorage: v.book.mem, conf: v.book.pos.Conf},
		Applied:         v.book.pos.Applied,
		MaxSizePerMsg:   1 << 20,
		MaxInflightMsgs: 64,
		// What a leader without a quorum piles up is bounded; beyond it proposals are dropped.
		MaxUncommittedEntriesSize: 16 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true, // proposals travel in frames of their own, with an answer
		StepDownOnRemoval:         true,
		Logger:                    v.cfg.RaftLogger,
	})
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	v.rn = rn
	v.net.Learn(v.book.id.Voter, v.cfg.Node)
	return nil
}

// campaignAlone makes the only voter lead at once: there is nobody else to wait for.
func (v *Voter) campaignAlone() error {
	if v.idle() || !v.book.alone() {
		return nil
	}
	return v.rn.Campaign()
}

// idle reports whether this ledger takes no part until an operator has done something.
func (v *Voter) idle() bool { return v.book.id.Lost || v.book.id.Conflict != 0 || v.err != nil }

// newVoterID returns the id of a new ledger on node. It is random, so an empty ledger under an
// old name is another voter, which no configuration names (rule 14, history 8).
func newVoterID(node string, rng func() uint64) uint64 {
	if planted.On(planted.VoterByName) {
		h := fnv.New64a()
		_, _ = h.Write([]byte(node))
		return h.Sum64() >> 1
	}
	return randomID(rng)
}

// randomID returns a random id that raft accepts for a voter: neither 0 nor one of its two
// reserved values.
func randomID(rng func() uint64) uint64 {
	for {
		if id := rng(); id != 0 && id < math.MaxUint64-1 {
			return id
		}
	}
}

// State returns the newest applied copy of the state, nil if there was none since New. It is
// immutable. Another node may be ahead of it; see Barrier. Who gave its ledger up keeps the old
// state until it gets the new one.
func (v *Voter) State() *quorum.State { return v.shown }

// Ticks returns how often Tick was called.
func (v *Voter) Ticks() int { return v.ticks }

// Stop ends this voter in good order: what was left for later is written, and who waits is told.
func (v *Voter) Stop() error {
	err := v.err
	if err == nil {
		err = v.book.flush()
		v.err = ErrClosed
	}
	for _, p := range v.proposals {
		failed := p.failure(ErrClosed)
		v.answers = append(v.answers, func() { p.done(quorum.Result{}, failed) })
	}
	for _, w := range v.reads {
		v.answers = append(v.answers, func() { w.done(ErrClosed) })
	}
	for _, w := range v.leaving {
		v.answers = append(v.answers, func() { w.done(nil) })
	}
	v.proposals, v.reads, v.leaving = nil, nil, nil
	v.answer()
	return err
}

// answer calls who waits for an answer, and reports whether there was one. Answers may call the
// Voter, and so make new ones.
func (v *Voter) answer() bool {
	if len(v.answers) == 0 {
		return false
	}
	for len(v.answers) > 0 {
		all := v.answers
		v.answers = nil
		for _, f := range all {
			f()
		}
	}
	return true
}

// leadership is what is compared to notice a change of leader.
type leadership struct{ term, lead uint64 }

func (v *Voter) leadership() leadership {
	b := v.rn.BasicStatus()
	return leadership{term: b.GetTerm(), lead: b.Lead}
}

// leads reports whether this node leads, and there is a state.
func (v *Voter) leads() bool {
	return v.mach != nil && !v.idle() && v.rn.BasicStatus().RaftState == raft.StateLeader
}

// envelope is that of a frame to a voter.
func (v *Voter) envelope(to uint64) Envelope {
	return Envelope{From: v.book.id.Voter, To: to, Incarnation: v.book.id.Incarnation}
}

// nodeOf returns the name of a voter's node, "" if the state names none.
func (v *Voter) nodeOf(voter uint64) string {
	if v.mach != nil {
		if n := v.mach.state.Voter(voter); n != nil {
			return n.Name
		}
	}
	return ""
}

// up reports whether the direct link to a voter works.
func (v *Voter) up(voter uint64) bool {
	n := v.nodeOf(voter)
	return n != "" && v.net.Up(n)
}

func isConfChange(e *pb.Entry) bool {
	return e.GetType() == pb.EntryConfChange || e.GetType() == pb.EntryConfChangeV2
}
