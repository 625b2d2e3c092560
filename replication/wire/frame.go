package wire

import "github.com/lockstep-ha/lockstep/bitmap"

// Type tells what a frame asks for or reports.
type Type uint8

// Frames from the primary to a secondary. Those marked "acked" carry a sequence number that the
// secondary acknowledges, cumulatively, with Ack.
const (
	_           Type = iota
	Lead             // Msg: the sender is primary of Frame.Epoch and leads this session
	Write            // acked: Payload belongs at Extent; FlagFUA: stable before the ack
	WriteZeroes      // acked: Extent reads as zeros; FlagPunch: it may be unmapped
	Trim             // acked: Extent reads as zeros and should be unmapped
	Flush            // FlushAck answers: every frame before it is stable
	Beacon           // BeaconAck answers: keeps the session and, Arg in nanoseconds, the lease
	ResyncBegin      // Msg; ResyncReady answers: the target is durably Inconsistent
	Copy             // acked: like Write, from resync, never from a client
	CopyZeroes       // acked: like WriteZeroes, from resync
	HashRequest      // HashReply answers: keyed hash of each block of Extent
	JoinPrepare      // Msg; JoinReady answers: the target is durably UpToDate
	Handover         // Msg.Node, Runs: blocks that Node lacks; HandoverDone answers the last part once they are durable
	Settled          // Msg.Node holds what the primary holds: the bitmap kept for it is cleared
	typePrimaryEnd
)

// Frames from a secondary to the primary.
const (
	Follow       Type = iota + 64 // Msg: answers Lead, after all Bits
	Bits                          // Msg.Runs: blocks that the sender knows to differ, or suspects
	Ack                           // Seq: every acked frame up to it is complete
	FlushAck                      // Seq of the Flush it answers
	BeaconAck                     // Seq of the Beacon it answers
	ResyncReady                   // the target is durably Inconsistent
	HashReply                     // Seq of the HashRequest; Payload: HashSize bytes a block
	JoinReady                     // Seq of the JoinPrepare
	Failed                        // Seq could not be applied: Arg is the errno; it is never acked
	Refuse                        // either side. Msg.Reason: the session cannot go on; the sender closes it
	HandoverDone                  // Seq of the Handover
	typeSecondaryEnd
)

// Flags modify a frame.
type Flags uint16

const (
	FlagFUA        Flags = 1 << iota // stable before it is acknowledged
	FlagPunch                        // zeros may be unmapped
	FlagCompressed                   // Payload is compressed on the wire; seen by the codec alone
	FlagKept                         // Follow: what this replica acknowledged before is still there
)

// HashSize is the length of one block's keyed hash in a HashReply, in bytes.
const HashSize = 16

// MaxPayload is the largest payload of a frame, in bytes, as it is after decompression.
const MaxPayload = 1 << 20

// MaxMsg is the largest encoded Message, in bytes.
const MaxMsg = 1 << 20

// Frame is one message of a session without its payload bytes. The zero value of a field means
// that the type does not use it.
type Frame struct {
	Type      Type
	Flags     Flags
	Arg       uint64        // errno, or a duration in nanoseconds, see Type; in the data path the sender's Hello.Stamp as it is now
	Epoch     uint64        // of the primary that leads the session
	Seq       uint64        // see Type
	Watermark uint64        // every acked frame up to it is complete on all connected replicas
	Extent    bitmap.Extent // bytes of the device
	Payload   uint32        // length of the payload in bytes; its bytes travel beside the Frame
	Msg       *Message      // the rarely used rest; nil in frames of the data path
}

// Message is the body of the frames that negotiate. It travels as JSON, so that fields can be
// added; a reader refuses fields it does not know.
type Message struct {
	Version   uint64   `json:"version,omitempty"`    // of the ledger record the sender acts on
	Lineage   []uint64 `json:"lineage,omitempty"`    // generation ids, oldest first
	HashKey   []byte   `json:"hash_key,omitempty"`   // 32 bytes, fresh for each session
	SessionID uint64   `json:"session_id,omitempty"` // fresh for each session, stored by both sides
	State     string   `json:"state,omitempty"`      // disk state of the sender
	Kept      bool     `json:"kept,omitempty"`       // acknowledged writes are proven to be still there
	Coarse    bool     `json:"coarse,omitempty"`     // the runs come from whole regions, most blocks are equal
	Runs      []byte   `json:"runs,omitempty"`       // run-length coded blocks, see package bitmap
	Outside   []string `json:"outside,omitempty"`    // nodes outside the in-sync set, whose bitmaps the follower keeps
	Node      string   `json:"node,omitempty"`       // whom a Handover or Settled is about
	More      bool     `json:"more,omitempty"`       // further parts of this Handover follow
	Reason    string   `json:"reason,omitempty"`     // a sentence for the operator
}

// Hello opens a session: each side sends one before anything else and judges the other's.
type Hello struct {
	Protocol   uint16   `json:"protocol"` // highest version spoken
	Cluster    string   `json:"cluster"`
	Resource   string   `json:"resource"`
	ResourceID uint64   `json:"resource_id"` // made at creation; tells a new resource from its namesake
	Node       string   `json:"node"`
	Instance   uint64   `json:"instance"` // replica instance id
	Boot       string   `json:"boot"`     // kernel boot id
	Process    uint64   `json:"process"`  // fresh for each start of the daemon
	Epoch      uint64   `json:"epoch"`    // highest epoch accepted, durable
	Lineage    []uint64 `json:"lineage"`
	Size       int64    `json:"size"` // bytes
	State      string   `json:"state"`
	LastID     uint64   `json:"last_session,omitempty"`    // id of the last session with this peer
	PendingID  uint64   `json:"pending_session,omitempty"` // id offered since, perhaps stored by the peer
	Stamp      uint64   `json:"stamp,omitempty"`           // changes of the sender's stored activity log; never falls
	Unclean    bool     `json:"unclean,omitempty"`
	Features   []string `json:"features,omitempty"` // "s2", "zstd"
	Attempt    uint64   `json:"attempt,omitempty"`  // of the dialer: rises within one Process
}
