package outq

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// ErrClosed is the error of a queue that was closed without a reason of its own.
var ErrClosed = errors.New("outq: queue closed")

// flushRounds bounds how many vectored writes one Flush makes: its caller takes along what
// others append meanwhile, but is not kept as their writer for good.
const flushRounds = 8

// Queue sends on one connection. At any time at most one goroutine is its writer: a caller of
// Flush or the goroutine in Run. The writer looks once more, under mu, before it ceases to be
// the writer, so whoever finds a writer present may leave its frames to it.
//
//	          Flush                    queue empty
//	idle ----------------> writing -------------------> idle
//	                          | socket full, or no plain socket
//	                          v
//	                   handed to Run -----------------> idle
//	                                    queue empty
type Queue struct {
	conn net.Conn
	raw  syscall.RawConn // nil when conn is no plain socket
	wake chan struct{}   // capacity 1: hands the writer's part over to Run
	done chan struct{}   // closed by Close

	onWritten func(bytes int) // set before use, called by the writer with no lock held

	mu      sync.Mutex
	writing bool   // there is a writer, or Run is about to be it
	closed  bool   // err is set; nothing is taken any more
	err     error  // why it was closed
	segs    []seg  // segs[head:] are pending, oldest first
	head    int    // index
	bytes   int    // sum of the pending segments' lengths
	tail    *chunk // where the next header is copied to; nil at first

	sender // belongs to the writer, but for gather, which also needs mu
}

// New returns a queue that sends on conn. The caller keeps conn: it closes it, after Close of
// the queue, and writes nothing to it itself. It must also have Run running.
func New(conn net.Conn) *Queue {
	q := &Queue{
		conn: conn,
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	switch c := conn.(type) {
	case *net.TCPConn:
		q.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		q.raw, _ = c.SyscallConn()
	}
	q.attempt = q.writev // made once: a closure per write would be an allocation per write
	return q
}

// OnWritten has f called whenever bytes were handed to the kernel, with their number. The call
// comes from within Flush or Run, with no lock of the queue held. It must be set before the
// first Append.
func (q *Queue) OnWritten(f func(bytes int)) { q.onWritten = f }

// Append adds a frame: a copy of header, then the bytes of payload, which may be nil. It takes
// over one reference of payload and releases it once the bytes were written, or at once when
// the queue is closed. It never blocks; the order of the calls is the order on the wire. The
// frame leaves with the next Flush.
func (q *Queue) Append(header []byte, payload *buf.Buf) {
	if payload == nil {
		q.AppendBytes(header, nil, nil)
		return
	}
	q.AppendBytes(header, payload, payload.B)
}

// AppendBytes is Append for a frame whose payload is body, a part of owner's memory. With a nil
// owner, body must stay as it is for good.
func (q *Queue) AppendBytes(header []byte, owner *buf.Buf, body []byte) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		owner.Release()
		return
	}
	q.bytes += len(header) + len(body)
	q.copyHeader(header)
	if len(body) > 0 {
		q.segs = append(q.segs, seg{b: body, owner: owner})
		owner = nil
	}
	q.mu.Unlock()
	owner.Release() // only of a payload without bytes
}

// Flush hands what was appended so far to the kernel, without waiting: what a full socket does
// not take is left to Run. It returns at once when another goroutine is the writer, which then
// takes the caller's frames along. Errors close the queue and show in Run and Err.
func (q *Queue) Flush() {
	q.mu.Lock()
	if q.writing || q.bytes == 0 || q.closed {
		q.mu.Unlock()
		return
	}
	q.writing = true
	if q.raw == nil {
		q.wake <- struct{}{}
		q.mu.Unlock()
		return
	}
	for round := 1; ; round++ {
		q.gather()
		q.mu.Unlock()
		n, full, err := q.tryWrite(q.raw)
		if !q.wrote(n, err) {
			return
		}
		q.mu.Lock()
		if q.stopWritingIfEmpty() {
			q.mu.Unlock()
			return
		}
		if full || round == flushRounds {
			// Under mu and before Close: Run finds the token even if it is about to end.
			// The channel has room, for there is one token at most, and only while writing.
			q.wake <- struct{}{}
			q.mu.Unlock()
			return
		}
	}
}

// Run is the writer that may wait. It returns after Close, or on the first write error, with
// the error of the queue; a cancelled ctx closes the queue.
func (q *Queue) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { q.Close(context.Cause(ctx)) })
	defer stop()
	for {
		select {
		case <-q.wake:
			q.drain()
		case <-q.done:
			select {
			case <-q.wake: // what was handed over must still be released
				q.drain()
			default:
			}
			return q.Err()
		}
	}
}

// drain writes until the queue is empty or closed, then gives up being the writer.
func (q *Queue) drain() {
	for {
		q.mu.Lock()
		if q.stopWritingIfEmpty() {
			q.mu.Unlock()
			return
		}
		q.gather()
		q.mu.Unlock()
		var n int
		var err error
		if q.raw != nil {
			n, err = q.waitWrite(q.raw)
		} else {
			n, err = q.writePlain(q.conn)
		}
		if !q.wrote(n, err) {
			return
		}
	}
}

// stopWritingIfEmpty ends the writer's part when nothing is left to do. Caller holds mu.
func (q *Queue) stopWritingIfEmpty() bool {
	if q.bytes > 0 && !q.closed {
		return false
	}
	q.writing = false
	if q.closed {
		q.releaseAll()
	}
	return true
}

// wrote books n written bytes and reports whether the caller is still the writer: after an
// error, or Close, it is not.
func (q *Queue) wrote(n int, err error) bool {
	q.forget()
	q.mu.Lock()
	q.consume(n)
	if err != nil {
		q.closeLocked(err)
	}
	goOn := !q.closed
	if !goOn {
		q.writing = false
		q.releaseAll()
	}
	q.mu.Unlock()
	if n > 0 && q.onWritten != nil {
		q.onWritten(n)
	}
	return goOn
}

// Close gives everything pending back and ends Run. err is what Err and Run report from then
// on; nil stands for ErrClosed. Buffers that a writer is just handing to the kernel are
// released by that writer; Close makes a writer that waits give up, by a write deadline in the
// past. Only the first Close counts. It does not close the connection.
func (q *Queue) Close(err error) {
	q.mu.Lock()
	q.closeLocked(err)
	if !q.writing {
		q.releaseAll()
	}
	q.mu.Unlock()
}

func (q *Queue) closeLocked(err error) {
	if q.closed {
		return
	}
	if err == nil {
		err = ErrClosed
	}
	q.closed, q.err = true, err
	close(q.done)
	// An error here means that the connection is closed: no writer can wait on it.
	_ = q.conn.SetWriteDeadline(time.Unix(1, 0))
}

// Len returns the bytes that were appended and not yet handed to the kernel.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Err returns nil while the queue is open, then why it was closed.
func (q *Queue) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
