package replication

import (
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// ID names one operation between core and shell. The low 32 bits are a dense index, so that the
// shell can keep payloads in a slice; the high bits count the uses of that index, so that a late
// message about an earlier use is recognised. Zero is no operation.
type ID uint64

// Index returns the dense index of id, starting at 0.
func (id ID) Index() int { return int(uint32(id)) }

// Peer is the position of a peer in Config.Peers, which is also its bitmap slot.
type Peer int8

// SessionID names one session with a peer within this process. Zero is no session.
type SessionID uint64

// ClientID names a client across its connections: random, chosen by the client. Zero is a client
// that does not say who it is.
type ClientID uint64

// Op is what a client asks for.
type Op uint8

const (
	OpRead Op = iota + 1
	OpWrite
	OpWriteZeroes
	OpTrim
	OpFlush
)

// OpFlags modify an Op.
type OpFlags uint8

const (
	FlagFUA   OpFlags = 1 << iota // stable before the answer
	FlagPunch                     // zeros may be unmapped
)

// EventKind tells which fields of an Event have a meaning.
type EventKind uint8

const (
	// EvTick lets time pass. The shell sends one at least every TickInterval.
	EvTick EventKind = iota + 1

	// EvRequest is a client's request: ID from NewID, Op, Flags, Ext (already range-checked;
	// empty for OpFlush; at most MaxRequest bytes for OpRead and OpWrite, MaxZeroes for the
	// others: the shell splits). Answered by one ActReply or ActReplyEarly, or by none after
	// ActCloseClients.
	EvRequest

	// EvLocalDone reports the end of a local I/O: ID, Err (nil, or an error that holds the errno),
	// Zero (ActLocalRead of a copy: every byte read is zero), Diff (ActLocalCompare: bit i is set
	// when block i of the extent differs).
	EvLocalDone

	// EvLogSaved: the activity log transaction Gen is durable, or Err.
	EvLogSaved

	// EvMetaSaved: the metadata of Token is durable, or Err.
	EvMetaSaved

	// EvSessionUp: Peer, Session, Hello (the other side's).
	EvSessionUp

	// EvSessionDown: Peer, Session; Err says why.
	EvSessionDown

	// EvFrame: Peer, Session, Frame; ID from NewID when NeedsID(Frame.Type), under which the
	// shell keeps the payload. The core ends such an ID with ActFree.
	EvFrame

	// EvLedger: Record is the newest applied ledger record. Older ones are ignored.
	EvLedger

	// EvProposalDone: Token, Outcome; the record it led to has been delivered with EvLedger
	// before (Applied and Refused carry the record with them).
	EvProposalDone

	// EvStop ends serving for good in this epoch (operator's demote, shutdown, failure):
	// StopFailed says that the disk is why. Requests that were started are finished and
	// answered first, for at most StopTimeout. Ends with a StepDown proposal.
	EvStop

	// EvPause and EvResume concern resync to every peer.
	EvPause
	EvResume

	// EvVerify starts a comparison with Peer. Repair also copies what differs, from here.
	EvVerify

	// EvInvalidate (on the primary): Peer's data is to be copied in full: it is dropped first.
	EvInvalidate

	// EvClient: client Client opens its session Number. Answered by ActAdmitClient once nothing
	// that its lower sessions began is under way, or by ActRefuseClient. Requests of that session
	// come after the admission (rule 15).
	EvClient

	// EvClientGone: session Number of Client is closed and will bring nothing more.
	EvClientGone

	// EvDiscard (on a secondary outside the set): this replica's data and history are given up,
	// so that a primary copies it in full. It is how an operator ends a divergence.
	EvDiscard
)

// Outcome is what became of a proposal.
type Outcome uint8

const (
	OutcomeApplied Outcome = iota + 1
	OutcomeRefused         // certainly not applied; an answer of the ledger
	OutcomeUnknown         // may have been applied, or may yet be
	OutcomeNotDone         // certainly not proposed
)

// Event is one thing that happened. Now is CLOCK_BOOTTIME, read just before Step is called.
type Event struct {
	Kind    EventKind
	Op      Op
	Flags   OpFlags
	Peer    Peer
	Zero    bool
	Repair  bool
	Failed  bool // EvStop
	Outcome Outcome
	Now     time.Duration
	ID      ID
	Session SessionID
	Client  ClientID // EvRequest, EvClient, EvClientGone; 0: a client that does not say who it is
	Number  uint64   // of the client's session, from 1
	Ext     bitmap.Extent
	Gen     uint64
	Token   uint64
	Err     error
	Frame   *wire.Frame // borrowed for the call
	Hello   *wire.Hello // the core keeps it
	Record  *Record     // the core keeps it
	Diff    *Diff       // borrowed for the call
}

// Diff has one bit for each block of an extent of at most MaxRequest bytes.
type Diff [MaxRequest / bitmap.BlockSize / 64]uint64

// Set marks block i.
func (d *Diff) Set(i int) { d[i/64] |= 1 << (i % 64) }

// Has reports whether block i is marked.
func (d *Diff) Has(i int) bool { return d[i/64]&(1<<(i%64)) != 0 }

const (
	// MaxRequest bounds the extent of one read or write, in bytes. The shell splits.
	MaxRequest = wire.MaxPayload

	// MaxZeroes bounds the extent of one trim or write-zeroes, in bytes: it holds few enough
	// regions that every activity log can take them at once.
	MaxZeroes = 4 * bitmap.RegionSize

	// TickInterval is the longest time between two EvTick.
	TickInterval = 20 * time.Millisecond
	// IdleTickInterval is the longest time between two EvTick where Resource.NextTick allows most.
	IdleTickInterval = 100 * time.Millisecond
)

// NeedsID reports whether a frame of type t needs an ID of its own.
func NeedsID(t wire.Type) bool {
	switch t {
	case wire.Write, wire.WriteZeroes, wire.Trim, wire.Copy, wire.CopyZeroes, wire.Flush,
		wire.HashRequest, wire.HashReply:
		return true
	}
	return false
}

// Record is the ledger's record of this resource, as this replica sees it.
type Record struct {
	Version     uint64
	Epoch       uint64
	Primary     string // node recorded as primary, "" for none
	PrimaryIsMe bool   // recorded node, instance, boot and process are this process's own
	SelfInSet   bool
	SelfFailed  bool
	SelfKnown   bool     // the recorded instance of this node is this replica's
	InSet       []bool   // per Peer
	Failed      []bool   // per Peer
	Instances   []uint64 // per Peer; 0: not registered yet
	Lineage     []uint64
	Forced      bool          // the epoch began by force: what this replica tracked for others may lack blocks
	Released    []uint64      // epochs whose primary stepped down or is proven down
	Lease       time.Duration // the policy's lease; 0: as configured
	Confirm     bool          // as Config.ConfirmReads
	MaxLease    time.Duration // longest that was ever in force; 0: as configured
	Size        int64         // bytes

	// NoQuorumError: requests that can go on neither with the members nor by dropping those that are
	// away get EIO instead of waiting. FreezeDeadline: connections of a primary that has been frozen
	// for so long are closed; 0: never.
	NoQuorumError  bool
	FreezeDeadline time.Duration
}
