package outq

import (
	"sync"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// chunkSize is the memory that headers are copied into, in bytes. Adjacent headers in one chunk
// are one segment, so acknowledgements and replies without payload cost one vector for many.
const chunkSize = 16 << 10

// chunk is header memory. It goes back to the pool when it is no longer the queue's tail and
// every segment in it was written.
type chunk struct {
	mem  []byte
	used int // bytes
	segs int // pending segments that lie in it
}

var chunks = sync.Pool{New: func() any { return &chunk{mem: make([]byte, chunkSize)} }}

// seg is a run of bytes to be sent. One of chunk and owner is nil, or both.
type seg struct {
	b     []byte
	chunk *chunk   // b lies in it
	owner *buf.Buf // one reference, released with the segment
}

// copyHeader adds h to the pending bytes, to the last segment if that ends where h begins.
// Caller holds mu.
func (q *Queue) copyHeader(h []byte) {
	if len(h) == 0 {
		return
	}
	t := q.tail
	if t != nil && t.segs == 0 {
		t.used = 0 // everything in it was written
	}
	if t == nil || t.used+len(h) > len(t.mem) {
		t = q.newTail(len(h))
	}
	start := t.used
	t.used += copy(t.mem[start:], h)
	if n := len(q.segs); n > q.head && q.segs[n-1].chunk == t {
		last := &q.segs[n-1]
		last.b = last.b[:len(last.b)+len(h)]
		return
	}
	t.segs++
	q.segs = append(q.segs, seg{b: t.mem[start:t.used], chunk: t})
}

// newTail makes a chunk with room for n bytes the tail. Caller holds mu.
func (q *Queue) newTail(n int) *chunk {
	if t := q.tail; t != nil && t.segs == 0 {
		t.recycle()
	}
	if n > chunkSize {
		q.tail = &chunk{mem: make([]byte, n)}
	} else {
		q.tail = chunks.Get().(*chunk)
	}
	return q.tail
}

func (c *chunk) recycle() {
	c.used = 0
	if len(c.mem) == chunkSize {
		chunks.Put(c)
	}
}

// consume drops the first n pending bytes and releases what they came from. Caller holds mu.
func (q *Queue) consume(n int) {
	q.bytes -= n
	for n > 0 {
		s := &q.segs[q.head]
		if len(s.b) > n {
			s.b = s.b[n:]
			return
		}
		n -= len(s.b)
		q.release(s)
		q.head++
	}
	switch pending := len(q.segs) - q.head; {
	case pending == 0:
		q.segs, q.head = q.segs[:0], 0
	case q.head > maxVecs && q.head > pending:
		copy(q.segs, q.segs[q.head:])
		clear(q.segs[pending:])
		q.segs, q.head = q.segs[:pending], 0
	}
}

// release gives back what s refers to and forgets it. Caller holds mu.
func (q *Queue) release(s *seg) {
	if c := s.chunk; c != nil {
		if c.segs--; c.segs == 0 && c != q.tail {
			c.recycle()
		}
	}
	s.owner.Release()
	*s = seg{}
}

// releaseAll drops everything of a closed queue. Caller holds mu, and there is no writer.
func (q *Queue) releaseAll() {
	tail := q.tail
	q.tail = nil
	if tail != nil && tail.segs == 0 {
		tail.recycle()
	}
	for i := q.head; i < len(q.segs); i++ {
		q.release(&q.segs[i])
	}
	q.segs, q.head, q.bytes = nil, 0, 0
}
