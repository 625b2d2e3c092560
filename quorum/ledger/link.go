package ledger

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/quorum/voter"
)

const (
	linkQueue     = 256 // frames waiting for one link; more are dropped
	missedPings   = 2   // unanswered before a link counts as down; to be wrong costs a few copies
	hopelessPings = 30  // unanswered before its connection is given up
)

// link is the outgoing connection to one node. It reconnects for as long as it runs.
type link struct {
	node  string
	addr  string
	dial  func(ctx context.Context, addr, node string) (net.Conn, error)
	every time.Duration // between pings
	queue chan []byte   // whole frames
	there chan struct{} // capacity 1: the node can be reached just now
	stop  context.CancelFunc
	heard func() // a pong came
	lost  func() // the connection ended

	connected atomic.Bool
	missed    atomic.Int32 // pings sent since the last pong
}

func newLink(node, addr string, every time.Duration, dial func(context.Context, string, string) (net.Conn, error)) *link {
	return &link{node: node, addr: addr, dial: dial, every: every, queue: make(chan []byte, linkQueue), there: make(chan struct{}, 1)}
}

// up reports whether frames handed to the link are likely to arrive.
func (l *link) up() bool { return l.connected.Load() && l.missed.Load() < missedPings }

// send queues a whole frame; false if the link is not connected or its queue is full, and then
// the frame is certainly not sent.
func (l *link) send(f []byte) bool {
	if !l.connected.Load() {
		return false
	}
	select {
	case l.queue <- f:
		return true
	default:
		return false
	}
}

// reachable tells a link that is down that its node has just been heard from on a connection of its own. What is left
// of a host that lost its power answers nothing, and the kernel sends again ever more rarely: a new connection is
// there at once.
func (l *link) reachable() {
	if l.up() {
		return
	}
	select {
	case l.there <- struct{}{}:
	default:
	}
}

// run keeps the link connected until ctx ends.
func (l *link) run(ctx context.Context) {
	first := l.every / 2 // what ends most connections is a process that starts again
	retry := first
	for ctx.Err() == nil {
		dctx, cancel := context.WithTimeout(ctx, time.Second+5*l.every)
		conn, err := l.dial(dctx, l.addr, l.node)
		cancel()
		if err == nil {
			retry = first
			l.serve(ctx, conn)
			l.lost()
		}
		l.drain()
		if !wait(ctx, retry, l.there) {
			return
		}
		retry = min(2*retry, max(time.Second, l.every))
	}
}

// drain discards what the last connection did not take: by the time there is another one, raft
// and the proposals have newer things to say.
func (l *link) drain() {
	for {
		select {
		case <-l.queue:
		default:
			return
		}
	}
}

// wait waits for d, or until sooner has something; false if ctx ended first.
func wait(ctx context.Context, d time.Duration, sooner <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-sooner:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve writes queued frames and pings until the connection fails or ctx ends.
func (l *link) serve(ctx context.Context, conn net.Conn) {
	var reader sync.WaitGroup
	broken := make(chan struct{})
	closeConn := sync.OnceFunc(func() { conn.Close() })
	stop := context.AfterFunc(ctx, closeConn)
	l.missed.Store(0)
	l.connected.Store(true)
	reader.Go(func() {
		defer close(broken)
		l.readPongs(conn)
	})
	l.write(ctx, conn, broken)
	l.connected.Store(false)
	stop()
	closeConn()
	reader.Wait()
}

func (l *link) readPongs(conn net.Conn) {
	r := bufio.NewReaderSize(conn, 64)
	for {
		f, err := voter.ReadFrame(r)
		if err != nil || f.Kind != voter.FramePong {
			return
		}
		l.missed.Store(0)
		l.heard()
	}
}

func (l *link) write(ctx context.Context, conn net.Conn, broken <-chan struct{}) {
	w := bufio.NewWriterSize(conn, 16<<10)
	ticker := beat.NewTicker(l.every)
	defer ticker.Stop()
	var seq [8]byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-broken:
			return
		case <-l.there:
			if !l.up() {
				return
			}
		case f := <-l.queue:
			if !l.writeAll(conn, w, f) {
				return
			}
		case <-ticker.C:
			ticker.Next(0)
			binary.BigEndian.PutUint64(seq[:], binary.BigEndian.Uint64(seq[:])+1)
			if l.missed.Add(1) > hopelessPings || !l.writeAll(conn, w, voter.NewFrame(voter.FramePing, seq[:])) {
				return
			}
		}
	}
}

// writeAll writes f and all that is queued, in one go where it fits.
func (l *link) writeAll(conn net.Conn, w *bufio.Writer, f []byte) bool {
	// A peer that takes nothing for this long is gone; a snapshot of 64 MiB passes at 20 MB/s.
	if conn.SetWriteDeadline(time.Now().Add(3*time.Second)) != nil {
		return false
	}
	for {
		if _, err := w.Write(f); err != nil {
			return false
		}
		select {
		case f = <-l.queue:
			continue
		default:
		}
		return w.Flush() == nil
	}
}
