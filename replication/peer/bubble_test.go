package peer

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/memnet"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

const (
	latency = time.Millisecond   // of the network in a bubble, one way
	limit   = 7 * 24 * time.Hour // of the fake clock: reconnecting for so long takes seconds
)

// bubble is the nodes a and b on a network in memory. All of it runs on a fake clock: hours pass
// at once, and a goroutine that is left at the end fails the test.
type bubble struct {
	*testing.T
	*memnet.Network
	a, b   *fakeNode
	la, lb *Link

	stopA, stopB func()          // ends the link and what it needs, and waits
	wrapA, wrapB func(*tripConn) // set before start: sees each connection
}

// inBubble runs f in a bubble in which nothing is started yet.
func inBubble(t *testing.T, f func(w *bubble)) {
	t.Helper()
	memnet.Bubble(t, limit, func(t *testing.T) {
		w := &bubble{T: t, Network: memnet.New(), stopA: func() {}, stopB: func() {}}
		w.SetLatency("a", "b", latency)
		w.wrapA, w.wrapB = func(*tripConn) {}, func(*tripConn) {}
		f(w)
		w.stopA()
		w.stopB()
		memnet.Pass(time.Second) // what has been sent last is on its way
		if n := w.Conns("a", "b"); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// connected runs f in a bubble in which both nodes have a session.
func connected(t *testing.T, f func(w *bubble, sa, sb *Session)) {
	t.Helper()
	inBubble(t, func(w *bubble) {
		w.startB(nil)
		w.startA(nil)
		f(w, w.a.next("up").s, w.b.next("up").s)
	})
}

// startA starts a process of node a, which dials.
func (w *bubble) startA(change func(*LinkConfig)) {
	w.Helper()
	w.a = newNode(w, "a")
	cfg := LinkConfig{Resource: "r0", Self: "a", Peer: "b", Handler: w.a, Addr: "b:1", Dial: func(ctx context.Context) (net.Conn, error) {
		c, err := w.Host("a").Dial(ctx, "tcp", "b:1")
		if err != nil {
			return nil, err
		}
		trip := &tripConn{Conn: c.(*memnet.Conn)}
		w.wrapA(trip)
		return trip, nil
	}}
	if change != nil {
		change(&cfg)
	}
	w.la = NewLink(cfg)
	w.stopA = run(w, w.la)
}

// startB starts a process of node b, which accepts.
func (w *bubble) startB(change func(*LinkConfig)) {
	w.Helper()
	w.b = newNode(w, "b")
	cfg := LinkConfig{Resource: "r0", Self: "b", Peer: "a", Handler: w.b}
	if change != nil {
		change(&cfg)
	}
	w.lb = NewLink(cfg)
	acc := NewAcceptor(AcceptorConfig{Self: "b"})
	if err := acc.Add(w.lb); err != nil {
		w.Fatal(err)
	}
	ln, err := w.Host("b").Listen("tcp", "b:1")
	if err != nil {
		w.Fatal(err)
	}
	stopLink := run(w, w.lb)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			trip := &tripConn{Conn: c.(*memnet.Conn)}
			w.wrapB(trip)
			wg.Go(func() { acc.Serve(ctx, trip, "a") })
		}
	})
	w.stopB = sync.OnceFunc(func() {
		stopLink()
		cancel()
		ln.Close()
		wg.Wait()
	})
	w.Cleanup(w.stopB)
}

// bothUp waits until both nodes have said that a session is up, and checks that it is one and the
// same by a frame that passes each way. What came before is dropped.
func (w *bubble) bothUp() {
	w.Helper()
	memnet.Pass(0)
	for _, n := range []*fakeNode{w.a, w.b} {
		for len(n.events) > 0 {
			<-n.events
		}
	}
	sa, sb := w.a.current(), w.b.current()
	if sa == nil || sb == nil {
		w.Fatalf("a: %+v\nb: %+v", w.la.Stats(), w.lb.Stats())
	}
	for _, d := range []struct {
		from *Session
		to   *fakeNode
	}{{sa, w.b}, {sb, w.a}} {
		d.from.Send(&wire.Frame{Type: wire.Beacon, Seq: 4711}, nil)
		d.from.Flush()
		if e := d.to.next("frame"); e.frame.Seq != 4711 {
			w.Fatalf("%s got %s", d.to.name, &e.frame)
		}
	}
}

// oneConnection checks that no other connection is left, once those that never said hello have
// been given up.
func (w *bubble) oneConnection() {
	w.Helper()
	memnet.Pass(DefaultHandshakeTimeout)
	if n := w.Conns("a", "b"); n != 1 {
		w.Errorf("%d connections", n)
	}
}

// quiet fails when anything happened on either node.
func (w *bubble) quiet() {
	w.Helper()
	for _, n := range []*fakeNode{w.a, w.b} {
		if len(n.events) > 0 {
			e := <-n.events
			w.Errorf("%s: %s %v", n.name, e.what, e.err)
		}
	}
}

// current returns the session that is up, or nil.
func (n *fakeNode) current() *Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// tripConn calls after when a greeting was written whole: the first Write of each side is its
// hello, and the second one of the side that dials its accept.
type tripConn struct {
	*memnet.Conn
	writes int
	after  func(writes int) // nil: nothing
}

func (c *tripConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.writes++
	if err == nil && c.after != nil && c.writes <= 2 {
		c.after(c.writes)
	}
	return n, err
}
