package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// Service is the name under which the ledger listens on the transport.
const Service = "ledger"

// Errors of opening and running a Ledger.
var (
	ErrConfig   = errors.New("the ledger is not set up correctly")
	ErrLocked   = errors.New("the ledger file is in use by another process")
	ErrForeign  = voter.ErrForeign
	ErrCorrupt  = voter.ErrCorrupt
	ErrClosed   = voter.ErrClosed
	ErrTooLarge = voter.ErrTooLarge
)

// Errors of a proposal or a read.
var (
	// ErrNotProposed: the command is in no log and cannot get into one any more.
	ErrNotProposed = voter.ErrNotProposed
	// ErrOutcomeUnknown: the command may have been applied, or may yet be. Who must know waits,
	// or has a NoOp applied, after which it cannot apply any more.
	ErrOutcomeUnknown = voter.ErrOutcomeUnknown
	// ErrNoQuorum: no majority of the voters confirmed that the state is fresh.
	ErrNoQuorum = errors.New("no quorum")
)

// Errors of opening an incarnation, and of deciding between two.
var (
	ErrNotVoter   = voter.ErrNotVoter
	ErrAlone      = voter.ErrAlone
	ErrStopped    = voter.ErrStopped
	ErrNoConflict = voter.ErrNoConflict
)

// MaxProposal is the largest proposal, in bytes: the encoded command and its id.
const MaxProposal = voter.MaxProposal

// Member is one node of the static list in the node file.
type Member struct {
	Name    string
	Addr    string // host:port of its transport
	Witness bool   // votes and holds no data
}

// Transport is what the ledger needs of internal/transport. Connections are authenticated.
type Transport interface {
	Dial(ctx context.Context, addr, node, service string) (net.Conn, error)
	Handle(service string, h func(ctx context.Context, conn net.Conn, peerNode string))
}

// Config is what a Ledger needs. Zero numbers mean the defaults.
type Config struct {
	Dir       string // existing directory; the ledger is ledger.db in it
	Cluster   string // see quorum.ValidName
	Node      string // name of this node; it is in Members
	Members   []Member
	Transport Transport
	Logger    *slog.Logger // nil: slog.Default()

	TickInterval    time.Duration // raft's clock; 0: 50 ms
	ElectionTicks   int           // without a leader's message before an election; 0: 10
	HeartbeatTicks  int           // between a leader's heartbeats, and half of those between pings; 0: 2
	SnapshotEntries int           // log entries between snapshots; 0: 1000
	KeepEntries     int           // log entries kept behind a snapshot; 0: a fifth of SnapshotEntries
	// OnNote takes what another node sent with Note, OnLost hears that a connection with a node ended.
	// They are called from several goroutines and must not block. nil: nobody cares.
	OnNote func(from string, body []byte)
	OnLost func(node string)

	ProposeTimeout time.Duration // of a Propose or Barrier whose context has no deadline; 0: 5 s
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.OnNote == nil {
		c.OnNote = func(string, []byte) {}
	}
	if c.OnLost == nil {
		c.OnLost = func(string) {}
	}
	if c.TickInterval == 0 {
		c.TickInterval = 50 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 2
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 1000
	}
	if c.KeepEntries == 0 {
		c.KeepEntries = c.SnapshotEntries / 5
	}
	if c.ProposeTimeout == 0 {
		c.ProposeTimeout = 5 * time.Second
	}
}

// Validate lists everything that is wrong with c; the error wraps ErrConfig.
func (c Config) Validate() error {
	c.setDefaults()
	var all []error
	addf := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
	if c.Dir == "" {
		addf("no directory")
	}
	if c.Transport == nil {
		addf("no transport")
	}
	if !quorum.ValidName(c.Cluster) {
		addf("%.80q is no valid cluster name", c.Cluster)
	}
	seen := map[string]bool{}
	data := 0
	for _, m := range c.Members {
		if !quorum.ValidName(m.Name) || m.Addr == "" {
			addf("member %.80q has no valid name or no address", m.Name)
		}
		if seen[m.Name] {
			addf("member %q is listed twice", m.Name)
		}
		seen[m.Name] = true
		if !m.Witness {
			data++
		}
	}
	if !seen[c.Node] {
		addf("this node, %.80q, is not in the list of members", c.Node)
	}
	if data == 0 || len(c.Members) > quorum.MaxNodes {
		addf("%d members, %d of them with data; want 1 to %d, at least one with data", len(c.Members), data, quorum.MaxNodes)
	}
	if c.TickInterval < 0 || c.HeartbeatTicks < 1 || c.ElectionTicks <= 2*c.HeartbeatTicks {
		addf("ticks of %v, heartbeat %d, election %d: an election takes more than two heartbeats",
			c.TickInterval, c.HeartbeatTicks, c.ElectionTicks)
	}
	if c.SnapshotEntries < 1 || c.KeepEntries < 0 || c.ProposeTimeout < 0 {
		addf("negative number of entries or timeout")
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(all...))
}

// voterConfig is what the pure part needs of c.
func (c *Config) voterConfig() voter.Config {
	vc := voter.Config{Cluster: c.Cluster, Node: c.Node, ElectionTicks: c.ElectionTicks, HeartbeatTicks: c.HeartbeatTicks,
		SnapshotEntries: c.SnapshotEntries, KeepEntries: c.KeepEntries}
	for _, m := range c.Members {
		vc.Members = append(vc.Members, voter.Member{Name: m.Name, Witness: m.Witness})
	}
	return vc
}
