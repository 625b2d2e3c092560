package voter

import (
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Memory is a Storage in memory, for tests and the simulator. It outlives the Voter on it: a
// process that ends is a Voter that is forgotten, and New on the same Memory is its next start.
//
// What a Voter writes lazily is in the Voter until it writes it. So a Voter that is forgotten
// loses it, as a killed process does, and one that is stopped first (Voter.Stop) does not.
type Memory struct {
	saved Saved
	aside []Saved

	fail   error
	effect bool
}

var _ Storage = (*Memory)(nil)

// NewMemory returns a Memory that holds nothing.
func NewMemory() *Memory { return &Memory{} }

// Clone returns a copy. To go on with an older one is to restore an old ledger file.
func (m *Memory) Clone() *Memory {
	c := *m
	c.saved = copied(m.saved)
	c.aside = slices.Clone(m.aside)
	return &c
}

// copied returns a copy that does not see what is later appended to or cut from s. The records
// themselves never change.
func copied(s Saved) Saved {
	s.Entries = slices.Clone(s.Entries)
	s.Identity.Refused = slices.Clone(s.Identity.Refused)
	return s
}

// FailNext makes the next Save or SetAside return err. Whether it takes effect all the same is
// the caller's choice: a process can die between the two.
func (m *Memory) FailNext(err error, effect bool) { m.fail, m.effect = err, effect }

// Aside returns the ledgers that were set aside, oldest first.
func (m *Memory) Aside() []Saved { return slices.Clone(m.aside) }

// Load returns what is held.
func (m *Memory) Load() (Saved, error) { return copied(m.saved), nil }

// Save takes c over.
func (m *Memory) Save(c Change) error {
	err := m.fail
	if err == nil || m.effect {
		m.apply(c)
	}
	m.fail = nil
	return err
}

func (m *Memory) apply(c Change) {
	s := &m.saved
	if c.Identity != nil {
		s.Identity = *c.Identity
	}
	if c.Position != nil {
		s.Position = *c.Position
	}
	if c.Snapshot != nil {
		s.Snapshot = c.Snapshot
	}
	if kept := firstAbove(s.Entries, c.DropTo); kept > 0 {
		s.Entries = slices.Clone(s.Entries[kept:])
	}
	if len(c.Entries) > 0 {
		at := firstAbove(s.Entries, c.Entries[0].GetIndex()-1)
		s.Entries = append(s.Entries[:at], c.Entries...)
	}
}

// firstAbove returns the position of the first entry whose index is above i.
func firstAbove(ents []*pb.Entry, i uint64) int {
	at, _ := slices.BinarySearchFunc(ents, i, func(e *pb.Entry, i uint64) int {
		if e.GetIndex() <= i {
			return -1
		}
		return 1
	})
	return at
}

// SetAside keeps what is held apart.
func (m *Memory) SetAside(next Identity) error {
	err := m.fail
	if err == nil || m.effect {
		m.aside = append(m.aside[:len(m.aside):len(m.aside)], m.saved)
		m.saved = Saved{Identity: next}
	}
	m.fail = nil
	return err
}
