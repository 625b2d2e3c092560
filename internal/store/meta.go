package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/lockstep-ha/lockstep/bitmap"
)

const (
	// MaxPeers is the number of dirty bitmaps that one replica can keep.
	MaxPeers = 8
	// MaxLineage is the number of generation ids that one superblock can hold.
	MaxLineage = 4096
)

// DiskState is what the data of a replica is worth. The store records it and, but for Failed, never
// changes it on its own: the transitions are the replication core's.
//
//	            resync begins            joined
//	Outdated  ----------------> Inconsistent ------> UpToDate
//	   ^                                               |
//	   +------------- left the in-sync set ------------+
//
//	any --fsync or I/O error--> Failed      any --foreign lineage--> Diverged
type DiskState uint8

const (
	Inconsistent DiskState = iota // a resync into it has begun and not ended, or nothing is known
	Outdated                      // a consistent state of the past
	UpToDate                      // holds every acknowledged write as of its last session
	Failed                        // an I/O error was seen; only new metadata heals it
	Diverged                      // holds writes of a timeline of its own
)

var stateNames = [...]string{"Inconsistent", "Outdated", "UpToDate", "Failed", "Diverged"}

func (s DiskState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "DiskState(" + strconv.Itoa(int(s)) + ")"
}

// MarshalText returns the name of s.
func (s DiskState) MarshalText() ([]byte, error) {
	if int(s) >= len(stateNames) {
		return nil, fmt.Errorf("unknown disk state %d", s)
	}
	return []byte(s.String()), nil
}

// UnmarshalText accepts the names that String returns.
func (s *DiskState) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown disk state %q", text)
	}
	*s = DiskState(i)
	return nil
}

// Identity says whose data this is. It never changes, but for Size.
type Identity struct {
	Cluster    string `json:"cluster"`
	Resource   string `json:"resource"`
	ResourceID uint64 `json:"resource_id"` // made with the resource; tells it from a namesake
	Node       string `json:"node"`
	Instance   uint64 `json:"instance"` // random, made with this metadata, never 0
	Size       int64  `json:"size"`     // of the device, bytes
}

// PeerSlot says for whom a bitmap is kept. An empty Node is a free slot.
type PeerSlot struct {
	Node        string `json:"node"`
	Instance    uint64 `json:"instance"`     // of the peer's replica
	LastSession uint64 `json:"last_session"` // id of the last session with it
	// PendingSession is an id offered to it since, which it may have stored; 0: none.
	PendingSession uint64 `json:"pending_session"`
	// Stamp is the newest LogSeq that was seen of it: one that shows a lower one was put back to an
	// earlier copy.
	Stamp uint64 `json:"stamp,omitempty"`
}

// Backing recognises the file or device that holds the data.
type Backing struct {
	Path   string `json:"path"`             // as last opened; may change freely
	Block  bool   `json:"block"`            // a block device
	Dev    uint64 `json:"dev"`              // device number; compared within one boot only
	Inode  uint64 `json:"inode,omitempty"`  // of a file
	Born   int64  `json:"born,omitempty"`   // of a file: birth time, ns since 1970; 0 unknown
	Serial string `json:"serial,omitempty"` // of a block device; empty unknown
	MTime  int64  `json:"mtime,omitempty"`  // of a file, at the clean stop, ns since 1970
	Made   bool   `json:"made,omitempty"`   // Create made it: it held zeros at first
}

// Meta is what a superblock says. Identity, Regions, Backing, Boot, Clean and Failure belong to the
// store; the rest to the replication core, which changes it with SaveMeta or UpdateMeta.
type Meta struct {
	Identity
	Regions       int        `json:"regions"`           // capacity of the activity log
	Epoch         uint64     `json:"epoch"`             // highest accepted; never falls
	Lineage       []uint64   `json:"-"`                 // generation ids, oldest first, MaxLineage at most
	State         DiskState  `json:"state"`             //
	Failure       string     `json:"failure,omitempty"` // why State is Failed, for people
	Unclean       bool       `json:"unclean"`           // writes may have been lost in a host crash
	Clean         bool       `json:"clean"`             // stopped cleanly; false while open
	Boot          string     `json:"boot"`              // kernel boot id of the last Open
	LedgerVersion uint64     `json:"ledger_version"`    // of the ledger record last acted on
	Peers         []PeerSlot `json:"peers,omitempty"`   // index = bitmap slot, MaxPeers at most
	Backing       Backing    `json:"backing"`
}

// Clone returns a copy that shares no slice.
func (m Meta) Clone() Meta {
	m.Lineage = slices.Clone(m.Lineage)
	m.Peers = slices.Clone(m.Peers)
	return m
}

// validate returns all faults of m, joined.
func (m Meta) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(m.Resource != "", "resource has no name")
	check(m.Instance != 0, "instance is 0")
	check(m.Size > 0 && m.Size <= bitmap.MaxSize, "size %d is not 1 to %d bytes", m.Size, int64(bitmap.MaxSize))
	check(m.Regions >= bitmap.MinRegions && m.Regions <= bitmap.MaxRegions,
		"%d activity log regions, not %d to %d", m.Regions, bitmap.MinRegions, bitmap.MaxRegions)
	check(int(m.State) < len(stateNames), "unknown disk state %d", m.State)
	if len(m.Peers) > MaxPeers {
		errs = append(errs, fmt.Errorf("%d peers: %w", len(m.Peers), ErrTooLarge))
	}
	if len(m.Lineage) > MaxLineage {
		errs = append(errs, fmt.Errorf("lineage of %d generations: %w", len(m.Lineage), ErrTooLarge))
	}
	return errors.Join(errs...)
}

// metaBody is the JSON of a superblock. The lineage is a string of 16 hex digits a generation: as a
// list of decimal numbers it would be a third longer, and other readers of JSON round such numbers.
type metaBody struct {
	plainMeta
	Lineage hexList `json:"lineage"`
}

type plainMeta Meta // without the methods of Meta

type hexList []uint64

func (h hexList) MarshalText() ([]byte, error) {
	text := make([]byte, 0, 16*len(h))
	for _, v := range h {
		text = fmt.Appendf(text, "%016x", v)
	}
	return text, nil
}

func (h *hexList) UnmarshalText(text []byte) error {
	if len(text)%16 != 0 {
		return fmt.Errorf("lineage of %d digits", len(text))
	}
	*h = nil
	for ; len(text) > 0; text = text[16:] {
		v, err := strconv.ParseUint(string(text[:16]), 16, 64)
		if err != nil {
			return fmt.Errorf("lineage: %w", err)
		}
		*h = append(*h, v)
	}
	return nil
}

// MarshalJSON keeps the lineage in its place when a Meta is shown to people or programs.
func (m Meta) MarshalJSON() ([]byte, error) {
	return json.Marshal(metaBody{plainMeta(m), m.Lineage})
}
