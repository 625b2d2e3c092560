package replication

import "time"

// Status is a snapshot for people and metrics. All amounts are bytes.
type Status struct {
	Role      string // Primary, Secondary
	Serving   bool
	IO        string // running, frozen, failed (requests get errors), none
	Closed    bool   // frozen for longer than the policy allows: connections are closed and refused
	Reason    string // why IO is not running, a sentence
	State     DiskState
	Unclean   bool
	Hangs     bool // the disk was given up because it hung; what it holds may be whole
	Epoch     uint64
	Version   uint64
	Primary   string
	SelfInSet bool
	SizeBytes int64
	Held      int // requests waiting to be admitted
	Gated     int // requests waiting for suspect blocks
	InFlight  int // requests started
	LogActive int // regions
	Peers     []PeerStatus
	Verify    *VerifyStatus
	Lineage   []uint64 // generations of this replica's data, oldest first; must not be changed
}

// PeerStatus is one peer's part of a Status.
type PeerStatus struct {
	Node       string
	Connection string // Connected, Connecting, Handshaking
	State      DiskState
	InSet      bool
	Dirty      int64
	Unstable   int64
	Resync     *ResyncStatus // nil: none is going on
	Timeline   *Timeline     // nil: its history leads into ours, or it has not been heard of
}

// Timeline is where two histories parted, as generations, oldest first. It must not be changed.
type Timeline struct {
	Fork   uint64   // the newest that both hold; 0: none
	Ours   []uint64 // what this replica holds beyond it
	Theirs []uint64 // what the peer holds beyond it, as it said when it was refused
}

// ResyncStatus is the progress of a resync into one peer.
type ResyncStatus struct {
	Total  int64 // dirty when it began, and what was added since
	Done   int64 // copied or found equal
	Copied int64 // sent as data or zeros
	Equal  int64 // skipped, equal by hash
	Rate   int64 // bytes per second, recent
	ETA    time.Duration
	Paused bool
}

// VerifyStatus is the progress or the result of the last verify.
type VerifyStatus struct {
	Node       string
	Running    bool
	Done       int64
	Total      int64
	Mismatches int64   // blocks
	First      []int64 // offsets of the first mismatching blocks, at most 1,024
	Repaired   bool
	Err        string
}
