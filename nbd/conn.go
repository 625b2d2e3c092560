package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/internal/outq"
)

// errDisconnect is how a connection ends that the client ended by the protocol's own means.
var errDisconnect = errors.New("nbd: client disconnected")

// Conn is a client's connection.
type Conn struct {
	id     uint64
	srv    *Server
	lst    *listening
	nc     net.Conn  // the socket, under TLS too
	tls    *tls.Conn // nil while the connection is plain; set in negotiation, under mu
	client string    // as TLS.Verify names it; set with tls
	since  time.Time
	rd     reader     // the reader goroutine's
	batch  []*Request // the reader goroutine's: gathered, not yet submitted
	exp    *Export    // set before transmission, then read-only
	// What the client said of itself, and of which export; nil if it did not. The reader
	// goroutine's until isBound is set, then read-only.
	attached   Attached
	attachedTo string
	q          *outq.Queue // replaced by secure, under mu
	budget     budget
	gone       chan struct{} // closed when nothing of the connection is left

	killed atomic.Bool // nothing may be submitted or answered any more

	mu      sync.Mutex
	bound   string // export name, once bound
	isBound bool
	err     error // why it was killed

	reads, writes, others   atomic.Uint64 // requests completed
	readBytes, writtenBytes atomic.Uint64 // of those that succeeded
	failures                atomic.Uint64 // requests completed with an error
}

func newConn(s *Server, lst *listening, id uint64, nc net.Conn) *Conn {
	c := &Conn{
		id:    id,
		srv:   s,
		lst:   lst,
		nc:    nc,
		since: time.Now(),
		rd:    newReader(nc),
		q:     outq.New(nc),
		gone:  make(chan struct{}),
	}
	c.budget.init(s.cfg.MaxRequests, s.cfg.MaxBytes)
	c.q.OnWritten(c.budget.sent)
	return c
}

// ID tells connections of one Server apart; it is never used again.
func (c *Conn) ID() uint64 { return c.id }

// RemoteAddr returns the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Flush sends the replies queued so far, without waiting; it may be called from any goroutine
// and at any time. With nothing queued it costs one uncontended mutex.
func (c *Conn) Flush() { c.q.Flush() }

// serve runs the connection from its first byte until its last request is replied.
func (c *Conn) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })
	defer stop()
	if err := c.negotiate(ctx); err != nil {
		c.end(err)
		c.budget.waitReplied()
		c.rd.free()
		return
	}
	c.transmission(ctx, nil)
}

// end is kill from the reader, which says goodbye to a client that did so itself.
func (c *Conn) end(err error) {
	if err == errDisconnect && !c.killed.Load() {
		c.goodbye()
	}
	c.kill(err)
}

// kill ends the connection at once; queued replies that have not left are dropped. Only the
// first reason counts. It never blocks, so it may be called with locks held, other than ours.
func (c *Conn) kill(err error) {
	c.mu.Lock()
	if c.killed.Load() {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.killed.Store(true)
	q := c.q
	c.mu.Unlock()
	q.Close(err)
	c.budget.close()
	nc := c.nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn() // a TLS connection's Close would wait to say goodbye
	}
	nc.Close()
}

// reason returns why the connection ended; nil while it lives. io.EOF and errDisconnect are the
// client's own doing.
func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// endedByClient reports whether err is an end that needs no attention.
func endedByClient(err error) bool {
	return err == io.EOF || errors.Is(err, errDisconnect)
}

// count books a completed request.
func (c *Conn) count(r *Request, err error) {
	ops := &c.others
	switch r.Op {
	case OpRead:
		ops = &c.reads
	case OpWrite:
		ops = &c.writes
	}
	ops.Add(1)
	switch {
	case err != nil:
		c.failures.Add(1)
	case r.Op == OpRead:
		c.readBytes.Add(uint64(r.Len))
	case r.Op == OpWrite:
		c.writtenBytes.Add(uint64(r.Len))
	}
}

// ConnInfo is a connection as an operator sees it.
type ConnInfo struct {
	ID           uint64
	Remote       string
	Export       string // "" until negotiated
	TLS          bool
	Client       string // as TLS.Verify names it
	Since        time.Time
	InFlight     int   // requests not replied
	Owed         int64 // bytes of payload held and of replies not yet sent
	Reads        uint64
	Writes       uint64
	Others       uint64
	ReadBytes    uint64
	WrittenBytes uint64
	Failures     uint64 // requests answered with an error
}

func (c *Conn) info() ConnInfo {
	c.mu.Lock()
	name, secured, client := c.bound, c.tls != nil, ""
	if secured {
		client = c.client
	}
	c.mu.Unlock()
	inFlight, owed := c.budget.load()
	return ConnInfo{
		ID:           c.id,
		Remote:       c.nc.RemoteAddr().String(),
		Export:       name,
		TLS:          secured,
		Client:       client,
		Since:        c.since,
		InFlight:     inFlight,
		Owed:         owed,
		Reads:        c.reads.Load(),
		Writes:       c.writes.Load(),
		Others:       c.others.Load(),
		ReadBytes:    c.readBytes.Load(),
		WrittenBytes: c.writtenBytes.Load(),
		Failures:     c.failures.Load(),
	}
}
