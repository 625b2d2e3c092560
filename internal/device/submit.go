package device

import (
	"fmt"
	"syscall"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
)

// door is the nbd.Backend of the connections that were accepted while this replica served, until
// it has clients closed (rule 15: a connection is bound to the epoch that accepted it). The requests
// of a client that says who it is carry that: the core knows which session may still bring some.
type door struct {
	d      *Device
	n      uint64 // Device.doors when it was opened
	client replication.ClientID
	number uint64 // of the session
}

// Backend returns what serves the connections that are accepted now; false when this replica
// does not serve, or has been frozen for so long that it takes no connections (Status.Closed). Ask anew for each connection: once the role is lost it drops what it gets.
func (d *Device) Backend() (nbd.Backend, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut || !d.core.TakesClients() {
		return nil, false
	}
	return &door{d: d, n: d.doors}, true
}

// Submit takes requests in. It waits while the window is full.
func (o *door) Submit(batch []*nbd.Request) {
	t := o.d.begin(true)
	t.calls = t.calls[:0]
	for _, r := range batch {
		if c := o.d.callOf(r); c != nil {
			t.calls = append(t.calls, c)
		}
	}
	o.d.submit(t, o, t.calls)
	clear(t.calls)
	t.finish()
}

// callOf returns the call for r, or answers r when there is nothing to be done for it.
func (d *Device) callOf(r *nbd.Request) *call {
	c := d.newCall()
	c.ans, c.conn = r, r.Conn()
	c.ext = bitmap.Extent{Off: r.Off, Len: r.Len}
	c.buf = r.Buf
	if r.Flags&nbd.FlagFUA != 0 {
		c.flags |= replication.FlagFUA
	}
	if r.Flags&nbd.FlagPunch != 0 {
		c.flags |= replication.FlagPunch
	}
	switch r.Op {
	case nbd.OpRead:
		c.op, c.flags = replication.OpRead, 0
	case nbd.OpWrite:
		c.op = replication.OpWrite
	case nbd.OpWriteZeroes:
		c.op = replication.OpWriteZeroes
		if r.Flags&nbd.FlagFastZero != 0 {
			d.refuse(c, syscall.EOPNOTSUPP) // no promise is made that zeroing is fast
			return nil
		}
	case nbd.OpTrim:
		c.op = replication.OpTrim
	case nbd.OpFlush:
		c.op, c.ext, c.flags = replication.OpFlush, bitmap.Extent{}, 0
	case nbd.OpCache:
		// A read whose bytes go nowhere leaves the range in the page cache. What is larger than a
		// buffer is only advice that is not taken; the request is judged all the same.
		c.op, c.flags = replication.OpRead, 0
		if c.ext.Len > buf.MaxLen {
			c.ext.Len = 0
		}
		c.scratch = buf.Get(int(c.ext.Len))
		c.buf = c.scratch
	default:
		d.refuse(c, syscall.EINVAL)
		return nil
	}
	c.cost = d.window.cost(c.payloadLen())
	return c
}

// payloadLen is the bytes that c holds in memory.
func (c *call) payloadLen() int64 {
	if c.op == replication.OpRead || c.op == replication.OpWrite {
		return c.ext.Len
	}
	return 0
}

// refuse answers a call that never entered the window.
func (d *Device) refuse(c *call, err error) {
	c.ans.Reply(err)
	d.recycle(c)
}

// submit takes calls of one connection into the window and to the core, as many at a time as
// there is room for. Those before the one that has to wait are on their way while it waits:
// otherwise they would hold the room that it waits for.
func (d *Device) submit(t *turn, from *door, calls []*call) {
	for len(calls) > 0 {
		n := 1
		if !d.window.tryAcquire(calls[0].cost) {
			t.settle()
			if !d.window.acquire(calls[0].cost) {
				for _, c := range calls { // all of one connection, which is being closed
					d.refuse(c, nbd.ErrDrop)
				}
				return
			}
		}
		for n < len(calls) && d.window.tryAcquire(calls[n].cost) {
			n++
		}
		for _, c := range calls[:n] {
			d.prepare(c)
		}
		t.admit(from, calls[:n])
		calls = calls[n:]
	}
}

// admit gives the core calls that are in the window.
func (t *turn) admit(from *door, calls []*call) {
	d := t.d
	t.lock()
	for _, c := range calls {
		if d.shut || from.n != d.doors && !planted.On(planted.ConnectionOutlivesEpoch) {
			d.endUnasked(t, c)
			continue
		}
		t.request(from, c)
	}
	t.unlock()
}

// endUnasked drops a call that the core has not heard of. Caller holds mu.
func (d *Device) endUnasked(t *turn, c *call) {
	c.drop = true
	d.answer(t, c)
}

// request gives the core one call, piece by piece. Caller holds mu.
func (t *turn) request(from *door, c *call) {
	d := t.d
	limit := pieceLimit(c.op)
	rest, op, flags, mem := c.ext, c.op, c.flags, c.buf
	start := rest.Off
	c.left = pieces(rest, limit)
	for n := c.left; n > 0; n-- { // c itself may be gone after the last piece
		e := piece(rest, limit)
		id := d.core.NewID()
		s := d.slot(id)
		s.call = c
		if mem != nil {
			at := e.Off - start
			s.buf, s.b = mem, mem.B[at:at+e.Len]
		}
		rest.Off, rest.Len = rest.Off+e.Len, rest.Len-e.Len
		ev := t.event(replication.EvRequest)
		ev.ID, ev.Op, ev.Flags, ev.Ext = id, op, flags, e
		if !planted.On(planted.SessionUnnamed) {
			ev.Client, ev.Number = from.client, from.number
		}
		t.step()
	}
	if rest.Len != 0 {
		panic(fmt.Sprintf("device: %d bytes of a request are in no piece", rest.Len))
	}
}
