package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/internal/outq"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// lingerTime bounds how long a session that ends with a Refuse frame waits for the peer to have
// read it: closing a socket that holds unread data makes the kernel throw away what was sent.
const lingerTime = 100 * time.Millisecond

var lastSessionID atomic.Uint64

// Session is one open connection to one peer for one resource. A Link makes it. All methods may
// be called by any goroutine, at any time, with any lock of the caller held.
type Session struct {
	id       uint64
	peer     string
	resource string
	protocol uint16
	comp     wire.Compression
	conn     net.Conn
	handler  Handler
	q        *outq.Queue
	count    counters

	sentLead atomic.Bool // this side has claimed the lead
	refusing atomic.Bool // a Refuse frame was sent: linger at the end

	mu     sync.Mutex
	closed bool
	err    error // why, once closed
}

func newSession(l *Link, conn net.Conn, a agreed) *Session {
	s := &Session{
		id:       lastSessionID.Add(1),
		peer:     l.cfg.Peer,
		resource: l.cfg.Resource,
		protocol: a.protocol,
		comp:     a.comp,
		conn:     conn,
		handler:  l.cfg.Handler,
		q:        outq.New(conn),
	}
	s.q.OnWritten(func(n int) { s.count.bytesOut.Add(uint64(n)) })
	return s
}

// ID returns a number that no other session of this process has. It is not sent.
func (s *Session) ID() uint64 { return s.id }

// Peer returns the name of the node at the other end.
func (s *Session) Peer() string { return s.peer }

// Resource returns the name of the resource.
func (s *Session) Resource() string { return s.resource }

// Protocol returns the version that both sides agreed on.
func (s *Session) Protocol() uint16 { return s.protocol }

// Compression returns what both sides agreed on.
func (s *Session) Compression() wire.Compression { return s.comp }

// Queued returns the bytes that were sent and not yet handed to the kernel.
func (s *Session) Queued() int { return s.q.Len() }

// Send encodes f and appends it, and the bytes of payload, to what will be sent. Frames travel
// in the order of the calls. It takes over one reference of payload and keeps neither f nor
// f.Msg; f.Payload is set from payload. It never blocks, but it hashes and, where that was
// agreed, compresses the payload: call Pack first to have that done before a lock is taken.
// The frame leaves with the next Flush. After Close it is dropped silently: Down follows.
//
// A frame that breaks the format is a bug of the caller, and Send panics, with one exception: a
// message that is too long ends the session.
func (s *Session) Send(f *wire.Frame, payload *buf.Buf) {
	s.SendPacked(f, s.Pack(f.Type, payload))
}

// Packed is a payload made ready for one session. It owns one reference of a buffer.
type Packed struct {
	b          *buf.Buf
	body       []byte // the part of b that travels
	raw        int    // bytes before compression
	sum        uint64
	compressed bool
}

// Release gives up a Packed that is not sent after all.
func (p Packed) Release() { p.b.Release() }

// Pack hashes payload for a frame of type t and compresses it where that was agreed and pays. It
// takes over one reference of payload. What it returns is sent once, by SendPacked on the same
// session, or released.
func (s *Session) Pack(t wire.Type, payload *buf.Buf) Packed {
	if payload == nil {
		return Packed{sum: wire.Sum(nil)}
	}
	p := Packed{b: payload, body: payload.B, raw: len(payload.B)}
	if s.comp != wire.NoCompression && t.MayCompress() && !s.isClosed() {
		out := buf.Get(wire.CompressBound(p.raw))
		if n, ok := s.comp.Compress(out.B, payload.B); ok {
			payload.Release()
			p.b, p.body, p.compressed = out, out.B[:n], true
		} else {
			out.Release()
		}
	}
	p.sum = wire.Sum(p.body)
	return p
}

// SendPacked is Send for a payload that Pack has made ready. It takes over p.
func (s *Session) SendPacked(f *wire.Frame, p Packed) {
	if f.Type.CarriesMessage() {
		s.sendMessage(f, p)
		return
	}
	if f.Msg != nil {
		c := *f
		panic("peer: " + c.String() + ": a message that its type does not carry")
	}
	if s.isClosed() {
		p.Release()
		return
	}
	g := *f
	g.Payload = uint32(p.raw)
	if p.compressed {
		g.Flags |= wire.FlagCompressed
	}
	var mem [wire.HeaderSize]byte
	header := wire.AppendHeaderSum(mem[:0], &g, len(p.body), p.sum)
	s.count.framesOut.Add(1)
	s.count.payloadOut.Add(uint64(p.raw))
	s.q.AppendBytes(header, p.b, p.body)
}

// sendMessage sends the types that carry a Message.
func (s *Session) sendMessage(f *wire.Frame, p Packed) {
	if f.Msg == nil || p.raw != 0 {
		c := *f
		panic("peer: " + c.String() + ": carries a message and nothing else")
	}
	p.Release()
	if s.isClosed() {
		return
	}
	body, err := wire.EncodeMessage(f.Msg)
	if err != nil {
		s.Close(err)
		return
	}
	g := *f
	g.Msg, g.Payload = nil, 0
	switch f.Type {
	case wire.Lead:
		s.sentLead.Store(true)
	case wire.Refuse:
		s.refusing.Store(true)
	}
	s.count.framesOut.Add(1)
	s.q.AppendBytes(wire.AppendHeader(nil, &g, body), nil, body)
}

// Flush hands what was sent so far to the kernel, as far as the socket takes it at once, and
// leaves the rest to the queue's goroutine. Call it after the lock that orders the frames was
// given up.
func (s *Session) Flush() { s.q.Flush() }

// Close ends the session; err is the reason that Down will report, nil stands for ErrClosed. It
// returns at once, and Down follows from the link's goroutine, after the Frames that is under
// way, if any. Only the first call counts. After a Refuse frame the connection stays open for
// the moment it takes the peer to read it.
func (s *Session) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed, s.err = true, err
	s.mu.Unlock()
	if s.refusing.Load() {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a connection that has ended
		return
	}
	s.cut()
}

// cut closes the connection and drops what was not sent.
func (s *Session) cut() {
	_ = s.conn.Close() // nothing can be done, and the session has its reason already
	s.q.Close(ErrClosed)
}

func (s *Session) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// run serves the session from Up to Down and returns why it ended. The cause of a cancelled ctx
// ends it, too.
func (s *Session) run(ctx context.Context, theirs wire.Hello) error {
	queueDone := make(chan struct{})
	go func() {
		defer close(queueDone)
		if err := s.q.Run(context.WithoutCancel(ctx)); err != nil {
			s.Close(err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { s.Close(context.Cause(ctx)) })
	s.handler.Up(s, theirs)
	r := newReader(s)
	s.Close(s.explain(r.run()))
	stop()
	if s.refusing.Load() {
		s.linger(r.mem.B)
	}
	r.free()
	s.cut()
	<-queueDone
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	s.handler.Down(s, err)
	return err
}

// explain counts an error of the reader by its reason, tells the peer when it sent something
// that this side cannot accept, and returns the error.
func (s *Session) explain(err error) error {
	if !s.count.refuse(err) || s.isClosed() {
		return err
	}
	s.Send(&wire.Frame{Type: wire.Refuse, Msg: &wire.Message{Reason: err.Error()}}, nil)
	s.Flush()
	return err
}

// linger lets the peer read what was sent last: it sends the end of the stream and discards what
// arrives until the peer closes, for lingerTime at most.
func (s *Session) linger(scratch []byte) {
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerTime)) // an error shows in the next Read
	s.q.Flush()
	if s.q.Len() > 0 {
		return // the socket is full: the peer does not read
	}
	finish(s.conn, scratch)
}

// finish ends this side's stream and discards what arrives until an error or the other's end.
// The caller has set a read deadline.
func finish(conn net.Conn, scratch []byte) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		if c.CloseWrite() != nil {
			return
		}
	}
	for {
		if _, err := conn.Read(scratch); err != nil {
			return
		}
	}
}

// plainEnd reports whether err is the end of a stream rather than a failure.
func plainEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
