package device

import (
	"fmt"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
)

// slot holds the payload of one operation of the core, found by the index in its ID.
type slot struct {
	id   replication.ID // the use this entry is for; 0: none
	call *call          // the request it is a piece of; nil for frames and the core's own
	buf  *buf.Buf       // what b lies in; one reference is the slot's unless call has it; may be nil
	b    []byte         // the payload
}

// answerer is what a call needs of *nbd.Request.
type answerer interface{ Reply(err error) }

// flusher is what a turn needs of *nbd.Conn.
type flusher interface{ Flush() }

// call is one request of a client, in as many pieces as the core needs.
type call struct {
	ans   answerer
	conn  flusher
	op    replication.Op
	flags replication.OpFlags
	ext   bitmap.Extent
	buf   *buf.Buf // payload or room for it; the request's own reference, good until Reply
	cost  int64    // bytes of the window
	left  int      // pieces not ended
	drop  bool     // a piece was dropped: no answer
	err   error    // of the first piece that failed
	packs []pack   // payloads made ready before the mutex was taken

	scratch *buf.Buf // room of the call's own, released at its end; nil: none
}

// pieceLimit is the largest extent of one piece of op, in bytes. Pieces end at multiples of it,
// so that only the first and the last can begin or end inside a block.
func pieceLimit(op replication.Op) int64 {
	if op == replication.OpRead || op == replication.OpWrite {
		return replication.MaxRequest
	}
	return replication.MaxZeroes
}

// pieces is the number of pieces that e is split into, at least 1.
func pieces(e bitmap.Extent, limit int64) int {
	if e.Empty() {
		return 1
	}
	return int((e.End()-1)/limit - e.Off/limit + 1)
}

// piece returns the first piece of what is left of e.
func piece(e bitmap.Extent, limit int64) bitmap.Extent {
	return bitmap.Extent{Off: e.Off, Len: min(e.Len, limit-e.Off%limit)}
}

// find returns the slot of id, or nil when nothing is kept under id. Caller holds mu.
func (d *Device) find(id replication.ID) *slot {
	i := id.Index()
	if i >= len(d.slots) || d.slots[i].id != id {
		return nil
	}
	return &d.slots[i]
}

// slot returns the slot of id, an empty one if nothing was kept under it. It holds until the
// next call. Caller holds mu.
func (d *Device) slot(id replication.ID) *slot {
	i := id.Index()
	for i >= len(d.slots) {
		d.slots = append(d.slots, slot{})
	}
	s := &d.slots[i]
	if s.id != id {
		if s.id != 0 {
			panic(fmt.Sprintf("device: operation %#x begins while %#x has not ended", uint64(id), uint64(s.id)))
		}
		s.id = id
		d.used++
	}
	return s
}

// keep makes b the payload of id and takes over its reference. Caller holds mu.
func (d *Device) keep(id replication.ID, b *buf.Buf) {
	s := d.slot(id)
	if s.call != nil {
		panic(fmt.Sprintf("device: payload for operation %#x, which is a client's", uint64(id)))
	}
	s.buf.Release()
	s.buf, s.b = b, nil
	if b != nil {
		s.b = b.B
	}
}

// free ends an ID that is no request's. Caller holds mu.
func (d *Device) free(id replication.ID) {
	s := d.find(id)
	if s == nil {
		return // it never had a payload
	}
	if s.call != nil {
		panic(fmt.Sprintf("device: the request of operation %#x is ended as if it were none", uint64(id)))
	}
	s.buf.Release()
	*s = slot{}
	d.used--
}

// end ends one piece of a request; with the last one the request is answered. Caller holds mu.
func (d *Device) end(t *turn, id replication.ID, err error, drop bool) {
	s := d.find(id)
	if s == nil || s.call == nil {
		panic(fmt.Sprintf("device: answer to operation %#x, which is no request", uint64(id)))
	}
	c := s.call
	*s = slot{}
	d.used--
	d.endPiece(t, c, err, drop)
}

// endEarly ends one piece of a request as far as its client is concerned. The operation goes on: its
// payload, which may yet be sent again, is the slot's own from now on. Caller holds mu.
func (d *Device) endEarly(t *turn, id replication.ID, err error) {
	s := d.find(id)
	if s == nil || s.call == nil {
		panic(fmt.Sprintf("device: early answer to operation %#x, which is no request", uint64(id)))
	}
	c := s.call
	s.call = nil
	if s.buf != nil {
		s.buf.Retain()
	}
	d.endPiece(t, c, err, false)
}

func (d *Device) endPiece(t *turn, c *call, err error, drop bool) {
	c.left--
	c.drop = c.drop || drop
	if c.err == nil {
		c.err = err
	}
	if c.left == 0 {
		d.answer(t, c)
	}
}

// answer gives c back to where it came from. Caller holds mu.
func (d *Device) answer(t *turn, c *call) {
	t.flushLater(c.conn)
	d.window.release(c.cost)
	if c.drop {
		c.ans.Reply(nbd.ErrDrop)
	} else {
		c.ans.Reply(c.err)
	}
	d.recycle(c)
}

// newCall returns a call with nothing set. Caller holds no lock.
func (d *Device) newCall() *call { return d.calls.Get().(*call) }

func (d *Device) recycle(c *call) {
	c.unpack()
	c.scratch.Release()
	*c = call{packs: c.packs}
	d.calls.Put(c)
}
