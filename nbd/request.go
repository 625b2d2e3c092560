package nbd

import (
	"errors"
	"sync"
	"syscall"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// Op is what a request asks for.
type Op uint8

const (
	OpRead        Op = iota + 1 // fill Buf from [Off, Off+Len)
	OpWrite                     // store Buf at [Off, Off+Len)
	OpFlush                     // make stable what had been replied on any connection of the export
	OpTrim                      // the range is not needed any more
	OpWriteZeroes               // the range shall read as zeros
	OpCache                     // the range will be read soon
)

func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpTrim:
		return "trim"
	case OpWriteZeroes:
		return "write-zeroes"
	case OpCache:
		return "cache"
	}
	return "invalid"
}

// Flags modify a request.
type Flags uint8

const (
	FlagFUA      Flags = 1 << iota // of a change: stable before the reply; without meaning elsewhere
	FlagPunch                      // OpWriteZeroes may unmap
	FlagFastZero                   // OpWriteZeroes fails with EOPNOTSUPP if no faster than a write
)

// ErrDrop completes a request without an answer: its connection is closed instead.
var ErrDrop = errors.New("nbd: request dropped, connection closed")

// Backend serves the requests of an export.
type Backend interface {
	// Submit starts the requests of one connection, 1 to Config.MaxBatch of them, in the order
	// in which they arrived. They lie within the export, the lengths are above zero but for
	// OpFlush, and each is the backend's until it calls its Reply, exactly once, from any
	// goroutine, whatever becomes of the connection. The slice is the caller's again when
	// Submit returns.
	//
	// Submit runs on the connection's reader: blocking there is how a backend throttles. When
	// it returns, the connection is flushed; replies made later need a Conn.Flush.
	Submit(batch []*Request)
}

// Request is one command of a client. Its fields are read-only for a Backend except those marked
// as its own.
type Request struct {
	Op    Op
	Flags Flags
	Off   int64 // bytes
	Len   int64 // bytes, at most MaxPayload for OpRead and OpWrite, below 4 GiB for others
	// Buf holds the payload of a write, or is to be filled by a read; nil for other commands.
	// Its length is Len. The Request owns one reference, which ends with Reply or, for a read,
	// once the bytes left; who needs it longer retains it.
	Buf *buf.Buf

	// For the backend's own use; zero at Submit.
	Tag   any
	Slot  uint32
	Parts int32
	Next  *Request

	conn     *Conn // nil once replied
	cookie   uint64
	reserved int64 // bytes counted against the connection's budget
}

var requests = sync.Pool{New: func() any { return new(Request) }}

// Conn returns the connection that the request came on. It must be asked for before Reply; the
// Conn stays usable afterwards.
func (r *Request) Conn() *Conn { return r.conn }

// Reply completes r and queues its answer; Conn.Flush sends it. After the call r belongs to
// somebody else. A nil err is success, and for a read sends Buf. Otherwise the client sees the
// syscall.Errno that err wraps, as far as NBD knows it, else EIO; ErrDrop closes the connection.
func (r *Request) Reply(err error) {
	c := r.conn
	if c == nil {
		panic("nbd: second Reply to a request")
	}
	var h [replySize]byte
	putReply(&h, errnoOf(err), r.cookie)
	sent := int64(replySize)
	switch {
	case err == nil && r.Op == OpRead && r.Buf != nil:
		if int64(len(r.Buf.B)) != r.Len {
			panic("nbd: reply to a read with a buffer of another length")
		}
		sent += r.Len
		c.q.Append(h[:], r.Buf)
	case errors.Is(err, ErrDrop):
		c.kill(ErrDrop)
		r.Buf.Release()
	default:
		c.q.Append(h[:], nil)
		r.Buf.Release()
	}
	c.count(r, err)
	reserved := r.reserved
	*r = Request{}
	requests.Put(r)
	c.budget.put(1, reserved-sent)
}

// drop ends a request that was never submitted.
func (r *Request) drop() {
	c, reserved := r.conn, r.reserved
	r.Buf.Release()
	*r = Request{}
	requests.Put(r)
	c.budget.put(1, reserved)
}

// errnoOf returns the NBD error value for err, proto.md "Error values".
func errnoOf(err error) uint32 {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return errIO
	}
	switch errno {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return errPerm
	case syscall.ENOMEM:
		return errNoMem
	case syscall.EINVAL:
		return errInval
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errNoSpace
	case syscall.EOVERFLOW:
		return errOverflow
	case syscall.EOPNOTSUPP:
		return errNotSup
	case syscall.ESHUTDOWN:
		return errShutdown
	}
	return errIO
}
