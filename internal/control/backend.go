package control

import (
	"context"
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// Backend does what the API offers. Each call ends when its context does; a call that changes
// something and cannot tell its outcome returns ErrOutcomeUnknown. Errors should be or wrap the
// sentinels of this package; others arrive as ErrFailed.
type Backend interface {
	// Status reports one resource, or all when resource is empty. It never waits for the network.
	// ErrNotFound: there is no such resource.
	Status(ctx context.Context, resource string) (Status, error)
	// CreateResource makes a resource and its replicas. It returns when the ledger has it.
	CreateResource(ctx context.Context, req CreateRequest) error
	// DeleteResource forgets a resource that is primary nowhere. Its data and metadata files stay.
	DeleteResource(ctx context.Context, resource string) error
	// ResizeResource grows a resource to sizeBytes. Shrinking is refused.
	ResizeResource(ctx context.Context, resource string, sizeBytes int64) error
	// Promote makes this node primary in a new epoch.
	Promote(ctx context.Context, resource string, opts PromoteOptions) error
	// Demote makes this node secondary, and keeps the cluster from promoting another by itself.
	Demote(ctx context.Context, resource string) error
	// Switchover moves the primary role to the node to without losing a write.
	Switchover(ctx context.Context, resource, to string) error
	// Connect lets the session with peer be tried again.
	Connect(ctx context.Context, resource, peer string) error
	// Disconnect ends the session with peer and keeps it down.
	Disconnect(ctx context.Context, resource, peer string) error
	// Invalidate gives up this node's replica, which is then copied anew. The last in-sync
	// replica is refused.
	Invalidate(ctx context.Context, resource string) error
	// ReplaceReplica makes this node's replica anew, at its paths, to be copied whole. One that is in
	// sync is refused.
	ReplaceReplica(ctx context.Context, resource string) error
	// PauseResync stops copying; writes go on to be tracked.
	PauseResync(ctx context.Context, resource string) error
	// ResumeResync goes on copying.
	ResumeResync(ctx context.Context, resource string) error
	// Verify compares all replicas and returns when it is through. Ending ctx ends it.
	Verify(ctx context.Context, resource string, opts VerifyOptions) (VerifyResult, error)
	// Events calls fn for each kept event with a Seq above since, oldest first. With follow it
	// then waits for more until ctx ends, and returns nil for that. An error of fn ends it and is
	// returned.
	Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error

	Settler
	Governor
	Servicer
	Examiner
	Fencer
	Former
	Attacher
}

// CreateRequest describes a new resource.
type CreateRequest struct {
	Resource  string `json:"resource"`
	SizeBytes int64  `json:"size_bytes"` // a multiple of SizeUnit
	// Source names the node whose existing device is taken in as the data; the others are copied
	// from it. Empty: all backing files are new and read as zeros.
	Source   string          `json:"source,omitempty"`
	Replicas []ReplicaCreate `json:"replicas"`
}

// ReplicaCreate places one replica.
type ReplicaCreate struct {
	Node     string `json:"node"`
	DataPath string `json:"data_path"` // absolute; a file that is made, or an existing device
	MetaPath string `json:"meta_path"` // absolute; DataPath + ".meta" unless said otherwise
}

// SizeUnit is what the size of a resource is a multiple of, in bytes: one block of the bitmap.
const SizeUnit = 4 << 10

// MaxSize bounds a resource, in bytes. It keeps every offset and its rounding within 63 bits.
const MaxSize = 1 << 60

// Validate reports what is wrong with r by itself, as ErrUsage; whether nodes exist is for the
// Backend to say.
func (r *CreateRequest) Validate() error {
	if err := config.CheckName("resource", r.Resource); err != nil {
		return Usagef("%v", err)
	}
	if err := CheckSize(r.SizeBytes); err != nil {
		return err
	}
	if len(r.Replicas) == 0 {
		return Usagef("resource %s has no replica; name at least one, for example --replica n1=/var/lib/lockstep/%s.img", r.Resource, r.Resource)
	}
	nodes := map[string]bool{}
	for _, p := range r.Replicas {
		if err := config.CheckName("node", p.Node); err != nil {
			return Usagef("%v", err)
		}
		if nodes[p.Node] {
			return Usagef("node %s is given two replicas of %s", p.Node, r.Resource)
		}
		nodes[p.Node] = true
		if len(p.DataPath) == 0 || p.DataPath[0] != '/' || len(p.MetaPath) == 0 || p.MetaPath[0] != '/' {
			return Usagef("the paths of the replica on %s are not absolute", p.Node)
		}
		if p.DataPath == p.MetaPath {
			return Usagef("data and metadata of the replica on %s are the same path", p.Node)
		}
	}
	if r.Source != "" && !nodes[r.Source] {
		return Usagef("source %s holds no replica of %s", r.Source, r.Resource)
	}
	return nil
}

// CheckSize reports what is wrong with the size of a resource, as ErrUsage.
func CheckSize(sizeBytes int64) error {
	switch {
	case sizeBytes <= 0:
		return Usagef("the size is missing or not above 0")
	case sizeBytes%SizeUnit != 0:
		down := sizeBytes - sizeBytes%SizeUnit
		return Usagef("size %d is not a multiple of %d; the next ones are %d and %d", sizeBytes, SizeUnit, down, down+SizeUnit)
	case sizeBytes > MaxSize:
		return Usagef("size %d is above %d", sizeBytes, int64(MaxSize))
	}
	return nil
}

// PromoteOptions modify a promotion.
type PromoteOptions struct {
	// TakeOver is the operator's word that the recorded primary is down and will not write again.
	TakeOver bool `json:"take_over,omitempty"`
}

// VerifyOptions modify a verify.
type VerifyOptions struct {
	Repair bool   `json:"repair,omitempty"` // copy what differs from Source
	Source string `json:"source,omitempty"` // node; empty: the primary
}

// VerifyResult is what a verify found.
type VerifyResult struct {
	CheckedBytes  int64        `json:"checked_bytes"`
	Differences   []Difference `json:"differences"`
	Truncated     bool         `json:"truncated"` // there are more than are listed
	RepairedBytes int64        `json:"repaired_bytes"`
}

// Difference is a range in which a replica does not equal the primary's.
type Difference struct {
	Node     string `json:"node"`
	OffBytes int64  `json:"offset_bytes"`
	LenBytes int64  `json:"length_bytes"`
	Repaired bool   `json:"repaired"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s [%d+%d]", d.Node, d.OffBytes, d.LenBytes)
}
