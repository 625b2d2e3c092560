package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/pki"
)

// Why a handshake ended. Those marked "claimed" rest on the unauthenticated word of the other
// end.
var (
	ErrKey      = errors.New("the other end does not hold this cluster's key")
	ErrCluster  = errors.New("the other end belongs to another cluster")      // claimed
	ErrVersion  = errors.New("the other end speaks another protocol version") // claimed
	ErrNode     = errors.New("another node answers at that address")          // claimed
	ErrService  = errors.New("the other end has no such service")             // claimed
	ErrProtocol = errors.New("the other end does not speak this protocol")    // garbage
	ErrConfig   = errors.New("the transport is not set up correctly")         // local
	// ErrCertificate wraps what package pki says, where it was this end that refused.
	ErrCertificate = errors.New("the certificate of the other end, or ours there, is not accepted")
	ErrProtection  = errors.New("one end wants this service encrypted and the other does not: compare replication_tls") // claimed
	ErrClosed      = errors.New("the connection ended before the handshake was complete")                               // also a wrong key on our side
)

// Config is what a Transport needs. Zero durations and numbers mean the defaults.
type Config struct {
	Cluster string // 1 to 64 printable ASCII bytes, no space
	Node    string // name of this node, likewise
	Key     []byte // 32 bytes, shared by all nodes of the cluster; kept, not copied to any log. Unused with Identity

	// Identity, if set, has every connection begin with TLS, and both ends show certificates.
	Identity *pki.Identity
	// Clear names the services whose connections go on unencrypted once both ends are known. It must
	// be the same on all nodes. Only with Identity.
	Clear []string
	// Join serves a node that has no certificate yet, and closes conn. It returns soon after ctx ends.
	// nil: such nodes are refused. Only with Identity.
	Join func(ctx context.Context, conn *tls.Conn)

	HandshakeTimeout time.Duration // for a whole handshake; 0: 5 s
	MaxHandshakes    int           // connections that have not proven themselves; 0: 64
	Logger           *slog.Logger  // nil: slog.Default()

	// Connect opens the connection on which Dial does its handshake. nil: TCP.
	Connect func(ctx context.Context, addr string) (net.Conn, error)
}

// Validate lists everything that is wrong with c; the error wraps ErrConfig.
func (c Config) Validate() error {
	var all []error
	if !fits(c.Cluster, maxName) {
		all = append(all, fmt.Errorf("cluster name %.80q is not 1 to %d printable bytes", c.Cluster, maxName))
	}
	if !fits(c.Node, maxName) {
		all = append(all, fmt.Errorf("node name %.80q is not 1 to %d printable bytes", c.Node, maxName))
	}
	if c.Identity == nil && (len(c.Clear) > 0 || c.Join != nil) {
		all = append(all, fmt.Errorf("clear services or joining without an identity"))
	}
	if c.Identity == nil && len(c.Key) != 32 {
		all = append(all, fmt.Errorf("the key has %d bytes, want 32", len(c.Key)))
	}
	if c.HandshakeTimeout < 0 || c.MaxHandshakes < 0 {
		all = append(all, fmt.Errorf("negative handshake timeout or count"))
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrConfig, errors.Join(all...))
}

// Handler serves one authenticated connection. It owns conn, a *Secure or *net.TCPConn, and closes it. It
// returns soon after ctx ends; Serve waits for it.
type Handler func(ctx context.Context, conn net.Conn, peerNode string)

// Transport accepts and makes authenticated connections. All methods may be called from any
// goroutine.
type Transport struct {
	cfg Config
	log *slog.Logger

	mu        sync.Mutex
	services  map[string]Handler
	listeners map[string]*listener
	half      []net.Conn // accepted and not yet proven, oldest first; at most MaxHandshakes
	refused   refusals
	secured   map[*Secure]bool // not closed yet
}

// New returns a Transport. Error: ErrConfig.
func New(cfg Config) (*Transport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 5 * time.Second
	}
	if cfg.MaxHandshakes == 0 {
		cfg.MaxHandshakes = 64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Connect == nil {
		cfg.Connect = connectTCP
	}
	return &Transport{cfg: cfg, log: cfg.Logger, services: map[string]Handler{}, listeners: map[string]*listener{},
		secured: map[*Secure]bool{}}, nil
}

func connectTCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Handle names the handler of a service. A connection for a service without one is refused with
// ErrService. It panics if the service is taken, or its name is not 1 to 16 printable bytes:
// both are mistakes of the program.
func (t *Transport) Handle(service string, h func(ctx context.Context, conn net.Conn, peerNode string)) {
	if !fits(service, maxService) || h == nil {
		panic(fmt.Sprintf("transport: handler of service %q", service))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.services[service] != nil {
		panic(fmt.Sprintf("transport: service %q is taken", service))
	}
	t.services[service] = h
}

func (t *Transport) handler(service string) Handler {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.services[service]
}

// Listener returns a net.Listener that yields the authenticated connections of a service, for
// http.Server and the like. Each call for the same service returns the same listener. Accept
// returns net.ErrClosed after Close, or after Serve has ended. Its connections have the name of
// the peer in RemoteAddr as a PeerAddr.
func (t *Transport) Listener(service string) net.Listener {
	t.mu.Lock()
	if l := t.listeners[service]; l != nil {
		t.mu.Unlock()
		return l
	}
	l := &listener{service: service, node: t.cfg.Node, conns: make(chan net.Conn), done: make(chan struct{})}
	t.listeners[service] = l
	t.mu.Unlock()
	t.Handle(service, l.offer)
	return l
}

// Serve accepts connections on ln until ctx ends or ln fails. It closes ln, and returns when
// every handler has returned; the error is nil if ctx ended.
func (t *Transport) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		t.closeHalf()
	})
	err := t.accept(ctx, ln, &wg)
	cancel()
	stop()
	ln.Close()
	t.closeHalf()
	wg.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.listeners {
		l.Close()
	}
	return err
}

func (t *Transport) accept(ctx context.Context, ln net.Listener, wg *sync.WaitGroup) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
			}
			// Out of descriptors: the oldest half-open connection is the one to give up.
			t.refusal(ln.Addr().String(), "", err)
			t.dropOldest()
			if !pause(ctx, 10*time.Millisecond) {
				return nil
			}
			continue
		}
		t.enter(conn)
		wg.Go(func() { t.serveConn(ctx, conn) })
	}
}

// pause waits for d, which keeps an error that persists from spinning; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func temporary(err error) bool {
	var ne net.Error
	//lint:ignore SA1019 this is what net/http asks, too: it tells EMFILE from a closed listener
	return errors.As(err, &ne) && ne.Temporary()
}

// enter counts conn among those that have not proven themselves, at the cost of the oldest one.
func (t *Transport) enter(conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.half) >= t.cfg.MaxHandshakes {
		t.half[0].Close()
		t.half = append(t.half[:0], t.half[1:]...)
	}
	t.half = append(t.half, conn)
}

func (t *Transport) leave(conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range t.half {
		if c == conn {
			t.half = append(t.half[:i], t.half[i+1:]...)
			return
		}
	}
}

func (t *Transport) dropOldest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.half) > 0 {
		t.half[0].Close() // its goroutine takes it off the list
	}
}

func (t *Transport) closeHalf() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.half {
		c.Close()
	}
}

func (t *Transport) serveConn(ctx context.Context, raw net.Conn) {
	conn, h, err := t.receive(ctx, raw)
	if err == nil && conn != nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		linger(raw)
	}
	t.leave(raw)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			t.refusal(raw.RemoteAddr().String(), h.dialer, err)
		}
	case conn != nil: // nil: it joined, and is closed
		t.handler(h.service)(ctx, conn, h.dialer)
	}
}

// How long, and for how much, a refused connection is read before it is closed.
const (
	lingerFor   = time.Second
	lingerBytes = 16 << 10
)

// linger closes a refused connection so that the dialer learns why. A socket that is closed with
// bytes unread is reset, and a reset overtakes the refusal: a dialer may have sent its hello already
// while its certificate was being refused. So this end stops writing first and reads what is still
// under way, a little of it and not for long, while the connection counts among the unproven ones.
func linger(raw net.Conn) {
	defer raw.Close()
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || raw.SetDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, raw, lingerBytes) // however it ends, the connection is closed
}

// receive makes an accepted connection into one whose other end has proven itself. The hello is
// never nil; the connection is nil when it was one of a node that joins, which is then served.
func (t *Transport) receive(ctx context.Context, raw net.Conn) (net.Conn, *hello, error) {
	if err := prepare(raw, time.Now().Add(t.cfg.HandshakeTimeout)); err != nil {
		return nil, &hello{}, err
	}
	if t.cfg.Identity == nil {
		h, err := t.welcome(raw, t.cfg.Key, "")
		return raw, h, err
	}
	s, err := t.secureFrom(ctx, raw)
	if err != nil {
		return nil, &hello{}, err
	}
	if pki.KindOf(s.ConnectionState()) == pki.KindJoin {
		if err := raw.SetDeadline(time.Now().Add(joinWithin)); err != nil {
			return nil, &hello{}, err
		}
		t.cfg.Join(ctx, s.Conn) // among the unproven ones while it lasts
		raw.Close()
		return nil, &hello{}, nil
	}
	h, err := t.welcome(s, s.key, s.peer.Name)
	if err != nil {
		return nil, h, err
	}
	return t.settle(s, h.clear), h, nil
}
