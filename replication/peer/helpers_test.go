package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// TestMain fails when a goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := lingering(); left != "" {
			os.Stderr.WriteString("goroutines left:\n" + left)
			code = 1
		}
	}
	os.Exit(code)
}

// lingering returns the stacks of goroutines that run code of this package, after giving those
// that are about to end the chance to.
func lingering() string {
	var left string
	for range 1000 {
		left = ""
		all := make([]byte, 1<<20)
		for _, g := range strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n") {
			if strings.Contains(g, "replication/peer.") && !strings.Contains(g, "TestMain") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
		runtime.Gosched()
	}
	return left
}

// event is one call that a fakeNode got.
type event struct {
	what   string // "up", "frame" or "down"
	s      *Session
	theirs wire.Hello
	frame  wire.Frame
	data   []byte
	err    error
}

// fakeNode is a Handler that records, and checks the contract of the calls.
type fakeNode struct {
	t      testing.TB
	name   string
	check  func(wire.Hello) error
	hello  wire.Hello
	frames func(*Session, []Received) // instead of recording
	events chan event                 // large enough for every test

	mu    sync.Mutex
	open  *Session
	ups   int
	downs int
}

func newNode(t testing.TB, name string) *fakeNode {
	return &fakeNode{t: t, name: name, hello: wire.Hello{Cluster: "c1", Size: 1 << 30}, events: make(chan event, 1<<12)}
}

func (n *fakeNode) Hello() wire.Hello {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open != nil {
		n.t.Errorf("%s: Hello while a session is up", n.name)
	}
	return n.hello
}

func (n *fakeNode) Check(theirs wire.Hello) error {
	if n.check != nil {
		return n.check(theirs)
	}
	return nil
}

func (n *fakeNode) Up(s *Session, theirs wire.Hello) {
	n.mu.Lock()
	if n.open != nil {
		n.t.Errorf("%s: two sessions up at once", n.name)
	}
	n.open = s
	n.ups++
	n.mu.Unlock()
	n.record(event{what: "up", s: s, theirs: theirs})
}

func (n *fakeNode) Frames(s *Session, batch []Received) {
	n.mu.Lock()
	if n.open != s {
		n.t.Errorf("%s: frames of a session that is not up", n.name)
	}
	n.mu.Unlock()
	if len(batch) == 0 || len(batch) > maxBatch {
		n.t.Errorf("%s: batch of %d", n.name, len(batch))
	}
	if n.frames != nil {
		n.frames(s, batch)
		return
	}
	for _, r := range batch {
		e := event{what: "frame", s: s, frame: r.Frame}
		if r.Payload != nil {
			e.data = bytes.Clone(r.Payload.B)
			r.Payload.Release()
		}
		n.record(e)
	}
}

func (n *fakeNode) Down(s *Session, err error) {
	n.mu.Lock()
	if n.open != s || err == nil {
		n.t.Errorf("%s: Down of a session that is not up, or without a reason (%v)", n.name, err)
	}
	n.open = nil
	n.downs++
	n.mu.Unlock()
	n.record(event{what: "down", s: s, err: err})
}

// record never blocks: a handler that waits for the test would keep the link from ending.
func (n *fakeNode) record(e event) {
	select {
	case n.events <- e:
	default:
		n.t.Errorf("%s: more events than the test can hold", n.name)
	}
}

// next waits for the next event, which must be what.
func (n *fakeNode) next(what string) event {
	n.t.Helper()
	select {
	case e := <-n.events:
		if e.what != what {
			n.t.Fatalf("%s: %s (%v, %s), want %s", n.name, e.what, e.err, &e.frame, what)
		}
		return e
	case <-n.t.Context().Done():
	case <-time.After(20 * time.Second): // only when the test has failed
	}
	n.t.Fatalf("%s: no %s came", n.name, what)
	return event{}
}

// balanced checks, after the link has ended, that each Up had its Down.
func (n *fakeNode) balanced() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ups != n.downs || n.open != nil {
		n.t.Errorf("%s: %d ups, %d downs", n.name, n.ups, n.downs)
	}
}

// eventually waits until ok holds of l's statistics, and returns them.
func eventually(t testing.TB, l *Link, what string, ok func(LinkStats) bool) LinkStats {
	t.Helper()
	giveUp := time.Now().Add(20 * time.Second) // only when the test has failed
	for st := l.Stats(); ; st = l.Stats() {
		if ok(st) {
			return st
		}
		if time.Now().After(giveUp) {
			t.Fatalf("%s: never %s: %+v", l.cfg.Self, what, st)
		}
		runtime.Gosched()
	}
}

// run runs l until the test ends, and checks its handler then.
func run(t testing.TB, l *Link) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if n, ok := l.cfg.Handler.(*fakeNode); ok {
			n.balanced()
		}
	})
	t.Cleanup(stop)
	return stop
}

// listen passes the connections to a new loopback port to serve, each in a goroutine, and
// returns the port's address. All have ended before the test does.
func listen(t testing.TB, serve func(context.Context, net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func dialTo(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// accepting runs node b's side, for connections of the node "a", and returns where to dial.
func accepting(t testing.TB, b *fakeNode, change func(*LinkConfig)) (*Link, string) {
	t.Helper()
	cfg := LinkConfig{Resource: "r0", Self: "b", Peer: "a", Handler: b}
	if change != nil {
		change(&cfg)
	}
	l := NewLink(cfg)
	acc := NewAcceptor(AcceptorConfig{Self: "b"})
	if err := acc.Add(l); err != nil {
		t.Fatal(err)
	}
	addr := listen(t, func(ctx context.Context, c net.Conn) { acc.Serve(ctx, c, "a") })
	run(t, l)
	return l, addr
}

// dialing runs node a's side.
func dialing(t testing.TB, a *fakeNode, addr string, change func(*LinkConfig)) *Link {
	t.Helper()
	cfg := LinkConfig{
		Resource: "r0", Self: "a", Peer: "b", Handler: a, Dial: dialTo(addr), Addr: addr,
		BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	l := NewLink(cfg)
	run(t, l)
	return l
}

// pair connects two nodes and returns them with the sessions they have.
func pair(t testing.TB, change func(*LinkConfig)) (a, b *fakeNode, sa, sb *Session) {
	t.Helper()
	a, b = newNode(t, "a"), newNode(t, "b")
	_, addr := accepting(t, b, change)
	dialing(t, a, addr, change)
	return a, b, a.next("up").s, b.next("up").s
}

// rawPeer is the node a, played by hand.
type rawPeer struct {
	t    testing.TB
	conn net.Conn
}

func rawDial(t testing.TB, addr string) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // only when the test has failed
	return &rawPeer{t, conn}
}

// rawUp dials and does the whole handshake.
func rawUp(t testing.TB, addr string) *rawPeer {
	t.Helper()
	p := rawDial(t, addr)
	p.write(helloBytes(t, wire.Hello{Cluster: "c1", Resource: "r0", Node: "a"}))
	if g := p.greeting(); g.Kind != wire.GreetHello {
		t.Fatalf("%s: %s", g.Kind, g.Reason)
	}
	p.write(wire.AppendAccept(nil))
	return p
}

func helloBytes(t testing.TB, h wire.Hello) []byte {
	t.Helper()
	b, err := wire.AppendHello(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *rawPeer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *rawPeer) greeting() wire.Greeting {
	p.t.Helper()
	g, err := wire.ReadGreeting(p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	return g
}

// refusal reads until the other side has said why it ends the session, and has ended it.
func (p *rawPeer) refusal() string {
	p.t.Helper()
	for {
		head := make([]byte, wire.HeaderSize)
		if _, err := io.ReadFull(p.conn, head); err != nil {
			p.t.Fatal(err)
		}
		f, sz, err := wire.DecodeHeader(head)
		if err != nil {
			p.t.Fatal(err)
		}
		body := make([]byte, sz.Wire)
		if _, err := io.ReadFull(p.conn, body); err != nil {
			p.t.Fatal(err)
		}
		if f.Type != wire.Refuse {
			continue
		}
		m, err := wire.DecodeMessage(body)
		if err != nil {
			p.t.Fatal(err)
		}
		if n, err := p.conn.Read(head); n != 0 || err == nil {
			p.t.Errorf("after the refusal: %d bytes, %v", n, err)
		}
		return m.Reason
	}
}

// encode returns a frame as it travels.
func encode(f wire.Frame, payload []byte) []byte {
	if !f.Type.CarriesMessage() {
		f.Payload = uint32(len(payload))
	}
	return append(wire.AppendHeader(nil, &f, payload), payload...)
}

// writeFrame is a Write of len(data) bytes.
func writeFrame(seq uint64, n int) *wire.Frame {
	return &wire.Frame{Type: wire.Write, Epoch: 1, Seq: seq, Extent: bitmap.Extent{Off: 4096, Len: int64(n)}}
}

func payload(data []byte) *buf.Buf {
	b := buf.Get(len(data))
	copy(b.B, data)
	return b
}
