package attach

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/lockstep-ha/lockstep/internal/outq"
	"github.com/lockstep-ha/lockstep/nbd"
)

const (
	requestSize = 28 // bytes of a request header
	replySize   = 16 // bytes of a simple reply header
)

// proto.md "Command flags".
const (
	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagFastZero = uint16(1 << 4)
)

// Why a session is ended from this side.
var (
	errComeAgain = errors.New("the server asks to come again")
	errGrown     = errors.New("the resource has another size: the session is opened anew")
	errMoved     = errors.New("another server is primary")
)

// session is one connection that a server has admitted.
type session struct {
	u *upstream
	q *outq.Queue
	// heard is when the server last sent something, or when it got something to do after it had nothing:
	// since then it is silent. In nanoseconds since epoch.
	heard atomic.Int64

	once sync.Once
	err  error // why it ended; set by once
}

// epoch is what times within this process count from.
var epoch = time.Now()

func sinceEpoch() int64 { return int64(time.Since(epoch)) }

func newSession(u *upstream) *session {
	s := &session{u: u, q: outq.New(u.conn)}
	s.heard.Store(sinceEpoch())
	return s
}

// end ends the session; the first reason counts. It does not wait.
func (s *session) end(err error) {
	s.once.Do(func() {
		s.err = err
		s.q.Close(err)
		s.u.close()
	})
}

// send queues the request in slot i. Caller holds Relay.mu, which gives requests their order.
func (s *session) send(t *table, i int32) {
	e := &t.slots[i]
	var h [requestSize]byte
	putRequest(&h, e.req, t.cookie(i))
	e.sent, e.before = true, true
	if e.req.Op == nbd.OpWrite {
		s.q.Append(h[:], e.req.Buf.Retain())
		return
	}
	s.q.Append(h[:], nil)
}

func putRequest(b *[requestSize]byte, r *nbd.Request, cookie uint64) {
	var typ, flags uint16
	switch r.Op {
	case nbd.OpRead:
		typ = 0
	case nbd.OpWrite:
		typ = 1
	case nbd.OpFlush:
		typ = 3
	case nbd.OpTrim:
		typ = 4
	case nbd.OpCache:
		typ = 5
	case nbd.OpWriteZeroes:
		typ = 6
		if r.Flags&nbd.FlagPunch == 0 {
			flags |= cmdFlagNoHole
		}
		if r.Flags&nbd.FlagFastZero != 0 {
			flags |= cmdFlagFastZero
		}
	}
	if r.Flags&nbd.FlagFUA != 0 {
		flags |= cmdFlagFUA
	}
	binary.BigEndian.PutUint32(b[:], protocol.TRANSMISSION_MAGIC_REQUEST)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], typ)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], uint64(r.Off))
	binary.BigEndian.PutUint32(b[24:], uint32(r.Len))
}

// serve makes u the session in which requests travel, until it is lost, and returns why.
func (r *Relay) serve(ctx context.Context, u *upstream) error {
	s := newSession(u)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	var helpers sync.WaitGroup
	helpers.Go(func() { s.end(s.q.Run(context.WithoutCancel(ctx))) })
	r.begin(s)
	helpers.Go(func() { r.watchSize(ctx, s) })
	helpers.Go(func() { r.watchSilence(ctx, s) })
	s.end(r.readReplies(s))
	r.lose(s)
	stop()
	cancel()
	helpers.Wait()
	return s.err
}

// begin sends everything unfinished again, in its order, and has new requests follow.
func (r *Relay) begin(s *session) {
	r.mu.Lock()
	resent := 0
	for i := r.table.head; i != none; i = r.table.slots[i].next {
		if r.table.slots[i].before {
			resent++
		}
		s.send(&r.table, i)
	}
	r.sess, r.failing = s, nil
	r.sessions++
	r.resent += uint64(resent)
	r.size, r.number, r.last = s.u.info.size, s.u.number, s.u.server
	away := time.Duration(0)
	if !r.lostAt.IsZero() {
		away = time.Since(r.lostAt)
	}
	r.lostAt, r.cause = time.Time{}, nil
	r.mu.Unlock()
	s.q.Flush()
	r.cfg.Logger.Info("session open", "resource", r.cfg.Who.Resource, "server", s.u.server.String(), "session", s.u.session,
		"registration", s.u.number, "sent again", resent, "away", away.Round(time.Millisecond))
}

// lose takes the session's loss in: requests wait from here on.
func (r *Relay) lose(s *session) {
	r.mu.Lock()
	r.sess, r.lostAt, r.cause = nil, time.Now(), s.err
	for i := r.table.head; i != none; i = r.table.slots[i].next {
		r.table.slots[i].sent = false
	}
	orphans := r.table.takeIf(func(e *slot) bool { return e.orphan })
	waiting := r.table.n
	r.mu.Unlock()
	complete(orphans, nbd.ErrDrop)
	level := slog.LevelWarn
	if errors.Is(s.err, context.Canceled) || errors.Is(s.err, errGrown) {
		level = slog.LevelInfo // our own wish
	}
	r.cfg.Logger.Log(context.Background(), level, "session lost", "resource", r.cfg.Who.Resource, "server", s.u.server.String(), "session", s.u.session,
		"unfinished", waiting, "reason", s.err)
}

// readReplies answers requests as the server does, until the session ends, and returns why. While it
// runs nobody else takes requests out of the table, so their buffers may be filled without a lock.
func (r *Relay) readReplies(s *session) error {
	var h [replySize]byte
	var touched []*nbd.Conn // whose answers are queued and not sent
	flush := func() {
		for _, c := range touched {
			c.Flush()
		}
		touched = touched[:0]
	}
	defer flush()
	for {
		waits := s.u.rd.Buffered() < replySize
		if waits {
			flush()
		}
		if _, err := io.ReadFull(s.u.rd, h[:]); err != nil {
			return lost(err)
		}
		if waits {
			s.heard.Store(sinceEpoch())
		}
		if binary.BigEndian.Uint32(h[:]) != protocol.TRANSMISSION_MAGIC_REPLY {
			return fmt.Errorf("reply magic %#x", binary.BigEndian.Uint32(h[:]))
		}
		errno := syscall.Errno(binary.BigEndian.Uint32(h[4:]))
		if errno == syscall.ESHUTDOWN {
			return errComeAgain // this request, too: it stays in the table
		}
		req, err := r.answered(s, binary.BigEndian.Uint64(h[8:]), errno)
		if err != nil {
			return err
		}
		if c := req.Conn(); !slices.Contains(touched, c) {
			touched = append(touched, c)
		}
		if errno != 0 {
			req.Reply(errno)
		} else {
			req.Reply(nil)
		}
	}
}

// answered takes the request with cookie out of the table, after its payload has been read.
func (r *Relay) answered(s *session, cookie uint64, errno syscall.Errno) (*nbd.Request, error) {
	r.mu.Lock()
	i := r.table.find(cookie)
	if i == none {
		r.mu.Unlock()
		return nil, fmt.Errorf("reply to %#x, which is not under way", cookie)
	}
	req := r.table.slots[i].req
	if req.Op != nbd.OpRead || errno != 0 {
		r.table.take(i)
		r.mu.Unlock()
		return req, nil
	}
	r.mu.Unlock()
	if _, err := io.ReadFull(s.u.rd, req.Buf.B); err != nil {
		return nil, lost(err) // unanswered still: the next session fills the buffer anew
	}
	r.mu.Lock()
	r.table.take(i)
	r.mu.Unlock()
	return req, nil
}

// lost words the end of a connection.
func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the server closed the connection")
	}
	return err
}

// complete replies to all of reqs with err, and sends that.
func complete(reqs []*nbd.Request, err error) {
	var touched []*nbd.Conn
	for _, req := range reqs {
		if c := req.Conn(); !slices.Contains(touched, c) {
			touched = append(touched, c)
		}
		req.Reply(err)
	}
	for _, c := range touched {
		c.Flush()
	}
}
