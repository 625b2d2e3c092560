package device

import (
	"slices"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// packMin is the length from which on a write's payload is hashed before the mutex is taken, in
// bytes. To hash 4 KiB takes less time than to look whether that was done already; 1 MiB, or any
// compression, under the mutex would hold up every other request.
const packMin = 32 << 10

// pack is one piece of a write, made ready for one session.
type pack struct {
	off     int64 // of the piece on the device, bytes
	session *peer.Session
	body    peer.Packed
}

// prepare makes a write ready for the sessions that are up now. What the core decides later may
// differ; what is not used then is released, and what is missing is made under the mutex. No lock
// is held.
func (d *Device) prepare(c *call) {
	if c.op != replication.OpWrite {
		return
	}
	for _, l := range d.links {
		s := l.live.Load()
		if s == nil || c.ext.Len < packMin && s.Compression() == wire.NoCompression {
			continue
		}
		limit := pieceLimit(c.op)
		for rest := c.ext; rest.Len > 0; {
			e := piece(rest, limit)
			at := e.Off - c.ext.Off
			part := part(c.buf, c.buf.B[at:at+e.Len])
			c.packs = append(c.packs, pack{off: e.Off, session: s, body: s.Pack(wire.Write, part)})
			rest.Off, rest.Len = e.End(), rest.End()-e.End()
		}
	}
}

// part returns a reference to b, which lies in mem, as a buffer of its own: a session sends whole
// buffers, so less than all of mem is copied.
func part(mem *buf.Buf, b []byte) *buf.Buf {
	if len(b) == len(mem.B) {
		return mem.Retain()
	}
	p := buf.Get(len(b))
	copy(p.B, b)
	return p
}

// sendPacked sends a frame whose payload prepare has made ready; false when there is none.
// Caller holds mu.
func (c *call) sendPacked(s session, f *wire.Frame) bool {
	i := slices.IndexFunc(c.packs, func(p pack) bool { return p.off == f.Extent.Off && s == session(p.session) })
	if i < 0 {
		return false
	}
	c.packs[i].session.SendPacked(f, c.packs[i].body)
	c.packs = slices.Delete(c.packs, i, i+1)
	return true
}

// unpack releases what was made ready and not sent.
func (c *call) unpack() {
	for i := range c.packs {
		c.packs[i].body.Release()
	}
	clear(c.packs)
	c.packs = c.packs[:0]
}
