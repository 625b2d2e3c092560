package sim

import (
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication"
)

// client is one user of the device: it keeps a few requests out, on a connection to whoever serves.
//
// A kernel-like client sends what is unfinished again after a reconnect, in a numbered session, and
// waits for as long as it takes. Any other client gives up what its connection took with it, and
// does not know what became of it.
type client struct {
	w      *World
	index  int
	id     replication.ClientID // 0: it does not say who it is
	number uint64               // of its newest session
	conn   *conn
	out    []*request // unanswered, in the order in which they were asked
	asleep bool       // a wake-up is scheduled
	stop   bool
}

// request is one operation of a client.
type request struct {
	c     *client
	op    replication.Op
	flags replication.OpFlags
	ext   bitmap.Extent
	value uint64
	hist  OpID
	done  bool
	sent  int  // how often
	begun bool // a server did something for it

	answer // once there is one
}

// call is a request as one connection brought it to a server.
type call struct {
	conn *conn
	req  *request
}

// conn is one connection of a client. Either end may believe it to be open when the other does not.
type conn struct {
	c        *client
	p        *Proc
	door     int
	id       replication.ClientID
	number   uint64
	admitted bool
	opened   bool          // at the server
	closed   bool          // at the server
	gone     bool          // at the client
	stalled  time.Duration // what the client sent on it is held up until then
}

// wake lets the client look for something to do.
func (c *client) wake(d time.Duration) {
	if c.asleep {
		return
	}
	c.asleep = true
	c.w.after(d, func() {
		c.asleep = false
		c.act()
	})
}

// act connects, or asks for something new.
func (c *client) act() {
	w := c.w
	if c.conn == nil || c.conn.gone {
		if !c.stop || len(c.out) > 0 {
			c.dial()
		}
		return
	}
	if !c.conn.admitted {
		return
	}
	if c.stop {
		return
	}
	if len(c.out) < w.Config.Depth {
		c.ask(c.draw())
	}
	c.wake(time.Duration(w.load.Int64N(int64(8 * time.Millisecond))))
}

// dial opens a connection to a host that serves, if one can be found.
func (c *client) dial() {
	w := c.w
	c.wake(time.Duration(5+w.load.IntN(40)) * time.Millisecond)
	for i := range w.hosts {
		p := w.hosts[(i+c.index)%len(w.hosts)].proc
		if p == nil || p.core == nil || p.paused || !p.core.TakesClients() || w.clientCut(c, p.h) {
			continue
		}
		if c.id != 0 {
			c.number++
		}
		n := &conn{c: c, p: p, id: c.id, number: c.number}
		c.conn = n
		p.into(w.latency(), func() { n.open() })
		w.after(2*time.Second, func() { // a connection that does not come about is given up
			if c.conn == n && !n.admitted && !n.gone {
				n.gone = true
				c.wake(0)
			}
		})
		return
	}
}

// clientCut reports whether clients cannot reach h now.
func (w *World) clientCut(_ *client, h *Host) bool { return w.cuts[clientTraffic][h.index][h.index] }

// open is the server's side of a new connection.
func (n *conn) open() {
	p := n.p
	if !p.core.TakesClients() {
		n.serverClosed(p.w)
		return
	}
	n.opened, n.door = true, p.doors
	p.conns = append(p.conns, n)
	if n.id == 0 {
		n.admit()
		return
	}
	p.step(&replication.Event{Kind: replication.EvClient, Client: n.id, Number: n.number})
}

func (n *conn) admit() {
	if n.closed {
		return
	}
	w := n.p.w
	w.after(w.latency(), func() {
		if n.gone || n.c.conn != n {
			return
		}
		n.admitted = true
		for _, r := range slices.Clone(n.c.out) { // what is unfinished goes again, in the old order
			w.stats.Resends++
			n.send(r)
		}
		n.c.wake(0)
	})
}

// admitClient carries out the core's word on a client's session.
func (p *Proc) admitClient(a *replication.Action) {
	for _, n := range p.conns {
		if n.id != a.Client || n.number != a.Number {
			continue
		}
		if a.Kind == replication.ActAdmitClient {
			n.admit()
		} else {
			n.serverClosed(p.w)
		}
	}
}

// closeClients ends those connections that match, without an answer.
func (p *Proc) closeClients(match func(*conn) bool) {
	rest := p.conns[:0:0]
	for _, n := range p.conns {
		if match(n) {
			n.serverClosed(p.w)
		} else {
			rest = append(rest, n)
		}
	}
	if len(rest) == 0 {
		p.doors++
	}
	p.conns = rest
}

// serverClosed: the server has closed the connection; its client finds out.
func (n *conn) serverClosed(w *World) {
	if n.closed {
		return
	}
	n.closed = true
	d := w.latency()
	if w.clientCut(n.c, n.p.h) || !n.p.h.up {
		d += time.Second
	}
	w.after(d, func() { n.lost() })
}

// lost: the client knows that its connection is gone.
func (n *conn) lost() {
	if n.gone {
		return
	}
	n.gone = true
	c := n.c
	if c.conn != n {
		return
	}
	if c.id == 0 {
		for _, r := range c.out {
			r.done = true
			c.w.report(c.w.history.Failed(r.hist, MayLand, c.w.now))
		}
		c.out = nil
	}
	c.wake(time.Duration(c.w.load.IntN(20)) * time.Millisecond)
}

// ask sends a new request.
func (c *client) ask(r *request) {
	w := c.w
	kind := OpRead
	switch r.op {
	case replication.OpWrite:
		kind = OpWrite
		r.value = w.nextValue(r.ext)
	case replication.OpWriteZeroes, replication.OpTrim:
		kind = OpZero
	case replication.OpFlush:
		kind = OpFlush
	}
	r.hist = w.history.Begin(kind, r.ext, r.value, r.flags&replication.FlagFUA != 0, w.now)
	if w.log.Verbose() {
		w.log.Addf(w.now, colClients, kindClient, "c%d asks %v %v value %d", c.index, kind, r.ext, r.value)
	}
	c.out = append(c.out, r)
	c.conn.send(r)
}

// send puts a request on its way to the server.
func (n *conn) send(r *request) {
	w := n.p.w
	r.sent++
	d := w.latency()
	if n.stalled > w.now {
		d += n.stalled - w.now
	}
	n.p.into(d, func() { n.arrive(r) })
}

// arrive gives a request to the core.
func (n *conn) arrive(r *request) {
	p := n.p
	if n.closed || !n.opened || n.door != p.doors {
		return
	}
	id := p.core.NewID()
	s := p.slot(id)
	s.call = call{conn: n, req: r}
	if r.op != replication.OpRead {
		w := p.w
		w.written += r.ext.RoundOut(bitmap.BlockSize).Len
	}
	if r.op == replication.OpWrite {
		s.vals = repeatValue(r.value, int(r.ext.Len/SectorSize))
	}
	p.step(&replication.Event{Kind: replication.EvRequest, ID: id, Op: r.op, Flags: r.flags, Ext: r.ext, Client: n.id, Number: n.number})
}

func repeatValue(v uint64, n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// draw draws a request of the workload.
func (c *client) draw() *request {
	w, cfg := c.w, &c.w.Config
	block := w.blockAt(w.load.IntN(cfg.Blocks))
	n := int64(1 + w.load.IntN(3))
	r := &request{c: c, ext: bitmap.Extent{Off: block * bitmap.BlockSize, Len: n * bitmap.BlockSize}}
	if cfg.SubBlock {
		first := w.load.Int64N(blockSectors)
		r.ext = bitmap.Extent{Off: block*bitmap.BlockSize + first*SectorSize, Len: SectorSize * (1 + w.load.Int64N(blockSectors-first))}
	}
	r.ext = r.ext.Clip(DeviceSize)
	switch x := w.load.IntN(100); {
	case x < cfg.Flushes:
		r.op, r.ext = replication.OpFlush, bitmap.Extent{}
	case x < cfg.Flushes+35:
		r.op = replication.OpRead
	default:
		c.drawWrite(r)
		if cfg.Kernel && w.writing(r.ext) {
			r.op, r.flags = replication.OpRead, 0
			r.ext.Len = min(r.ext.Len, 3*bitmap.BlockSize)
		}
	}
	return r
}

// writing reports whether a write of ext, or of a part of it, is unanswered. Who sends again what is
// unanswered does not write the same place twice at a time: page locks see to that in one kernel, the
// locks of a cluster file system between several. A copy of an answered write would undo the newer.
func (w *World) writing(ext bitmap.Extent) bool {
	for _, c := range w.clients {
		for _, r := range c.out {
			if r.op != replication.OpRead && r.ext.Overlaps(ext) {
				return true
			}
		}
	}
	return false
}

func (c *client) drawWrite(r *request) {
	w, cfg := c.w, &c.w.Config
	r.op = replication.OpWrite
	if w.load.IntN(100) < cfg.FUA {
		r.flags |= replication.FlagFUA
	}
	if w.load.IntN(100) >= cfg.Trims {
		return
	}
	r.op = replication.OpTrim
	if w.load.IntN(2) == 0 {
		r.op = replication.OpWriteZeroes
		if w.load.IntN(2) == 0 {
			r.flags |= replication.FlagPunch
		}
	}
	if w.load.IntN(4) == 0 { // a large one, over many regions
		first := w.load.Int64N(9)
		r.ext = bitmap.Extent{Off: first * bitmap.RegionSize, Len: bitmap.RegionSize * (1 + w.load.Int64N(4))}.Clip(DeviceSize)
	}
}

// blockAt returns the i-th block that clients touch: some side by side, some in regions of their
// own, so that both overlaps and the activity log have work.
func (w *World) blockAt(i int) int64 {
	const perRegion = bitmap.RegionSize / bitmap.BlockSize
	if i%2 == 0 {
		return int64(i / 2)
	}
	return int64(i%12)*perRegion + int64(i/12)*3
}

// reply takes an answer of the core back to the client.
func (p *Proc) reply(a *replication.Action) {
	w := p.w
	s := p.slot(a.ID)
	call, vals := s.call, s.vals
	s.call.req = nil
	if a.Kind == replication.ActReply { // otherwise the payload stays
		*s = slot{}
	}
	if call.req == nil {
		w.fail("%s answers %#x twice or unasked", p.h.name, uint64(a.ID))
		return
	}
	n, r := call.conn, call.req
	if a.Err == nil {
		w.checkAnswer(p, r)
	}
	if n.closed {
		return
	}
	err := a.Err
	excused := err != nil && p.mayErr()
	w.after(w.latency(), func() {
		if n.gone || n.c.conn != n || r.done {
			return
		}
		r.done, r.excused = true, excused
		n.c.out = slices.DeleteFunc(n.c.out, func(o *request) bool { return o == r })
		w.answered(n.p, r, vals, err)
		n.c.wake(0)
	})
}

// answered takes an answer into the history.
func (w *World) answered(p *Proc, r *request, vals []uint64, err error) {
	r.answer = answer{answered: true, vals: vals, err: err, excused: r.excused}
	if err != nil {
		if w.log.Verbose() {
			w.log.Addf(w.now, colClients, kindClient, "c%d gets an error for value %d: %v", r.c.index, r.value, err)
		}
		w.judgeError(p, r, err)
		outcome := MayHave
		if r.sent == 1 && !r.begun {
			outcome = NotDone
		}
		w.report(w.history.Failed(r.hist, outcome, w.now))
		return
	}
	if v := w.ops[r.value]; v != nil && r.op == replication.OpWrite && v.acked == 0 {
		w.seq++
		v.acked, v.seqAcked = w.now, w.seq
	}
	if r.op == replication.OpRead {
		w.stats.Reads++
	} else {
		w.stats.Acked++
	}
	if w.log.Verbose() {
		w.log.Addf(w.now, colClients, kindClient, "c%d is answered: op %d of %v value %d", r.c.index, r.op, r.ext, r.value)
	}
	w.report(w.history.Done(r.hist, p.h.name, vals, w.now))
}

// report takes a verdict of the history.
func (w *World) report(err error) {
	if err != nil {
		w.fail("%v", err)
	}
}
