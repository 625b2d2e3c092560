package replication

import (
	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// ActionKind tells which fields of an Action have a meaning.
type ActionKind uint8

const (
	// ActReply answers request ID with Err and ends the ID. On success of a read, the bytes
	// read under that ID go with it.
	ActReply ActionKind = iota + 1

	// ActReplyEarly answers request ID with Err while it is still under way. The ID and its payload
	// go on until ActFree.
	ActReplyEarly

	// ActFree ends an ID that is no request, or one that was answered early: its payload is released.
	ActFree

	// ActDrop ends request ID without any answer; its connection is being closed.
	ActDrop

	// Local I/O on Ext for ID; each is answered by one EvLocalDone. Write and Send take the
	// payload kept under ID; Read and Hash put their result there.
	ActLocalRead
	ActLocalWrite   // FlagFUA
	ActLocalZeroes  // FlagFUA, FlagPunch
	ActLocalTrim    // FlagFUA
	ActLocalSync    // fdatasync
	ActLocalHash    // payload becomes HashSize bytes a block, keyed with HashKey
	ActLocalCompare // compare the hashes kept under ID (a HashReply's payload) with the local blocks; Diff

	// ActSend queues Frame for Session of Peer, with the payload kept under ID when ID is not
	// zero (the frame takes a reference of its own; the ID may end before it is sent).
	ActSend

	// ActSaveLog makes the activity log equal to Log.Active; answered by EvLogSaved. When
	// Log.Evicted is not empty the backing device is synced first and Pages are written, all
	// before the log itself.
	ActSaveLog

	// ActSaveMeta makes Meta (and Pages) durable; answered by EvMetaSaved. Saves take effect
	// in the order of the actions.
	ActSaveMeta

	// ActPropose asks the ledger for Proposal; answered by EvProposalDone.
	ActPropose

	// ActCloseSession ends Session of Peer for Reason; EvSessionDown follows.
	ActCloseSession

	// ActCloseClients ends every client connection without answering anything (rule 15).
	ActCloseClients

	// ActAdmitClient: session Number of Client may send requests.
	ActAdmitClient

	// ActRefuseClient: session Number of Client may not: a higher one is or was open, or there are
	// too many clients. Err says which.
	ActRefuseClient

	// ActCloseClient ends the connections of Client's sessions up to Number, without answering.
	ActCloseClient

	// ActNotice reports a transition for logs, metrics and operators.
	ActNotice

	// ActDiskFailed: the backing device is not to be used again by this process (rule 13).
	ActDiskFailed
)

// Action is one thing to be done, in order.
type Action struct {
	Kind     ActionKind
	Flags    OpFlags
	Peer     Peer
	ID       ID
	Session  SessionID
	Client   ClientID
	Number   uint64
	Ext      bitmap.Extent
	Err      error
	Token    uint64
	Frame    wire.Frame
	Log      *bitmap.Tx
	Pages    []Page
	Meta     *Meta
	Proposal *Proposal
	HashKey  *[32]byte
	Notice   *Notice
	Reason   string
}

// Page is the image of one bitmap page, a copy that the shell may keep.
type Page struct {
	Peer  Peer
	Index int
	Bits  []byte
}

// Meta is what a replica must remember beyond its blocks.
type Meta struct {
	Epoch        uint64
	Lineage      []uint64
	State        DiskState
	Unclean      bool
	Version      uint64 // of the newest ledger record acted on
	Size         int64
	PeerInstance []uint64 // per Peer: the instance its bitmap is about
	PeerSession  []uint64 // per Peer: id of the last session that both sides are known to have stored
	PeerPending  []uint64 // per Peer: id offered since, which the peer may have stored; 0: none
	PeerStamp    []uint64 // per Peer: newest Hello.Stamp seen of its instance; see peer.wentBack
}

// DiskState is the state of one replica's data.
type DiskState uint8

const (
	StateUnknown DiskState = iota
	UpToDate
	Outdated     // clean but old
	Inconsistent // a resync into it has begun and not ended
	Diskless
	Failed
	Diverged
)

var diskStateNames = [...]string{"Unknown", "UpToDate", "Outdated", "Inconsistent", "Diskless", "Failed", "Diverged"}

func (s DiskState) String() string {
	if int(s) < len(diskStateNames) {
		return diskStateNames[s]
	}
	return "Invalid"
}

// ParseDiskState returns the state named s, or StateUnknown.
func ParseDiskState(s string) DiskState {
	for i, n := range diskStateNames {
		if n == s {
			return DiskState(i)
		}
	}
	return StateUnknown
}

// ProposalKind is a change of the ledger that a core can ask for.
type ProposalKind uint8

const (
	ProposeDrop ProposalKind = iota + 1
	ProposeJoin
	ProposeStepDown
	ProposeNoOp // only raises the version, so that a Join of unknown outcome can never apply
)

// Proposal asks for a change of the record that has Version, in Epoch. The shell adds names,
// instances and, for a Drop, a fresh generation id. It may repeat a proposal of unknown outcome:
// at most one of them can apply, because each raises the version.
type Proposal struct {
	Kind    ProposalKind
	Epoch   uint64
	Version uint64
	Peers   []Peer // dropped, or the one that joins
	Failed  bool   // the reason is a failed disk
}

// NoticeKind names a transition.
type NoticeKind uint8

const (
	NoticeRole NoticeKind = iota + 1
	NoticeConnection
	NoticeDiskState
	NoticeFrozen
	NoticeResumed
	NoticeDropped
	NoticeJoined
	NoticeResyncStarted
	NoticeResyncDone
	NoticeVerifyDone
	NoticeRefused
	NoticeError
	NoticeErrors // requests are answered with errors
	NoticeClosed // of clients: the freeze has lasted too long
)

var noticeNames = [...]string{"", "role", "connection", "disk_state", "io_frozen", "io_resumed", "dropped", "joined",
	"resync_started", "resync_done", "verify_done", "refused", "error", "io_errors", "clients_closed"}

func (k NoticeKind) String() string {
	if int(k) < len(noticeNames) {
		return noticeNames[k]
	}
	return "invalid"
}

// Notice is a transition of the core, for people.
type Notice struct {
	Kind  NoticeKind
	Peer  string // node it is about, "" for this one
	Text  string // a sentence
	Bytes int64  // amount, where there is one: of a resync that begins, what differs; of one that is done, what was copied
	Equal int64  // of a resync that is done: what was found equal
}
