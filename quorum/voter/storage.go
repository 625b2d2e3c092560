package voter

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/lockstep-ha/lockstep/quorum"
)

// Format is the version of what a Storage holds.
const Format = 1

// Errors of a Storage and what it holds.
var (
	ErrCorrupt = errors.New("the ledger file is damaged")
	ErrForeign = errors.New("the ledger file belongs to another cluster or node")
)

// Identity is who a ledger is. It is made with its Storage.
type Identity struct {
	Format      int    `json:"v"`
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Voter       uint64 `json:"voter"`       // random, never changed; 0: there is no ledger at all
	Incarnation uint64 `json:"incarnation"` // pledged to; 0: to none yet
	Lost        bool   `json:"lost"`        // it lacks entries that it once acknowledged

	// Aside is the incarnation whose ledger this node gave up for Incarnation's; 0: none. Until
	// that one's leader admits it, it asks to be.
	Aside uint64 `json:"aside,omitempty"`
	// Conflict is the incarnation whose meeting stopped this ledger; 0: none. Only an operator
	// ends that, and not a restart.
	Conflict uint64 `json:"conflict,omitempty"`
	// Refused are incarnations that an operator decided against.
	Refused []uint64 `json:"refused,omitempty"`
}

// Position is how far a ledger is. Its parts belong together: Applied never exceeds the commit
// index in Hard, and Conf is as of Applied.
type Position struct {
	Hard    *pb.HardState
	Conf    *pb.ConfState
	Applied uint64 // log index
}

// Saved is all that a Storage holds. Nobody changes what it points to.
type Saved struct {
	Identity Identity // zero: the Storage is new
	Position Position
	Snapshot *pb.Snapshot
	Entries  []*pb.Entry // in order, without gaps; they may begin before the snapshot's end
}

// Change is one durable step of a Storage. What is nil or empty stays as it is.
type Change struct {
	Identity *Identity
	Position *Position
	Snapshot *pb.Snapshot
	DropTo   uint64      // entries up to this index, itself included, are deleted
	Entries  []*pb.Entry // then the log is these from Entries[0].Index on: later ones go, too
}

// Storage keeps one node's ledger. Only its Voter uses it, one call at a time.
type Storage interface {
	// Load returns what is held. Errors: ErrCorrupt, or that of the medium.
	Load() (Saved, error)
	// Save makes c durable as a whole or not at all, before it returns. After an error it is not
	// known which.
	Save(c Change) error
	// SetAside keeps all that is held, apart, under the incarnation of the present Identity, and
	// holds next and nothing else from then on: as a whole or not at all.
	SetAside(next Identity) error
}

// book is a ledger as its Voter has it: what its Storage holds, the part of it that raft reads,
// and what moved since the last write.
type book struct {
	st Storage
	id Identity

	mem       *raft.MemoryStorage
	pos       Position // newest known, perhaps not yet written: see lazy
	snapIndex uint64   // log index of the snapshot
	lazy      bool     // commit or applied index moved since the last write; losing that is harmless
}

// openBook loads st, and gives it an identity if it is new.
func openBook(st Storage, cluster, node string, rng func() uint64) (*book, error) {
	saved, err := st.Load()
	if err != nil {
		return nil, err
	}
	b := &book{st: st}
	if err := b.take(saved); err != nil {
		return nil, err
	}
	if b.id.Voter == 0 && b.id.Format == 0 && b.empty() {
		return b, b.setIdentity(Identity{Format: Format, Cluster: cluster, Node: node, Voter: newVoterID(node, rng)})
	}
	switch {
	case b.id.Format != Format:
		return nil, fmt.Errorf("%w: format %d, this program knows %d", ErrCorrupt, b.id.Format, Format)
	case b.id.Cluster != cluster || b.id.Node != node:
		return nil, fmt.Errorf("%w: it is of node %q, cluster %q", ErrForeign, b.id.Node, b.id.Cluster)
	case b.id.Voter == 0:
		return nil, fmt.Errorf("%w: voter id 0", ErrCorrupt)
	}
	return b, nil
}

// take makes saved be what the book holds.
func (b *book) take(saved Saved) error {
	snap, pos, mem := saved.Snapshot, saved.Position, raft.NewMemoryStorage()
	if pos.Hard == nil {
		pos.Hard = &pb.HardState{}
	}
	if pos.Conf == nil {
		pos.Conf = &pb.ConfState{}
	}
	if !raft.IsEmptySnap(snap) {
		if err := mem.ApplySnapshot(snap); err != nil {
			return fmt.Errorf("%w: snapshot: %w", ErrCorrupt, err)
		}
	}
	at := snap.GetMetadata().GetIndex()
	if pos.Applied < at || pos.Applied > pos.Hard.GetCommit() {
		return fmt.Errorf("%w: applied %d, snapshot at %d, commit %d", ErrCorrupt, pos.Applied, at, pos.Hard.GetCommit())
	}
	// What was kept before the snapshot served lagging followers and is not needed after a start.
	ents := saved.Entries
	for len(ents) > 0 && ents[0].GetIndex() <= at {
		ents = ents[1:]
	}
	for i, e := range ents {
		if want := at + 1 + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("%w: log entry %d where %d should be", ErrCorrupt, e.GetIndex(), want)
		}
	}
	if last := at + uint64(len(ents)); pos.Hard.GetCommit() > last {
		return fmt.Errorf("%w: log ends at %d, commit is %d", ErrCorrupt, last, pos.Hard.GetCommit())
	}
	if err := mem.SetHardState(pos.Hard); err != nil {
		return err
	}
	b.id, b.pos, b.mem, b.snapIndex, b.lazy = saved.Identity, pos, mem, at, false
	return mem.Append(ents)
}

// save makes ents, the newest hard state, and with them whatever else moved, stable. When it
// returns, raft's messages may leave.
func (b *book) save(hard *pb.HardState, ents []*pb.Entry, snap *pb.Snapshot) error {
	if hard != nil {
		b.pos.Hard = hard
	}
	c := Change{Entries: ents}
	if !raft.IsEmptySnap(snap) {
		c.Snapshot, c.DropTo = snap, math.MaxUint64
		b.pos.Applied, b.pos.Conf = snap.GetMetadata().GetIndex(), snap.GetMetadata().GetConfState()
	}
	pos := b.pos
	c.Position = &pos
	if err := b.st.Save(c); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	b.lazy = false
	if c.Snapshot != nil {
		if err := b.mem.ApplySnapshot(snap); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
		b.snapIndex = snap.GetMetadata().GetIndex()
	}
	if err := b.mem.SetHardState(b.pos.Hard); err != nil {
		return err
	}
	return b.mem.Append(ents)
}

// flush writes what save left for later, if anything.
func (b *book) flush() error {
	if !b.lazy {
		return nil
	}
	return b.save(nil, nil, nil)
}

// compact replaces the log up to the applied index by a snapshot with data, but keeps the last
// keep entries for followers that lag a little.
func (b *book) compact(data []byte, keep uint64) error {
	snap, err := b.mem.CreateSnapshot(b.pos.Applied, b.pos.Conf, data)
	if err != nil {
		return fmt.Errorf("snapshot at %d: %w", b.pos.Applied, err)
	}
	first, _ := b.mem.FirstIndex()
	upTo := max(b.pos.Applied, keep) - keep
	pos := b.pos
	if err := b.st.Save(Change{Position: &pos, Snapshot: snap, DropTo: upTo}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	b.lazy, b.snapIndex = false, b.pos.Applied
	if upTo < first {
		return nil
	}
	return b.mem.Compact(upTo)
}

// replace makes snap, under another identity, all that there is: the log has ended in it.
func (b *book) replace(id Identity, term uint64, snap *pb.Snapshot) error {
	at := snap.GetMetadata().GetIndex()
	pos := Position{Hard: &pb.HardState{Term: &term, Vote: new(uint64), Commit: &at}, Conf: snap.GetMetadata().GetConfState(), Applied: at}
	if err := b.st.Save(Change{Identity: &id, Position: &pos, Snapshot: snap, DropTo: math.MaxUint64}); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return b.take(Saved{Identity: id, Position: pos, Snapshot: snap})
}

// setAside begins an empty ledger, and keeps the present one apart.
func (b *book) setAside(next Identity) error {
	if err := b.st.SetAside(next); err != nil {
		return fmt.Errorf("set the ledger aside: %w", err)
	}
	return b.take(Saved{Identity: next})
}

// setIdentity writes a changed identity.
func (b *book) setIdentity(id Identity) error {
	if err := b.st.Save(Change{Identity: &id}); err != nil {
		return fmt.Errorf("write ledger identity: %w", err)
	}
	b.id = id
	return nil
}

// empty reports whether the ledger was never founded here.
func (b *book) empty() bool { return b.last() == 0 }

// last returns the index of the last log entry.
func (b *book) last() uint64 {
	last, _ := b.mem.LastIndex() // a MemoryStorage has no error here
	return last
}

// alone reports whether this voter is the only one.
func (b *book) alone() bool {
	v := b.pos.Conf.GetVoters()
	return len(v) == 1 && v[0] == b.id.Voter
}

// founded writes the genesis as the snapshot of index 1.
func (b *book) founded(m *machine) error {
	data, err := m.encode()
	if err != nil {
		return err
	}
	one, conf := uint64(1), &pb.ConfState{}
	for _, n := range m.state.Nodes {
		conf.Voters = append(conf.Voters, n.VoterID)
	}
	slices.Sort(conf.Voters)
	snap := &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{ConfState: conf, Index: &one, Term: &one}}
	return b.save(&pb.HardState{Term: &one, Commit: &one, Vote: new(uint64)}, nil, snap)
}

// machine rebuilds the machine from the snapshot and the applied entries behind it, nil if
// there is no ledger here.
func (b *book) machine() (*machine, error) {
	if b.empty() {
		return nil, nil
	}
	snap, err := b.mem.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	m, err := decodeMachine(snap.GetData())
	if err != nil {
		return nil, err
	}
	if id := m.state.Incarnation.ID; id != b.id.Incarnation {
		return nil, fmt.Errorf("%w: snapshot of incarnation %x in incarnation %x", ErrCorrupt, id, b.id.Incarnation)
	}
	return m, b.replay(m, b.snapIndex+1, b.pos.Applied, func(proposalID, quorum.Result) {})
}

// replay applies the entries from first to last, both included, to m, and tells what became of
// each proposal.
func (b *book) replay(m *machine, first, last uint64, settle func(proposalID, quorum.Result)) error {
	if last < first {
		return nil
	}
	ents, err := b.mem.Entries(first, last+1, math.MaxUint64)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for _, e := range ents {
		if isConfChange(e) {
			continue // the stored configuration has it already, or is about to be replaced
		}
		id, res, err := m.apply(e.GetIndex(), e.GetData())
		if err != nil {
			return err
		}
		if len(e.GetData()) > 0 {
			settle(id, res)
		}
	}
	return nil
}

// raftStorage is what raft reads: MemoryStorage would give it the snapshot's configuration at a
// start, and not that of the applied index.
type raftStorage struct {
	*raft.MemoryStorage
	conf *pb.ConfState
}

func (s raftStorage) InitialState() (*pb.HardState, *pb.ConfState, error) {
	hard, _, err := s.MemoryStorage.InitialState()
	return hard, s.conf, err
}
