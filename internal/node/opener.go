package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/device"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// deviceOpener makes replicas with package store and opens them with package device.
type deviceOpener struct {
	cfg      config.Node
	self     quorum.Incumbent
	log      *slog.Logger
	acceptor *peer.Acceptor
	dial     func(ctx context.Context, node, service string) (net.Conn, error)
	fresh    func() uint64
	clock    func() time.Duration // nil: CLOCK_BOOTTIME
}

// Create makes the metadata and, unless its data is taken in, the backing. A replica without a
// source begins UpToDate: all of them are zeros. One whose data comes from another node
// begins Inconsistent.
func (o *deviceOpener) Create(s spec) error {
	state := store.UpToDate
	if s.follower {
		state = store.Inconsistent
	}
	_, err := store.Create(store.CreateOptions{
		DataPath: s.dataPath, MetaPath: s.metaPath,
		Cluster: o.cfg.Cluster, Resource: s.resource, ResourceID: s.id, Node: o.self.Node,
		Size: s.sizeBytes, BootID: o.self.Boot, Regions: o.cfg.ActivityLogRegions,
		TakeExisting: s.takeIn, State: state,
	})
	if errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%w: %w", errMetaExists, err)
	}
	return err
}

// Remove deletes the files that Create made. They hold nothing.
func (o *deviceOpener) Remove(s spec) error {
	return errors.Join(os.Remove(s.metaPath), os.Remove(s.dataPath))
}

// identity is what this package needs of the metadata. The names are those of store.Dump.
type identity struct {
	Cluster    string
	Resource   string
	ResourceID uint64
	Node       string
	Instance   uint64
	Size       int64
}

// readIdentity reads whose metadata it is, without a lock: whoever uses it now does not change it.
func readIdentity(metaPath string) (identity, error) {
	var b bytes.Buffer
	if err := store.Dump(metaPath, &b, true); err != nil {
		return identity{}, err
	}
	var d struct {
		Meta store.Meta `json:"meta"`
	}
	if err := json.Unmarshal(b.Bytes(), &d); err != nil {
		return identity{}, fmt.Errorf("metadata %s: %w", metaPath, err)
	}
	m := d.Meta
	return identity{m.Cluster, m.Resource, m.ResourceID, m.Node, m.Instance, m.Size}, nil
}

// Open opens the replica at s, which must be this node's and of that resource id.
func (o *deviceOpener) Open(s spec, p *proposer, to listener) (replica, error) {
	id, err := readIdentity(s.metaPath)
	if err != nil {
		return nil, err
	}
	if id.ResourceID != s.id || id.Node != o.self.Node {
		return nil, fmt.Errorf("metadata %s: %w: it is of resource %s (id %x) on node %s, not of %s (id %x) on node %s",
			s.metaPath, store.ErrOtherResource, id.Resource, id.ResourceID, id.Node, s.resource, s.id, o.self.Node)
	}
	cfg := device.Config{
		Resource: s.resource, ResourceID: s.id, Cluster: o.cfg.Cluster, Node: o.self.Node,
		Boot: o.self.Boot, Process: o.self.Process,
		DataPath: s.dataPath, MetaPath: s.metaPath, Direct: s.direct,
		Window: int64(o.cfg.Window), Compression: compression(o.cfg.Compression), Timing: o.timing(s),
	}
	for _, node := range s.peers {
		cfg.Peers = append(cfg.Peers, device.Peer{Node: node, Addr: addrOf(o.cfg, node)})
	}
	d, err := device.Open(cfg, device.Deps{
		Proposer: p,
		Dial: func(ctx context.Context, to device.Peer) (net.Conn, error) {
			return o.dial(ctx, to.Node, serviceReplication)
		},
		OnNotice: to.notice, OnCloseClients: to.closeClients, OnCloseClient: to.closeClient, NewID: o.fresh, Clock: o.clock, Log: o.log,
	})
	if err != nil {
		return nil, err
	}
	r := &deviceReplica{Device: d, instance: id.Instance, acceptor: o.acceptor, peers: s.peers, size: id.Size, off: map[string]bool{}}
	return r, nil
}

// timing takes the durations of the resource's policy where it sets them, else those of the file.
// MaxLease is what a process that starts must wait out: the longest lease that was ever in force,
// by the ledger or by this node's file.
func (o *deviceOpener) timing(s spec) device.Timing {
	t := device.Timing{
		BeaconInterval: o.cfg.BeaconInterval, Lease: o.cfg.Lease, PeerTimeout: o.cfg.PeerTimeout,
		DropGrace: o.cfg.DropGrace, StallTimeout: o.cfg.StallTimeout, DiskTimeout: o.cfg.DiskTimeout, DriftPercent: o.cfg.DriftMargin, LatencyPercent: o.cfg.ResyncLatency,
	}
	if s.policy.Lease != 0 {
		t.Lease = time.Duration(s.policy.Lease)
	}
	if s.policy.PeerTimeout != 0 {
		t.PeerTimeout = time.Duration(s.policy.PeerTimeout)
	}
	if s.policy.ResyncImpact != 0 {
		t.LatencyPercent = s.policy.ResyncImpact
	}
	t.MaxLease = max(t.Lease, time.Duration(s.maxLease))
	return t
}

func compression(c config.Compression) wire.Compression {
	switch c {
	case config.CompressS2:
		return wire.S2
	case config.CompressZstd:
		return wire.Zstd
	}
	return 0
}

// addrOf returns the transport address of a node of the file, "" if it has none of that name.
func addrOf(cfg config.Node, node string) string {
	for _, n := range cfg.Nodes {
		if n.Name == node {
			return n.Addr
		}
	}
	return ""
}

// deviceReplica is a *device.Device with what this package adds to it.
type deviceReplica struct {
	*device.Device
	instance uint64
	acceptor *peer.Acceptor
	peers    []string

	mu   sync.Mutex
	size int64           // that the backing was grown to
	off  map[string]bool // peers that an operator disconnected
}

// Run makes the replica reachable for its peers while it runs.
func (r *deviceReplica) Run(ctx context.Context) error {
	for _, p := range r.peers {
		l, err := r.Link(p)
		if err != nil {
			return err
		}
		if err := r.acceptor.Add(l); err != nil {
			return err
		}
		defer r.acceptor.Remove(l)
	}
	return r.Device.Run(ctx)
}

func (r *deviceReplica) Instance() uint64 { return r.instance }

func (r *deviceReplica) Size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

func (r *deviceReplica) GrowBacking(sizeBytes int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sizeBytes <= r.size {
		return nil
	}
	if err := r.Device.GrowBacking(sizeBytes); err != nil {
		return err
	}
	r.size = sizeBytes
	return nil
}

// Status shows a disk that failed as failed, whatever the core has heard of it yet.
func (r *deviceReplica) Status() replication.Status {
	st := r.Device.Status()
	if st.DiskError != "" {
		st.State = replication.Failed
		if st.Reason == "" {
			st.Reason = st.DiskError
		}
	}
	return st.Status
}

func (r *deviceReplica) Backend() (nbd.Backend, bool) { return r.Device.Backend() }

func (r *deviceReplica) SetConnected(node string, on bool) error {
	if err := r.Device.SetConnected(node, on); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off[node] = !on
	return nil
}

func (r *deviceReplica) Connected(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.off[node]
}

// stateOf tells a replica that is not there from one that is there and cannot be used.
func stateOf(err error) replication.DiskState {
	for _, absent := range []error{store.ErrBackingMissing, store.ErrLocked, syscall.ENOENT} {
		if errors.Is(err, absent) {
			return replication.Diskless
		}
	}
	return replication.Failed
}
