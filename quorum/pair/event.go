package pair

import (
	"fmt"
	"time"
)

// EventKind tells what an Event says.
type EventKind uint8

// Events.
const (
	EvLook   EventKind = iota + 1 // at least every LookInterval
	EvShot                        // OK, Text: exactly one for each ActShoot
	EvOpened                      // OK, Text: exactly one for each ActOpen
	evEnd
)

var eventNames = [evEnd]string{"none", "look", "shot", "opened"}

func (k EventKind) String() string {
	if k < evEnd {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is one thing that happened.
type Event struct {
	Kind EventKind
	Now  time.Duration // on a clock of this node that never goes back
	Look Look          // taken for this event: after the fence ended, and after the ledger answered

	OK   bool   // EvShot: proven off; EvOpened: rewritten
	Text string // the proof, or what failed, a sentence
}

// Look is what this node knows by itself at one moment.
type Look struct {
	Peer string // the only other voter; "": there is none, or more than one
	Boot string // of Peer, as it registered; "": it never did

	Voter  bool // this node has a vote
	Quorum bool // the ledger has a majority

	Linked bool // the ledger's link to Peer is up, or something came over it lately
	Gossip bool // membership hears of Peer
	// Held says why this process may not go on without Peer; "": it held every replica that both have
	// equal, when each session broke, and none is connected.
	Held string
	// Hands says why an operator, not this node, decides; "": nobody does.
	Hands string
	Left  bool // Peer said that its daemon stops

	CanFence bool // something here can turn Peer off
	Favoured bool // see Favoured
}

// Against returns what keeps this node from shooting Peer now, a clause; "" if nothing does.
func (l Look) Against() string {
	switch {
	case l.Peer == "":
		return "it is not one of two voters"
	case l.Quorum:
		return "the ledger has a majority"
	case !l.Voter:
		return "this node has no vote in the ledger"
	case l.Linked:
		return "the ledger's link to " + l.Peer + " is not silent"
	case l.Gossip:
		return "membership hears of " + l.Peer
	case l.Held != "":
		return l.Held
	case l.Left:
		return l.Peer + " said that its daemon stops, so it was not lost"
	case l.Hands != "":
		return l.Hands
	case l.Boot == "":
		return l.Peer + " never registered a start that a fence could be about"
	case !l.CanFence:
		return "nothing here can turn " + l.Peer + " off"
	}
	return ""
}

// ActionKind tells what an Action asks for.
type ActionKind uint8

// Actions.
const (
	ActShoot ActionKind = iota + 1 // Node, Boot: turn it off, and answer with EvShot
	ActOpen                        // Node, Boot, Proof: open an incarnation without it, and answer with EvOpened
)

// Action is one thing to do.
type Action struct {
	Kind  ActionKind
	Node  string
	Boot  string
	Proof string
	Why   string // one sentence, for the log and for the record
}

// Side is one of the two nodes, as the ledger knows both.
type Side struct {
	Node      string
	Primaries int // resources that both hold and of which it is the recorded primary
}

// Favoured reports whether self fires first: who is primary of more, so that fewer clients notice, and
// of two that are primary of as many the one whose name comes first. Exactly one of the two is, as long
// as both know the same record.
func Favoured(self, other Side) bool {
	if self.Primaries != other.Primaries {
		return self.Primaries > other.Primaries
	}
	return self.Node < other.Node
}
