package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

const (
	// DefaultWindow is the bytes of requests in flight when Config.Window is 0.
	DefaultWindow = 16 << 20

	// DefaultWorkers is the number of goroutines for local I/O when Config.Workers is 0.
	DefaultWorkers = 8

	// MaxPeers is the number of bitmap slots in the metadata of a replica.
	MaxPeers = 8

	// inlineMax is the largest local I/O that a reader does itself, in bytes.
	inlineMax = 64 << 10

	// minCost is what a request without payload takes of the window, in bytes.
	minCost = 512
)

// Errors of a Device's methods.
var (
	ErrClosed      = errors.New("device is closed")
	ErrUnknownPeer = errors.New("no such peer")
	ErrEpochPassed = errors.New("a newer epoch has begun")
	ErrNotQuiet    = errors.New("operations had not ended: the replica was not stopped cleanly")
)

// Config says what a Device is made of. It does not change.
type Config struct {
	Resource   string
	ResourceID uint64
	Cluster    string
	Node       string
	Boot       string // kernel boot id
	Process    uint64 // random, fresh for each start of the daemon
	Peers      []Peer // in the order of the core's Peer numbers; at most MaxPeers

	DataPath string // backing file or block device
	MetaPath string // metadata file
	Direct   bool   // bypass the page cache

	Window      int64            // bytes of requests in flight; 0: DefaultWindow
	Workers     int              // goroutines for local I/O; 0: DefaultWorkers
	Compression wire.Compression // of payloads to the peers; 0: none

	// Timing goes to the core as it is, with the core's defaults; see replication.Config.
	Timing Timing
}

// Timing holds the durations and percentages of replication.Config. 0 is the core's default.
type Timing struct {
	BeaconInterval time.Duration
	Lease          time.Duration
	MaxLease       time.Duration
	PeerTimeout    time.Duration
	DiskTimeout    time.Duration
	StallTimeout   time.Duration
	DropGrace      time.Duration
	StopTimeout    time.Duration
	DriftPercent   int
	LatencyPercent int
}

// Peer is another node that holds a replica.
type Peer struct {
	Node string
	Addr string // where the Dialer reaches it, for logs and the Dialer alone
}

// Proposer asks the ledger for what the core wants. internal/node implements it.
type Proposer interface {
	// Propose returns what became of p and the newest record known, nil if there is none. It
	// may take long and ends when ctx does, with OutcomeUnknown unless it knows better. It is
	// called from a goroutine of its own, several at a time.
	Propose(ctx context.Context, p replication.Proposal) (replication.Outcome, *replication.Record)
}

// Deps is what a Device needs from its surroundings. Fields marked optional may be nil.
type Deps struct {
	Proposer Proposer

	// Dial connects to the replication service of a peer, which the transport has proven to be
	// at the other end. It honours ctx. Called only for peers whose name sorts after our own.
	Dial func(ctx context.Context, p Peer) (net.Conn, error)

	// OnNotice hears every transition, in order, from one goroutine. Optional.
	OnNotice func(replication.Notice)

	// OnCloseClients ends every client connection of the resource without answering what is
	// unfinished (nbd.Server.CloseExport). It is called from the same goroutine as OnNotice; it
	// must not wait for a Submit to return. Optional only where there are no clients.
	OnCloseClients func()

	// OnCloseClient ends the connections of one client's sessions up to a number, in the same way.
	// What they still bring is dropped in any case. Optional: nil leaves them to their clients.
	OnCloseClient func(client replication.ClientID, upTo uint64)

	// Clock is CLOCK_BOOTTIME. Optional: nil is BootTime.
	Clock func() time.Duration

	// NewID is the source of session ids and hash keys: unpredictable. Optional: nil reads the
	// kernel's.
	NewID func() uint64

	Log *slog.Logger // optional
}

// core is what the shell needs of *replication.Resource. All methods are called under Device.mu.
type core interface {
	NewID() replication.ID
	Step(ev *replication.Event, out []replication.Action) []replication.Action
	EndBatch(out []replication.Action) []replication.Action
	Status(now time.Duration) replication.Status
	Fitness(now time.Duration) replication.Fitness
	Hello(p replication.Peer) wire.Hello
	CheckHello(p replication.Peer, h *wire.Hello) error
	MayGoAlone(p replication.Peer) error
	Serving() bool
	LeaseHeldAt(now time.Duration) bool
	TakesClients() bool
	Quiet() bool
	NextTick() time.Duration
	Final() (replication.Meta, []replication.Page)
}

// session is what the shell needs of *peer.Session.
type session interface {
	ID() uint64
	Send(f *wire.Frame, payload *buf.Buf)
	Flush()
	Close(err error)
}

// Validate lists all faults of c.
func (c *Config) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Resource == "", "resource has no name")
	bad(c.ResourceID == 0, "resource has no id")
	bad(c.Node == "", "node has no name")
	bad(c.Cluster == "", "cluster has no name")
	bad(c.Boot == "", "boot id is empty")
	bad(c.Process == 0, "process id is zero")
	bad(c.DataPath == "", "data path is empty")
	bad(c.MetaPath == "", "metadata path is empty")
	bad(c.Window < 0, "window of %d bytes", c.Window)
	bad(c.Workers < 0, "%d workers", c.Workers)
	bad(len(c.Peers) > MaxPeers, "%d peers, at most %d", len(c.Peers), MaxPeers)
	seen := map[string]bool{c.Node: true}
	for _, p := range c.Peers {
		bad(p.Node == "", "peer has no name")
		bad(seen[p.Node], "node %q is named twice", p.Node)
		seen[p.Node] = true
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("resource %s: %w", c.Resource, err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Workers == 0 {
		c.Workers = DefaultWorkers
	}
	return c
}
