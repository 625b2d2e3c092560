package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

const testSize = 64 << 10 // bytes of the usual resource

// cluster is a resource that any of several nodes can be primary of. It carries out requests as they
// come, keeps sessions apart as rule 15 has it, and notes what each session brought.
type cluster struct {
	tb    testing.TB
	nodes []*node

	mu       sync.Mutex
	primary  int // index in nodes; -1: nobody
	data     []byte
	size     int64
	keys     map[nbd.Key]uint64 // registrations
	lastKey  uint64
	session  uint64     // the newest that is open
	newest   *share     // of that session
	brought  [][]uint64 // by session in order of opening: the first 8 bytes of each write
	looked   int        // times that somebody only asked
	answer   func(*nbd.Request) error
	mute     bool // requests are taken and not answered
	discard  bool // writes are noted nowhere
	heldBy   string
	detached int
}

func newCluster(tb testing.TB, nodes int) *cluster {
	c := &cluster{tb: tb, data: make([]byte, 4*testSize), size: testSize, keys: map[nbd.Key]uint64{}}
	for i := range nodes {
		c.nodes = append(c.nodes, newNode(c, i))
	}
	return c
}

// node is one server. Each of its connections may be given a budget of bytes, after which it dies.
type node struct {
	c     *cluster
	i     int
	srv   *nbd.Server
	where Server
	// budget returns how many bytes the next connection may read and write; negative: any number.
	budget atomic.Pointer[func() (in, out int)]
}

func newNode(c *cluster, i int) *node {
	n := &node{c: c, i: i, where: Server{"unix", filepath.Join(c.tb.TempDir(), "s")}}
	l, err := net.Listen("unix", n.where.Addr)
	if err != nil {
		c.tb.Fatal(err)
	}
	n.srv = nbd.NewServer(nbd.Config{Logger: quiet}, n)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.srv.Serve(ctx, &dyingListener{l, n}); err != nil {
			c.tb.Error(err)
		}
	})
	c.tb.Cleanup(func() { cancel(); n.srv.CloseExport("r0", "test ends"); wg.Wait() })
	return n
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func (n *node) List() []nbd.ExportInfo { return nil }
func (n *node) Lookup(context.Context, string) (*nbd.Export, error) {
	return nil, errors.New("only attached clients here")
}

func (n *node) refuse() error {
	if n.c.primary == n.i {
		return nil
	}
	text := fmt.Sprintf("n%d is secondary of r0", n.i)
	if p := n.c.primary; p >= 0 {
		text += "; its primary is there: connect to nbd+unix:///r0?socket=" + n.c.nodes[p].where.Addr
	}
	return &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: text}
}

func (n *node) Attach(_ context.Context, a nbd.Attach) (nbd.Attached, error) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.Resource != "r0" {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedUnknown, Reason: "there is no resource " + a.Resource}
	}
	if err := n.refuse(); err != nil {
		return nil, err
	}
	number, known := c.keys[a.Key]
	switch {
	case known:
	case a.Resume:
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedSuperseded, Reason: "the attachment has ended"}
	case c.heldBy != "":
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: "r0 is attached by " + c.heldBy}
	default:
		c.lastKey++
		number = c.lastKey
		c.keys[a.Key] = number
	}
	return &share{n: n, number: number, session: a.Session}, nil
}

func (n *node) Detach(_ context.Context, _ string, key nbd.Key) error {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := n.refuse(); err != nil {
		return err
	}
	delete(c.keys, key)
	c.detached++
	return nil
}

// share is one connection's part.
type share struct {
	n       *node
	number  uint64
	session uint64
	index   int // in cluster.brought
	closed  bool
}

func (s *share) Number() uint64 { return s.number }

func (s *share) Lookup(context.Context) (*nbd.Export, error) {
	s.n.c.mu.Lock()
	defer s.n.c.mu.Unlock()
	s.n.c.looked++
	return s.export(), s.n.refuse()
}

func (s *share) Open(context.Context) (*nbd.Export, error) {
	c := s.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.n.refuse(); err != nil {
		return nil, err
	}
	if s.session <= c.session {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: fmt.Sprintf("session %d is not above %d", s.session, c.session)}
	}
	if c.newest != nil {
		c.newest.closed = true
	}
	c.session, c.newest = s.session, s
	s.index = len(c.brought)
	c.brought = append(c.brought, nil)
	return s.export(), nil
}

func (s *share) export() *nbd.Export {
	return &nbd.Export{Name: "r0", Description: fmt.Sprintf("r0 on n%d", s.n.i), Size: s.n.c.size, Features: nbd.FeaturesUsual, Backend: s, BlockSize: nbd.BlockSize{Min: 1}}
}

// Submit carries requests out; everything of a closed session is dropped.
func (s *share) Submit(batch []*nbd.Request) {
	c := s.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range batch {
		if s.closed || c.primary != s.n.i {
			r.Reply(nbd.ErrDrop)
			continue
		}
		if r.Op == nbd.OpWrite && !c.discard {
			c.brought[s.index] = append(c.brought[s.index], be64(r.Buf.B))
		}
		if c.mute {
			c.tb.Cleanup(func() { r.Reply(nbd.ErrDrop) })
			continue
		}
		if c.answer != nil {
			if err := c.answer(r); err != nil {
				r.Reply(err)
				continue
			}
		}
		switch r.Op {
		case nbd.OpRead:
			copy(r.Buf.B, c.data[r.Off:])
		case nbd.OpWrite:
			copy(c.data[r.Off:], r.Buf.B)
		case nbd.OpTrim, nbd.OpWriteZeroes:
			clear(c.data[r.Off : r.Off+r.Len])
		}
		r.Reply(nil)
	}
}

func be64(b []byte) (v uint64) {
	for i := range min(8, len(b)) {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// set changes the cluster under its lock.
func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// moveTo makes another node the primary, and closes the connections of the former one.
func (c *cluster) moveTo(i int) {
	c.set(func() { c.primary = i })
	for j, n := range c.nodes {
		if j != i {
			n.srv.CloseExport("r0", "the role has moved")
		}
	}
}

// dyingListener accepts connections that die when their budget is spent.
type dyingListener struct {
	net.Listener
	n *node
}

func (l *dyingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	f := l.n.budget.Load()
	if f == nil {
		return nc, nil
	}
	in, out := (*f)()
	return &dyingConn{Conn: nc, in: in, out: out}, nil
}

type dyingConn struct {
	net.Conn
	mu      sync.Mutex
	in, out int // bytes left; negative: any number
}

var errDied = errors.New("the server died here")

func (c *dyingConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	left := c.in
	c.mu.Unlock()
	if left == 0 {
		c.Conn.Close()
		return 0, errDied
	}
	if left > 0 && len(b) > left {
		b = b[:left]
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in >= 0 {
		c.in = max(0, c.in-n)
	}
	return n, err
}

func (c *dyingConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out < 0 || len(b) <= c.out {
		n, err := c.Conn.Write(b)
		if c.out >= 0 {
			c.out -= n
		}
		return n, err
	}
	n, _ := c.Conn.Write(b[:c.out])
	c.out = 0
	c.Conn.Close()
	return n, errDied
}

// testConfig is a relay's configuration for c.
func testConfig(c *cluster) Config {
	cfg := Config{
		Who:       nbd.Attach{Resource: "r0", Key: nbd.Key{1}, Holder: "h1", Device: "/dev/nbd0", Boot: "b1"},
		Stall:     time.Hour,
		LookEvery: time.Hour,
		Logger:    quiet,
	}
	for _, n := range c.nodes {
		cfg.Servers = append(cfg.Servers, n.where)
	}
	return cfg
}

// running is a relay at work, with local connections as the kernel would have them.
type running struct {
	*Relay
	tb   testing.TB
	stop context.CancelFunc
	done chan error // Run's result
}

// open opens a relay and runs it until the test ends.
func open(tb testing.TB, cfg Config) *running {
	tb.Helper()
	r := NewRelay(cfg)
	if _, err := r.Open(tb.Context(), false); err != nil {
		tb.Fatal(err)
	}
	return run(tb, r)
}

func run(tb testing.TB, r *Relay) *running {
	ctx, cancel := context.WithCancel(context.Background())
	x := &running{Relay: r, tb: tb, stop: cancel, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() { defer close(ended); x.done <- r.Run(ctx) }()
	tb.Cleanup(func() { cancel(); <-ended })
	return x
}

// dial returns a local connection to the relay.
func (x *running) dial() *nbdtest.Client {
	x.tb.Helper()
	ours, theirs := socketPair(x.tb)
	exp := &nbd.Export{Name: "r0", Size: 1 << 40, Features: nbd.FeaturesUsual, Backend: x.Relay}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = nbd.ServeTransmission(ctx, ours, exp, nbd.Config{Logger: quiet}, x.ConnEnded)
	}()
	x.tb.Cleanup(func() { x.stop(); cancel(); <-done })
	return nbdtest.Over(x.tb, theirs)
}

func socketPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	a, f, err := pair()
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	b, err := net.FileConn(f)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// await waits until f holds.
func await(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("not within 30 s: %s", what)
		}
	}
}

// fill returns n bytes that begin with v.
func fill(v uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(v >> (8 * (7 - i%8)))
	}
	return b
}

const eio = uint32(syscall.EIO)
