package nbd

import (
	"io"
	"net"
	"sync"
)

// readSize is the memory that a connection reads ahead into, in bytes: about thirty small writes,
// or one large one with its header.
const readSize = 128 << 10

// smallRest is the length, in bytes, up to which the unread rest of a payload is worth a copy: the
// read that brings it then brings the requests behind it too, and saves one.
const smallRest = 32 << 10

var readBufs = sync.Pool{New: func() any { return new([readSize]byte) }}

// reader is a read-ahead buffer with two needs that bufio.Reader does not meet: large payloads go
// past it straight to their place, and its memory is lent from a pool.
type reader struct {
	conn net.Conn
	mem  *[readSize]byte
	r, w int // mem[r:w] is buffered
}

func newReader(conn net.Conn) reader {
	return reader{conn: conn, mem: readBufs.Get().(*[readSize]byte)}
}

// free gives the memory back; the reader must not be used any more.
func (r *reader) free() {
	readBufs.Put(r.mem)
	r.mem = nil
}

// buffered returns the number of bytes that can be had without a read.
func (r *reader) buffered() int { return r.w - r.r }

// fill reads until n bytes are buffered, n <= readSize. io.EOF means that the connection ended
// with nothing buffered, io.ErrUnexpectedEOF that it ended early.
func (r *reader) fill(n int) error {
	if r.buffered() >= n {
		return nil
	}
	if r.r > 0 {
		r.w = copy(r.mem[:], r.mem[r.r:r.w])
		r.r = 0
	}
	for r.w < n {
		m, err := r.conn.Read(r.mem[r.w:])
		r.w += m
		if err != nil && r.w < n {
			if err == io.EOF && r.w > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// next returns n bytes that fill has buffered. They are valid until the next call.
func (r *reader) next(n int) []byte {
	b := r.mem[r.r : r.r+n]
	r.r += n
	return b
}

// readFull fills p, first with what is buffered.
func (r *reader) readFull(p []byte) error {
	n := copy(p, r.mem[r.r:r.w])
	r.r += n
	if p = p[n:]; len(p) == 0 {
		return nil
	}
	var err error
	if len(p) <= smallRest {
		if err = r.fill(len(p)); err == nil {
			copy(p, r.next(len(p)))
		}
	} else {
		_, err = io.ReadFull(r.conn, p)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// discard reads n bytes away.
func (r *reader) discard(n int64) error {
	for n > 0 {
		if err := r.fill(1); err != nil {
			return err
		}
		m := min(n, int64(r.buffered()))
		r.r += int(m)
		n -= m
	}
	return nil
}

// peek returns the next n bytes, which fill has buffered, without taking them.
func (r *reader) peek(n int) []byte { return r.mem[r.r : r.r+n] }
