package voter

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/lockstep-ha/lockstep/quorum"
)

// maxRecent is how many outcomes the machine remembers, so that a second copy of a proposal gets
// the answer of the first. It is part of the replicated state: to change it is a new format.
const maxRecent = 512

// maxReason bounds the text that is kept with an outcome, in bytes.
const maxReason = 512

// proposalID tells one proposal from every other; the copies of it share it.
type proposalID [16]byte

func (p proposalID) String() string { return hex.EncodeToString(p[:]) }

// outcome is what became of a proposal, without the record, which can be looked up.
type outcome struct {
	ID     string      `json:"id"`
	Code   quorum.Code `json:"code"`
	Reason string      `json:"reason"`
	Index  uint64      `json:"index"`
}

// machine is the replicated state machine: quorum.State, the latest outcomes, and where the
// incarnations of this ledger parted from their parents. Every voter computes the same one from
// the same entries.
type machine struct {
	state  *quorum.State
	recent []outcome // oldest first, at most maxRecent
	byID   map[proposalID]outcome
	forks  []fork // oldest first, at most maxForks; the last one opened the present incarnation
}

func newMachine(s *quorum.State) *machine {
	return &machine{state: s, byID: map[proposalID]outcome{}}
}

// clone returns a machine that goes its own way from here.
func (m *machine) clone() *machine {
	return &machine{state: m.state, recent: slices.Clone(m.recent), byID: maps.Clone(m.byID), forks: slices.Clone(m.forks)}
}

// apply carries out the data of one committed entry. The data came through this package's
// Propose, so what does not decode was written by a newer version: the error says so, and the
// ledger must stop rather than skip it and diverge.
func (m *machine) apply(index uint64, data []byte) (proposalID, quorum.Result, error) {
	var id proposalID
	if len(data) == 0 { // raft's own entry at the start of a term
		return id, quorum.Result{}, nil
	}
	if len(data) < len(id) {
		return id, quorum.Result{}, fmt.Errorf("log entry %d: %w: %d bytes", index, quorum.ErrFormat, len(data))
	}
	copy(id[:], data)
	cmd, err := quorum.DecodeCommand(data[len(id):])
	if err != nil {
		return id, quorum.Result{}, fmt.Errorf("log entry %d: %w", index, err)
	}
	if o, ok := m.byID[id]; ok {
		return id, m.result(o, cmd.Resource), nil
	}
	next, res := quorum.Apply(m.state, cmd)
	m.state = next
	res.Index = index
	m.remember(id, outcome{ID: id.String(), Code: res.Code, Reason: clip(res.Reason), Index: index})
	return id, res, nil
}

func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:maxReason]), nil))
}

func (m *machine) remember(id proposalID, o outcome) {
	if len(m.recent) == maxRecent {
		old, err := parseID(m.recent[0].ID)
		if err != nil {
			panic(fmt.Sprintf("voter: outcome with id %q: %v", m.recent[0].ID, err))
		}
		delete(m.byID, old)
		m.recent = append(m.recent[:0], m.recent[1:]...)
	}
	m.recent = append(m.recent, o)
	m.byID[id] = o
}

// result is the answer to a proposal of outcome o about resource, with the record as it is now.
func (m *machine) result(o outcome, resource string) quorum.Result {
	return quorum.Result{Code: o.Code, Reason: o.Reason, Index: o.Index, Resource: m.state.Find(resource)}
}

// machineFormat is the version of an encoded machine.
const machineFormat = 1

type encodedMachine struct {
	Format int             `json:"v"`
	State  json.RawMessage `json:"state"`
	Recent []outcome       `json:"recent"`
	Forks  []fork          `json:"forks,omitempty"`
}

func (m *machine) encode() ([]byte, error) {
	s, err := quorum.EncodeState(m.state)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(encodedMachine{Format: machineFormat, State: s, Recent: m.recent, Forks: m.forks})
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return b, nil
}

// decodeMachine reads the data of a snapshot. Errors wrap quorum.ErrFormat or ErrInvalid.
func decodeMachine(b []byte) (*machine, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var e encodedMachine
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("snapshot: %w: %w", quorum.ErrFormat, err)
	}
	if e.Format != machineFormat || d.More() || len(e.Recent) > maxRecent || len(e.Forks) > maxForks {
		return nil, fmt.Errorf("snapshot: %w: version %d, %d outcomes, %d forks", quorum.ErrFormat, e.Format, len(e.Recent), len(e.Forks))
	}
	s, err := quorum.DecodeState(e.State)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	m := newMachine(s)
	m.forks = e.Forks
	for _, o := range e.Recent {
		id, err := parseID(o.ID)
		if err != nil {
			return nil, fmt.Errorf("snapshot: %w: %w", quorum.ErrFormat, err)
		}
		m.remember(id, o)
	}
	return m, nil
}

func parseID(s string) (proposalID, error) {
	var id proposalID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("proposal id %.40q", s)
	}
	copy(id[:], b)
	return id, nil
}
