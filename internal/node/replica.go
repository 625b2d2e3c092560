package node

import (
	"context"
	"errors"

	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// replica is an open replica: what this package needs of *device.Device.
type replica interface {
	// Run owns the replica's goroutines and its sessions until ctx ends or the replica cannot go on.
	Run(ctx context.Context) error
	// Close releases files and locks after Run. clean records a clean stop; an error says that
	// it could not be recorded, which costs a resync and no data.
	Close(clean bool) error

	Instance() uint64 // random, made with the metadata
	Size() int64      // bytes that the backing holds for the device
	// GrowBacking makes the backing sizeBytes long, the new space zero. A smaller size is no change.
	GrowBacking(sizeBytes int64) error

	// Backend serves the connections that are accepted now; false when this replica does not serve.
	Backend() (nbd.Backend, bool)
	// OpenClient opens a session of a client that says who it is, and CloseClient ends it. See device.
	OpenClient(ctx context.Context, client replication.ClientID, number uint64) (nbd.Backend, error)
	CloseClient(client replication.ClientID, number uint64)

	SetRecord(rec *replication.Record) error
	// Stop ends serving for good in this epoch and returns when the role is given up.
	Stop(ctx context.Context, failed bool) error
	// WaitPrimary returns nil once the replica serves as primary of epoch.
	WaitPrimary(ctx context.Context, epoch uint64) error
	Serving() bool
	// LeaseHeld reports whether the replica is primary and inside its lease at this moment.
	LeaseHeld() bool
	Status() replication.Status
	// Fitness is what the replica says of itself to whoever decides about promotions.
	Fitness() replication.Fitness

	PauseResync() error
	ResumeResync() error
	Verify(peer string, repair bool) error
	Invalidate(peer string) error
	// Discard gives the data and history of this replica up.
	Discard() error
	// MayGoAlone returns why this process may not go on without peer in a pair without a witness.
	MayGoAlone(peer string) error
	// SetConnected lets the session with peer be tried, or ends it and keeps it down.
	SetConnected(peer string, on bool) error
	// Received returns the id of the session with peer, 0 if there is none, and the bytes that it brought.
	Received(peer string) (session, bytes uint64)
	// EndSession ends the session with peer, if there is one, for the reason err.
	EndSession(peer string, err error)
	// Connected reports whether an operator lets the session with peer be tried.
	Connected(peer string) bool
}

// errMetaExists says that there is metadata at the path already.
var errMetaExists = errors.New("metadata exists")

// spec says where a replica of this node lies and whose it is.
type spec struct {
	resource  string
	id        uint64
	sizeBytes int64
	dataPath  string
	metaPath  string
	direct    bool
	takeIn    bool // the backing exists and its data is the resource's
	follower  bool // the backing is new, but the data comes from another node
	peers     []string
	policy    quorum.Policy
	maxLease  quorum.Duration
}

// specOf returns the spec of the replica of rec on node, which has one.
func specOf(rec *quorum.Resource, node string) spec {
	r := rec.Replica(node)
	s := spec{
		resource: rec.Name, id: rec.ID, sizeBytes: rec.SizeBytes,
		dataPath: r.DataPath, metaPath: r.MetaPath, direct: r.Direct,
		takeIn:   rec.Source == node,
		follower: rec.Source != "" && rec.Source != node,
		peers:    record.Peers(rec, node),
		policy:   rec.Policy,
		maxLease: rec.LongestLease,
	}
	if s.metaPath == "" {
		s.metaPath = s.dataPath + ".meta"
	}
	return s
}

// listener is told what becomes of a replica.
type listener struct {
	notice       func(replication.Notice)
	closeClients func()                                                // end every client connection
	closeClient  func(client replication.ClientID, upToSession uint64) // end those of one client's sessions
}

// opener makes and opens replicas.
type opener interface {
	// Create makes backing and metadata. errMetaExists: there is metadata already, whosever.
	Create(s spec) error
	// Replace is Create where something else may be, which is kept under its name with suffix.
	Replace(s spec, suffix string) error
	// Open opens the replica at s. p is called from the replica's Run on, and what to has from one
	// goroutine of it.
	Open(s spec, p *proposer, to listener) (replica, error)
	// Remove deletes the files that Create has made and that nobody has ever written to.
	Remove(s spec) error
}

// fault says why a replica of this node is not open.
type fault struct {
	state  replication.DiskState // Failed or Diskless
	reason string                // a sentence
}
