package quorum

import (
	"fmt"
	"slices"
	"strings"
)

// Reincarnate returns s as the first State of incarnation inc, which node self opens alone with
// the new voter id voter, on the grounds that statement gives: who was shot, or whose word it is.
//
// The other nodes stay, marked Gone: they vote no longer and are taken in again by AddNode. Nothing
// else ends. Epochs, primaries and fences stand, and the replicas of the nodes left behind are
// members of their sets until a primary drops them, as ever: what they must hold is a question of
// the data, not of the votes.
//
// It panics if s has no node self: who opens an incarnation has read its own name in the ledger.
func Reincarnate(s *State, inc Incarnation, voter uint64, self string, statement string) *State {
	i, ok := s.findNode(self)
	if !ok {
		panic(fmt.Sprintf("quorum: incarnation %+v opened by %q, which is no node of %+v", inc, self, s.Nodes))
	}
	next := *s
	next.Incarnation = inc
	next.Version++ // what was decided on the parent's catalogue is void
	next.Statement = Printable(statement, MaxText)
	next.Nodes = slices.Clone(s.Nodes)
	for j := range next.Nodes {
		next.Nodes[j].Gone = j != i
	}
	next.Nodes[i].VoterID = voter
	return &next
}

// Printable returns s as one line of valid text of at most most bytes, such as a command may carry.
func Printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
