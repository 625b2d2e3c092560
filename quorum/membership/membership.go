package membership

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Errors.
var (
	ErrConfig = errors.New("membership is not set up correctly")
	ErrMeta   = errors.New("not the metadata of a node")
	ErrClosed = errors.New("membership is closed")
)

// Preset names a set of timings.
type Preset string

// Presets. A period probes one node, each in its turn.
const (
	LAN      Preset = "lan"      // a period of 100 ms, an answer within 80 ms
	WAN      Preset = "wan"      // a period of 1 s, an answer within 700 ms
	Loopback Preset = "loopback" // as LAN, with shorter stream timeouts
)

// Meta is what a node says about itself. Encoded it has at most memberlist.MetaMaxSize (512)
// bytes.
type Meta struct {
	Addr    string `json:"addr"`             // host:port of its transport
	Client  string `json:"client,omitempty"` // host:port where it serves clients; "" if nowhere
	Boot    string `json:"boot"`             // kernel boot id
	Process uint64 `json:"process"`          // fresh at each start of the daemon
	Version string `json:"version"`          // of the program
	Witness bool   `json:"witness,omitempty"`
}

// Config is what a Membership needs.
type Config struct {
	Cluster   string         // label of every packet
	Node      string         // name of this node, unique in the cluster
	Bind      netip.AddrPort // UDP and TCP; port 0 picks one
	Advertise netip.AddrPort // what others are told; zero: Bind
	Key       []byte         // 32 bytes, the cluster's shared secret; the gossip key is derived from it
	Join      []string       // host:port of the gossip of other nodes; tried again and again
	Preset    Preset         // "": LAN
	Meta      Meta
	Logger    *slog.Logger // nil: slog.Default()

	RetryEvery time.Duration // between attempts to join; 0: 1 s

	// Transport carries packets and streams; it is shut down with the Membership. nil: UDP and TCP
	// sockets on Bind.
	Transport memberlist.Transport
}

// Validate lists everything that is wrong with c; the error wraps ErrConfig.
func (c Config) Validate() error {
	var all []error
	if c.Cluster == "" || len(c.Cluster) > 64 || c.Node == "" || len(c.Node) > 64 {
		all = append(all, fmt.Errorf("cluster %.80q or node %.80q is empty or longer than 64 bytes", c.Cluster, c.Node))
	}
	if !c.Bind.IsValid() {
		all = append(all, fmt.Errorf("no address to bind"))
	}
	if len(c.Key) != 32 {
		all = append(all, fmt.Errorf("the key has %d bytes, want 32", len(c.Key)))
	}
	if c.Preset != "" && c.Preset != LAN && c.Preset != WAN && c.Preset != Loopback {
		all = append(all, fmt.Errorf("unknown preset %q", c.Preset))
	}
	if b, err := json.Marshal(c.Meta); err != nil || len(b) > memberlist.MetaMaxSize {
		all = append(all, fmt.Errorf("metadata of %d bytes is longer than %d", len(b), memberlist.MetaMaxSize))
	}
	for _, a := range c.Join {
		if _, _, err := net.SplitHostPort(a); err != nil {
			all = append(all, fmt.Errorf("address to join: %w", err))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(all...))
}

// Hint says that a node seems to have come, gone, or changed.
type Hint struct {
	Node  string
	Alive bool
	Meta  Meta      // as last heard; zero if the node never said anything readable
	At    time.Time // when this node learned it, on its own clock
}

// Membership is one node's part in the gossip. All methods may be called from any goroutine.
type Membership struct {
	cfg   Config
	log   *slog.Logger
	list  *memberlist.Memberlist
	ring  *memberlist.Keyring
	hints chan Hint
	wake  chan struct{} // capacity 1: pending is not empty

	mu      sync.Mutex
	pending []Hint // at most one per node, oldest first
	ran     bool
}

// New joins nobody yet, but opens the sockets, so that Addr is known and others may join it.
// Run must be called, or Close. Errors: ErrConfig, or that of the network.
func New(cfg Config) (*Membership, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.RetryEvery == 0 {
		cfg.RetryEvery = time.Second
	}
	m := &Membership{cfg: cfg, log: cfg.Logger.With("node", cfg.Node), hints: make(chan Hint), wake: make(chan struct{}, 1)}
	mc, err := m.config()
	if err != nil {
		return nil, err
	}
	if m.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("start gossip on %s: %w", cfg.Bind, err)
	}
	return m, nil
}

func (m *Membership) config() (*memberlist.Config, error) {
	key, err := m.derive(m.cfg.Key)
	if err != nil {
		return nil, err
	}
	if m.ring, err = memberlist.NewKeyring(nil, key); err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	c := preset(m.cfg.Preset)
	c.Name = m.cfg.Node
	c.BindAddr, c.BindPort = m.cfg.Bind.Addr().String(), int(m.cfg.Bind.Port())
	if m.cfg.Advertise.IsValid() {
		c.AdvertiseAddr, c.AdvertisePort = m.cfg.Advertise.Addr().String(), int(m.cfg.Advertise.Port())
	} else {
		c.AdvertisePort = c.BindPort
	}
	c.Keyring = m.ring
	c.Label = m.cfg.Cluster
	c.Logger = log.New(slogWriter{m.log}, "", 0)
	c.Delegate = delegate{m}
	c.Events = events{m}
	c.Conflict = events{m}
	c.DNSConfigPath = "" // names are resolved by the system
	c.Transport = m.cfg.Transport
	return c, nil
}

// derive makes a gossip key of a secret. It is a key of its own: the shared secret may also be the key of
// another protocol.
func (m *Membership) derive(secret []byte) ([]byte, error) {
	if len(secret) != 32 {
		return nil, fmt.Errorf("%w: the key has %d bytes, want 32", ErrConfig, len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "lockstep/1 gossip "+m.cfg.Cluster, 32)
	if err != nil {
		return nil, fmt.Errorf("derive gossip key: %w", err)
	}
	return key, nil
}

// SetKeys changes the secrets: packets are sent with the first, and believed with any of them. To change the
// secret of a cluster without losing anybody on the way, every node is given the new one as its second, then
// as its first, then alone.
func (m *Membership) SetKeys(secrets ...[]byte) error {
	var keys [][]byte
	for _, s := range secrets {
		k, err := m.derive(s)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: no key", ErrConfig)
	}
	for _, k := range keys {
		if err := m.ring.AddKey(k); err != nil {
			return err
		}
	}
	if err := m.ring.UseKey(keys[0]); err != nil {
		return err
	}
	for _, k := range m.ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(want []byte) bool { return bytes.Equal(want, k) }) {
			if err := m.ring.RemoveKey(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func preset(p Preset) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 300*time.Millisecond
	c.GossipInterval = 500 * time.Millisecond // probes carry news, too
	c.EnableCompression = false               // of packets of some ten bytes; each would take a table of 64 KiB
	c.SuspicionMult = 1                       // 500 ms to 1 s
	c.SuspicionMaxTimeoutMult = 2
	c.IndirectChecks = 2
	c.PushPullInterval = 15 * time.Second
	c.TCPTimeout = 3 * time.Second
	c.DeadNodeReclaimTime = time.Second // a node may come back with another address
	c.GossipToTheDeadTime = 15 * time.Second
	switch p {
	case WAN:
		c.ProbeInterval, c.ProbeTimeout = time.Second, 700*time.Millisecond
		c.GossipInterval = time.Second
		c.TCPTimeout = 10 * time.Second
		c.SuspicionMult = 4
	case Loopback:
		c.TCPTimeout = time.Second
	}
	return c
}

// Addr returns the address that this node's gossip is reached at.
func (m *Membership) Addr() netip.AddrPort {
	n := m.list.LocalNode()
	a, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(a.Unmap(), n.Port)
}

// Hints returns the channel of hints; see the package comment for its bound. It is the same at
// each call, one receiver gets each hint, and it is never closed.
func (m *Membership) Hints() <-chan Hint { return m.hints }

// Run gossips until ctx ends, then tells the others that this node leaves, and closes. It may be
// called once.
func (m *Membership) Run(ctx context.Context) error {
	if !m.begin() {
		return ErrClosed
	}
	var wg sync.WaitGroup
	wg.Go(func() { m.join(ctx) })
	wg.Go(func() { m.forward(ctx) })
	<-ctx.Done()
	wg.Wait()
	// A node that says goodbye need not be suspected first. Half a second is enough to say it.
	if err := m.list.Leave(500 * time.Millisecond); err != nil {
		m.log.Debug("gossip: leaving was not confirmed", "error", err)
	}
	if err := m.list.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// Close closes a Membership that is not to be run.
func (m *Membership) Close() error {
	if !m.begin() {
		return nil // Run closes it
	}
	return m.list.Shutdown()
}

func (m *Membership) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ran {
		return false
	}
	m.ran = true
	return true
}

// join keeps trying the listed addresses while fewer nodes are seen than are listed.
func (m *Membership) join(ctx context.Context) {
	pause := m.cfg.RetryEvery
	for {
		if m.list.NumMembers() <= len(m.others()) {
			n, err := m.list.Join(m.others())
			if err != nil {
				m.log.Debug("gossip: not all nodes answered", "joined", n, "error", err)
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// others is the list to join, without this node's own address.
func (m *Membership) others() []string {
	self := m.Addr().String()
	return slices.DeleteFunc(slices.Clone(m.cfg.Join), func(a string) bool { return a == self })
}

// hint queues h in place of an older hint about the same node.
func (m *Membership) hint(h Hint) {
	m.mu.Lock()
	m.pending = slices.DeleteFunc(m.pending, func(p Hint) bool { return p.Node == h.Node })
	m.pending = append(m.pending, h)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take removes the oldest hint.
func (m *Membership) take() (Hint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) == 0 {
		return Hint{}, false
	}
	h := m.pending[0]
	m.pending = slices.Delete(m.pending, 0, 1)
	return h, true
}

// forward hands hints to whoever receives. What waits in its hand is exchanged when a newer hint
// about the same node comes.
func (m *Membership) forward(ctx context.Context) {
	for {
		h, ok := m.take()
		if !ok {
			select {
			case <-m.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case m.hints <- h:
		case <-ctx.Done():
			return
		case <-m.wake:
			m.putBack(h)
		}
	}
}

// putBack returns h to the head of the queue, unless there is a newer hint about its node.
func (m *Membership) putBack(h Hint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.pending, func(p Hint) bool { return p.Node == h.Node }) {
		m.pending = slices.Insert(m.pending, 0, h)
	}
}

// decodeMeta reads what a node says about itself. Fields of a newer version are ignored: these
// are hints, and an older node should still see a newer one.
func decodeMeta(b []byte) (Meta, error) {
	var meta Meta
	if len(b) > memberlist.MetaMaxSize {
		return Meta{}, fmt.Errorf("%w: %d bytes", ErrMeta, len(b))
	}
	if err := json.Unmarshal(b, &meta); err != nil {
		return Meta{}, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	return meta, nil
}

// delegate gives memberlist this node's metadata, and uses none of its message channels.
type delegate struct{ m *Membership }

func (d delegate) NodeMeta(limit int) []byte {
	b, err := json.Marshal(d.m.cfg.Meta)
	if err != nil || len(b) > limit {
		return nil // Validate has refused that
	}
	return b
}
func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

// events turns memberlist's callbacks into hints. They run under memberlist's locks, so they
// only queue.
type events struct{ m *Membership }

func (e events) note(n *memberlist.Node, alive bool) {
	if n.Name == e.m.cfg.Node {
		return
	}
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		e.m.log.Warn("gossip: a node's metadata cannot be read", "peer", n.Name, "error", err)
	}
	e.m.hint(Hint{Node: n.Name, Alive: alive, Meta: meta, At: time.Now()})
}

func (e events) NotifyJoin(n *memberlist.Node)   { e.note(n, true) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.note(n, true) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.note(n, false) }

func (e events) NotifyConflict(existing, other *memberlist.Node) {
	e.m.log.Error("two nodes have one name; give each its own and restart it", "peer", existing.Name,
		"address", existing.Address(), "other_address", other.Address())
}

// slogWriter turns memberlist's log lines into slog records.
type slogWriter struct{ log *slog.Logger }

var _ io.Writer = slogWriter{}

func (w slogWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	for mark, l := range map[string]slog.Level{"[WARN] ": slog.LevelInfo, "[ERR] ": slog.LevelWarn, "[ERROR] ": slog.LevelWarn} {
		if strings.HasPrefix(text, mark) {
			level = l
		}
	}
	if _, rest, ok := strings.Cut(text, "] "); ok {
		text = rest
	}
	w.log.Log(context.Background(), level, "gossip", "text", strings.TrimPrefix(text, "memberlist: "))
	return len(line), nil
}
