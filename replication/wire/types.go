package wire

import (
	"fmt"
	"strings"
)

// Side tells which end of a session a frame comes from.
type Side uint8

const (
	AnySide       Side = iota // nobody leads yet, or both claim to
	PrimarySide               // the end that sent Lead
	SecondarySide             // the end that follows
)

// body tells what the payload of a frame type is.
type body uint8

const (
	noBody      body = iota
	dataBody         // the bytes of Extent
	hashBody         // HashSize bytes a block
	messageBody      // an encoded Message
)

// kind is what the codec knows of one frame type.
type kind struct {
	name string
	body body
}

var kinds = [256]kind{
	Lead:        {"lead", messageBody},
	Write:       {"write", dataBody},
	WriteZeroes: {"write-zeroes", noBody},
	Trim:        {"trim", noBody},
	Flush:       {"flush", noBody},
	Beacon:      {"beacon", noBody},
	ResyncBegin: {"resync-begin", messageBody},
	Copy:        {"copy", dataBody},
	CopyZeroes:  {"copy-zeroes", noBody},
	HashRequest: {"hash-request", noBody},
	JoinPrepare: {"join-prepare", messageBody},
	Handover:    {"handover", messageBody},
	Settled:     {"settled", messageBody},

	Follow:      {"follow", messageBody},
	Bits:        {"bits", messageBody},
	Ack:         {"ack", noBody},
	FlushAck:    {"flush-ack", noBody},
	BeaconAck:   {"beacon-ack", noBody},
	ResyncReady: {"resync-ready", noBody},
	HashReply:   {"hash-reply", hashBody},
	JoinReady:   {"join-ready", noBody},
	Failed:      {"failed", noBody},
	Refuse:      {"refuse", messageBody},

	HandoverDone: {"handover-done", noBody},
}

// String returns the name of t as the logs and docs/protocol.md write it.
func (t Type) String() string {
	if n := kinds[t].name; n != "" {
		return n
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// Known reports whether t is a frame type of this version.
func (t Type) Known() bool { return kinds[t].name != "" }

// FromPrimary reports whether t travels from the primary to a secondary.
func (t Type) FromPrimary() bool { return t >= Lead && t < typePrimaryEnd }

// FromSecondary reports whether t travels from a secondary to the primary.
func (t Type) FromSecondary() bool { return t >= Follow && t < typeSecondaryEnd }

// From reports whether the side s may send t. Lead and Refuse may come from either side: a node
// may claim the lead of a session that the other leads, and the receiver then judges the epochs.
func (t Type) From(s Side) bool {
	if t == Lead || t == Refuse {
		return true
	}
	switch s {
	case PrimarySide:
		return t.FromPrimary()
	case SecondarySide:
		return t.FromSecondary()
	}
	return t.Known()
}

// Carries reports whether frames of type t have payload bytes that are not a Message.
func (t Type) Carries() bool { return kinds[t].body == dataBody || kinds[t].body == hashBody }

// MayCompress reports whether the payload of t may travel compressed.
func (t Type) MayCompress() bool { return kinds[t].body == dataBody }

// CarriesMessage reports whether frames of type t have a Message.
func (t Type) CarriesMessage() bool { return kinds[t].body == messageBody }

const knownFlags = FlagFUA | FlagPunch | FlagCompressed | FlagKept

var flagNames = []string{"fua", "punch", "compressed", "kept"}

// String returns the names of the flags set in f, joined by "|", or "-" when there are none.
func (f Flags) String() string {
	if f == 0 {
		return "-"
	}
	var names []string
	for i, n := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	if rest := f &^ knownFlags; rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint16(rest)))
	}
	return strings.Join(names, "|")
}
