package memnet

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Conn is one end of a connection.
type Conn struct {
	n             *Network
	local, remote Addr
	peer          *Conn // the other end

	// Under n.mu.
	in       *stream       // to this end
	wake     chan struct{} // closed and replaced when those who wait should look again
	closed   bool          // by whoever has this end
	finished bool          // CloseWrite
	err      error         // what broke this end
	readBy   time.Time     // deadlines; zero: none
	writeBy  time.Time
	patience time.Duration // of SetLiveness; 0: for ever
	dying    *time.Timer   // runs while nothing can be heard of the other end
}

var _ net.Conn = (*Conn)(nil)

// newPair connects two addresses. Caller holds mu.
func (n *Network) newPair(from, to Addr) (dialed, accepted *Conn) {
	a := &Conn{n: n, local: from, remote: to, in: &stream{}, wake: make(chan struct{})}
	b := &Conn{n: n, local: to, remote: from, in: &stream{}, wake: make(chan struct{})}
	a.peer, b.peer = b, a
	n.conns = append(n.conns, a)
	return a, b
}

// Pair returns the two ends of a connection between two hosts of a network of its own.
func Pair() (a, b *Conn) {
	n := New()
	from, to := n.Host("a"), n.Host("b")
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.newPair(from.freePort("tcp"), to.freePort("tcp"))
}

// Read reads what has arrived, at least one byte, and waits for it.
func (c *Conn) Read(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		now := time.Now()
		if err := c.fault(c.readBy, now); err != nil {
			return 0, c.opError("read", err)
		}
		if len(b) == 0 {
			return 0, nil
		}
		n, end := c.in.take(b, now)
		if n > 0 {
			c.peer.signal() // there is room again
			return n, nil
		}
		if end == io.EOF {
			return 0, io.EOF
		}
		if end != nil {
			return 0, c.opError("read", os.NewSyscallError("read", end))
		}
		c.await(c.readBy, c.in.next())
	}
}

// Write takes b over as far as the window has room, and waits for more until all of b is sent.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		now := time.Now()
		err := c.fault(c.writeBy, now)
		switch {
		case err == nil && c.finished:
			err = os.NewSyscallError("write", syscall.EPIPE)
		case err == nil && c.in.reset(now):
			err = os.NewSyscallError("write", syscall.ECONNRESET)
		}
		if err != nil {
			return n, c.opError("write", err)
		}
		out := c.peer.in
		k := min(len(b)-n, Window-out.bytes)
		if k > 0 {
			out.put(c.n.path(c.local.host, c.remote.host), segment{data: append([]byte(nil), b[n:n+k]...)}, now)
			n += k
			c.peer.bounce(now)
			c.peer.signal()
		}
		if n == len(b) {
			return n, nil
		}
		if c.peer.in.bytes < Window {
			continue // the other end is gone and has taken it
		}
		c.await(c.writeBy, c.in.next())
	}
}

// fault is why this end can do nothing at now. Caller holds mu.
func (c *Conn) fault(deadline, now time.Time) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case !deadline.IsZero() && !deadline.After(now):
		return os.ErrDeadlineExceeded
	}
	return c.err
}

// await gives mu up until c is signalled, or the first of the times has come; a zero time never
// comes.
func (c *Conn) await(times ...time.Time) {
	wake := c.wake
	c.n.mu.Unlock()
	defer c.n.mu.Lock()
	var due <-chan time.Time
	if first := earliest(times); !first.IsZero() {
		t := time.NewTimer(time.Until(first))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-wake:
	case <-due:
	}
}

func earliest(times []time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// signal makes those who wait on c look again. Caller holds mu.
func (c *Conn) signal() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// gone reports whether nobody can use this end any more. Caller holds mu.
func (c *Conn) gone() bool { return c.closed || c.err != nil }

func (c *Conn) between(a, b string) bool {
	x, y := c.local.host, c.remote.host
	return x == a && y == b || x == b && y == a
}

// outward is the path from this end to the other. Caller holds mu.
func (c *Conn) outward() *path { return c.n.path(c.local.host, c.remote.host) }

// bounce answers data that reaches an end that is gone with a reset, when it has arrived. Caller
// holds mu.
func (c *Conn) bounce(now time.Time) {
	if !c.gone() {
		return
	}
	if c.in.dropArrived(now) {
		c.peer.in.endWith(c.outward(), syscall.ECONNRESET, now)
		c.peer.signal()
	}
	if next := c.in.next(); !next.IsZero() && c.in.segs[0].end == nil {
		time.AfterFunc(next.Sub(now), func() {
			c.n.mu.Lock()
			defer c.n.mu.Unlock()
			c.bounce(time.Now())
		})
	}
}

// fail breaks this end. Caller holds mu.
func (c *Conn) fail(errno syscall.Errno) {
	if c.gone() {
		return
	}
	c.err = errno
	now := time.Now()
	c.in.dropArrived(now)
	c.bounce(now)
	c.watch()
	c.peer.watch()
	c.signal()
	c.peer.signal()
	c.n.forget(c)
}

// Close ends the connection; see the package comment for what the other end sees of it.
func (c *Conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	broken := c.err != nil
	c.closed = true
	if !broken {
		end, now := error(io.EOF), time.Now()
		if c.in.dropArrived(now) {
			end = syscall.ECONNRESET
		}
		c.peer.in.endWith(c.outward(), end, now)
		c.bounce(now)
	}
	c.watch()
	c.signal()
	c.peer.signal()
	c.n.forget(c)
	return nil
}

// CloseWrite ends this end's stream; reading goes on.
func (c *Conn) CloseWrite() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if err := c.fault(time.Time{}, time.Time{}); err != nil {
		return c.opError("close", err)
	}
	c.finished = true
	c.peer.in.endWith(c.outward(), io.EOF, time.Now())
	c.peer.signal()
	return nil
}

// SetLiveness makes this end fail with ETIMEDOUT once nothing could be heard of the other for
// timeout, because a path between them was cut all that time or its host has crashed; 0 takes that
// back.
func (c *Conn) SetLiveness(timeout time.Duration) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.gone() {
		return c.opError("set", net.ErrClosed)
	}
	c.patience = timeout
	c.watch()
	return nil
}

// watch starts or ends the time that a silent connection has left. Caller holds mu.
func (c *Conn) watch() {
	dead := c.peer.err == syscall.ECONNABORTED || !c.n.open(c.local.host, c.remote.host)
	silent := c.patience > 0 && !c.gone() && dead
	switch {
	case !silent && c.dying != nil:
		c.dying.Stop()
		c.dying = nil
	case silent && c.dying == nil:
		var t *time.Timer
		t = time.AfterFunc(c.patience, func() {
			c.n.mu.Lock()
			defer c.n.mu.Unlock()
			if c.dying == t {
				c.fail(syscall.ETIMEDOUT)
			}
		})
		c.dying = t
	}
}

// LocalAddr returns an Addr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns an Addr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(func() { c.readBy, c.writeBy = t, t })
}

// SetReadDeadline makes reads fail from t on; zero: never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(func() { c.readBy = t }) }

// SetWriteDeadline makes writes fail from t on; zero: never.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(func() { c.writeBy = t }) }

func (c *Conn) setDeadline(set func()) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	set()
	c.signal()
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.network, Source: c.local, Addr: c.remote, Err: err}
}
