package outq

import (
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVecs is the number of vectors the kernel takes in one writev (IOV_MAX).
const maxVecs = 1024

// plainGather is the length up to which neighbouring segments are joined, in bytes, before they
// go to a connection that takes one slice at a time.
const plainGather = 64 << 10

// sender is what the writer of a Queue works with. Its vectors point at memory that the pending
// segments keep alive until consume.
type sender struct {
	iov     []unix.Iovec
	total   int                   // bytes that iov covers
	wait    bool                  // the present write may wait
	n       int                   // bytes the present write has taken
	errno   syscall.Errno         // its error
	attempt func(fd uintptr) bool // writev below
	plain   []byte                // what goes to a plain connection next
	scratch []byte                // memory to join small segments in; nil until needed
}

// gather collects the pending segments. Caller holds mu and is the writer.
func (q *Queue) gather() {
	if q.raw == nil {
		q.gatherPlain()
		return
	}
	q.iov, q.total = q.iov[:0], 0
	for i := q.head; i < len(q.segs) && len(q.iov) < maxVecs; i++ {
		b := q.segs[i].b
		v := unix.Iovec{Base: unsafe.SliceData(b)}
		v.SetLen(len(b))
		q.iov = append(q.iov, v)
		q.total += len(b)
	}
}

// gatherPlain makes plain the first segment, or a copy of the first few small ones.
func (q *Queue) gatherPlain() {
	if first := q.segs[q.head].b; len(first) >= plainGather {
		q.plain = first
		return
	}
	if q.scratch == nil {
		q.scratch = make([]byte, plainGather)
	}
	q.plain = q.scratch[:0]
	for i := q.head; i < len(q.segs); i++ {
		b := q.segs[i].b
		if len(q.plain)+len(b) > plainGather {
			return
		}
		q.plain = append(q.plain, b...)
	}
}

// forget drops the vectors, so that they keep no memory alive.
func (s *sender) forget() {
	clear(s.iov)
	s.iov, s.plain = s.iov[:0], nil
}

// tryWrite writes what was gathered, as far as the socket takes it at once. full tells that it
// did not take all.
func (s *sender) tryWrite(raw syscall.RawConn) (n int, full bool, err error) {
	n, err = s.write(raw, false)
	return n, n < s.total, err
}

// waitWrite writes some of what was gathered and waits until the socket takes a byte.
func (s *sender) waitWrite(raw syscall.RawConn) (int, error) {
	return s.write(raw, true)
}

func (s *sender) write(raw syscall.RawConn, wait bool) (int, error) {
	s.wait, s.n, s.errno = wait, 0, 0
	if err := raw.Write(s.attempt); err != nil {
		return s.n, err
	}
	if s.errno != 0 {
		return s.n, os.NewSyscallError("writev", s.errno)
	}
	return s.n, nil
}

// writev is one attempt; false asks the poller to try again when the socket has room.
func (s *sender) writev(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd,
			uintptr(unsafe.Pointer(unsafe.SliceData(s.iov))), uintptr(len(s.iov)))
		switch errno {
		case 0:
			s.n = int(n)
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return !s.wait
		default:
			s.errno = errno
			return true
		}
	}
}

// writePlain writes the gathered bytes to a connection that is no plain socket.
func (s *sender) writePlain(conn net.Conn) (int, error) {
	return conn.Write(s.plain)
}
