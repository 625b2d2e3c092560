package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// traffic is a kind of traffic that can be cut by itself.
type traffic uint8

const (
	dataTraffic traffic = iota
	ledgerTraffic
	clientTraffic
	trafficKinds
)

const maxHosts = 4

// cuts says which direction of which pair of hosts lets nothing through. A connection notices
// nothing of a cut: what was sent arrives after it is healed, if the connection lives so long.
type cuts [trafficKinds][maxHosts][maxHosts]bool

func (w *World) isCut(k traffic, from, to int) bool { return w.cuts[k][from][to] }

// cut changes directions and lets what waited go on.
func (w *World) setCut(k traffic, from, to int, on bool) {
	w.cuts[k][from][to] = on
	if !on && k == dataTraffic && from != to {
		if l := w.link(from, to); l != nil && l.sess != nil {
			l.sess.unclog()
		}
	}
}

// link is the place of the one data session that two replicas may have.
type link struct {
	w       *World
	hosts   [2]*Host // the first one dials
	sess    *session
	dialing bool
	off     bool          // an operator disconnected it
	lose    [2]wire.Type  // frames of this type vanish on their way to that end
	corrupt [2]int        // so many of the next frames to that end arrive changed
	clog    time.Duration // every frame takes so much longer
	ids     replication.SessionID
}

func (w *World) link(a, b int) *link {
	if a > b {
		a, b = b, a
	}
	return w.links[[2]int{a, b}]
}

// session is one connection, once its greetings are through.
type session struct {
	l     *link
	id    replication.SessionID
	procs [2]*Proc
	up    [2]bool // the core at that end knows it and has not heard of its end
	over  [2]bool // that end will hear of its end, or has
	queue [2][]packet
	last  [2]time.Duration // arrival of the newest packet to that end
	busy  [2]bool          // a delivery is scheduled
}

// packet is one frame as its bytes travel.
type packet struct {
	bytes []byte // header, and the message if there is one
	vals  []uint64
	due   time.Duration
}

// end returns which end of the link host h is.
func (l *link) end(h *Host) int {
	if l.hosts[0] == h {
		return 0
	}
	return 1
}

// connect lets the dialer try, for as long as the world lives.
func (l *link) connect() {
	w := l.w
	w.after(w.between(20*time.Millisecond, 300*time.Millisecond), l.connect)
	a, b := l.hosts[0].proc, l.hosts[1].proc
	if l.dialing || l.off || a == nil || b == nil || a.core == nil || b.core == nil || a.paused || b.paused {
		return
	}
	if l.sess != nil && (l.sess.up[0] || !l.sess.over[0]) {
		return // the dialer still has its end
	}
	l.dialing = true
	w.after(3*w.latency(), func() { l.greet(a, b) })
}

// greet is the exchange of hellos. Each side judges the other's; a new connection ends the older
// session at the acceptor first.
func (l *link) greet(a, b *Proc) {
	l.dialing = false
	w := l.w
	ia, ib := l.hosts[0].index, l.hosts[1].index
	if a.dead || b.dead || a.paused || b.paused || w.isCut(dataTraffic, ia, ib) || w.isCut(dataTraffic, ib, ia) {
		return
	}
	if s := l.sess; s != nil {
		if s.up[1] {
			s.finish(1, "a new connection replaces it")
		}
		if s.up[0] || s.up[1] {
			return
		}
	}
	hellos := [2]wire.Hello{b.core.Hello(a.peer(b.h)), a.core.Hello(b.peer(a.h))}
	hellos[0], hellos[1] = b.core.Hello(b.peer(a.h)), a.core.Hello(a.peer(b.h))
	for i, p := range [2]*Proc{a, b} {
		if err := p.core.CheckHello(p.peer(l.hosts[1-i]), &hellos[i]); err != nil {
			w.note(p.h, kindNet, "refuses the connection: %v", err)
			return
		}
	}
	l.ids++
	s := &session{l: l, id: l.ids, procs: [2]*Proc{a, b}}
	l.sess = s
	for i := range s.procs {
		h := roundTrip(&hellos[i])
		s.procs[i].into(w.between(0, 2*time.Millisecond), func() { s.begin(i, h) })
	}
}

// roundTrip passes a hello through its encoding.
func roundTrip(h *wire.Hello) *wire.Hello {
	c := *h
	c.Lineage = slices.Clone(h.Lineage)
	return &c
}

// begin tells the core at one end that the session is up.
func (s *session) begin(end int, h *wire.Hello) {
	p := s.procs[end]
	if s.over[end] {
		return
	}
	s.up[end] = true
	p.w.note(p.h, kindNet, "session %d with %s is up", s.id, s.l.hosts[1-end].name)
	p.step(&replication.Event{Kind: replication.EvSessionUp, Peer: p.peer(s.l.hosts[1-end]), Session: s.id, Hello: h})
	s.deliver(end)
}

// peer returns what the core of p calls host h.
func (p *Proc) peer(h *Host) replication.Peer {
	return replication.Peer(slices.Index(p.peers, h.name))
}

// send puts a frame on its way.
func (p *Proc) send(a *replication.Action) {
	to := p.w.hostNamed(p.peers[a.Peer])
	l := p.w.link(p.h.index, to.index)
	s := l.sess
	end := 1 - l.end(p.h)
	if s == nil || s.id != a.Session || s.procs[1-end] != p || s.over[1-end] {
		return // it has ended, and the core is about to hear of that
	}
	if l.lose[end] == a.Frame.Type && a.Frame.Type != 0 {
		return
	}
	pk := packet{due: max(s.last[end], p.w.now+p.w.latency()+l.clog)}
	f := a.Frame
	if f.Type.CarriesMessage() {
		msg, err := wire.EncodeMessage(f.Msg)
		if err != nil {
			p.w.fail("%s sends %s: %v", p.h.name, f.Type, err)
			return
		}
		f.Msg, f.Payload = nil, 0
		pk.bytes = append(wire.AppendHeader(make([]byte, 0, wire.HeaderSize+len(msg)), &f, msg), msg...)
	} else {
		if f.Msg != nil {
			p.w.fail("%s sends %s with a message, which its type does not carry", p.h.name, f.Type)
			return
		}
		pk.bytes = wire.AppendHeaderSum(make([]byte, 0, wire.HeaderSize), &f, int(f.Payload), 0)
		if a.ID != 0 && f.Payload > 0 {
			pk.vals = p.slot(a.ID).vals // replaced there at times, never changed
		}
		if f.Payload > 0 && pk.vals == nil {
			p.w.fail("%s sends %s %v without its payload", p.h.name, f.Type, f.Extent)
			return
		}
	}
	if p.w.log.Verbose() && a.Frame.Type != wire.Beacon && a.Frame.Type != wire.BeaconAck {
		p.w.note(p.h, kindNet, "to %s: %s", to.name, a.Frame.String())
	}
	s.last[end] = pk.due
	s.queue[end] = append(s.queue[end], pk)
	s.deliver(end)
}

// deliver schedules the arrival of the oldest packet to an end.
func (s *session) deliver(end int) {
	if s.busy[end] || len(s.queue[end]) == 0 || !s.up[end] || s.over[end] {
		return
	}
	w := s.l.w
	if w.isCut(dataTraffic, s.l.hosts[1-end].index, s.l.hosts[end].index) {
		return // unclog calls again
	}
	s.busy[end] = true
	s.procs[end].into(s.queue[end][0].due-w.now, func() { s.arrive(end) })
}

func (s *session) unclog() {
	for end := range 2 {
		s.deliver(end)
	}
}

// arrive hands one packet to the core.
func (s *session) arrive(end int) {
	s.busy[end] = false
	w := s.l.w
	if len(s.queue[end]) == 0 || s.over[end] || !s.up[end] {
		return
	}
	if w.isCut(dataTraffic, s.l.hosts[1-end].index, s.l.hosts[end].index) {
		return
	}
	pk := s.queue[end][0]
	s.queue[end] = s.queue[end][1:]
	if c := &s.l.corrupt[end]; *c > 0 {
		*c--
		pk = w.change(pk)
	}
	s.procs[end].receive(s, end, s.id, pk)
	s.deliver(end)
}

// change is what a broken peer or a broken wire makes of a packet: bytes that differ, or an extent
// that lies beyond the device under a checksum that is right.
func (w *World) change(pk packet) packet {
	if w.chance(1, 2) {
		pk.bytes = slices.Clone(pk.bytes)
		pk.bytes[w.net.IntN(len(pk.bytes))] ^= 1 << w.net.IntN(8)
		return pk
	}
	f, sz, err := wire.DecodeHeader(pk.bytes)
	if err == nil && f.Type == wire.Write {
		f.Extent.Off += DeviceSize
		pk.bytes = wire.AppendHeaderSum(nil, &f, int(sz.Wire), sz.Sum)
	}
	return pk
}

// receive decodes a packet and gives it to the core. What does not decode ends the session, as the
// reader of a real one does.
func (p *Proc) receive(s *session, end int, id replication.SessionID, pk packet) {
	f, sz, err := wire.DecodeHeader(pk.bytes)
	if err == nil && f.Type.CarriesMessage() {
		body := pk.bytes[wire.HeaderSize:]
		if err = sz.Verify(body); err == nil {
			f.Msg, err = wire.DecodeMessage(body)
		}
	}
	if err != nil {
		s.finish(end, fmt.Sprintf("a frame does not decode: %v", err))
		return
	}
	ev := &replication.Event{Kind: replication.EvFrame, Peer: p.peer(s.l.hosts[1-end]), Session: id, Frame: &f}
	if replication.NeedsID(f.Type) {
		ev.ID = p.core.NewID()
		p.slot(ev.ID).vals = pk.vals
	}
	p.step(ev)
}

// closeSession is a core's wish to end a session.
func (p *Proc) closeSession(peer int, id replication.SessionID, why string) {
	l := p.w.link(p.h.index, p.w.hostNamed(p.peers[peer]).index)
	if s := l.sess; s != nil && s.id == id {
		s.finish(l.end(p.h), why)
	}
}

// finish ends the session at one end; the other end hears of it unless the way is cut.
func (s *session) finish(end int, why string) {
	if s.over[end] {
		return
	}
	w := s.l.w
	w.note(s.l.hosts[end], kindNet, "session %d ends: %s", s.id, why)
	s.ended(end, why)
	other := 1 - end
	if s.over[other] {
		return
	}
	// A reset overtakes what was sent; an orderly end comes after it.
	d := w.latency()
	if w.chance(1, 2) {
		d = max(d, s.last[other]-w.now+1)
	}
	s.tell(other, d, "the peer closed it")
}

// tell lets an end hear, after d, that the other one is gone. What a cut swallows, the kernel's
// keepalive finds out once the cut is over.
func (s *session) tell(end int, d time.Duration, why string) {
	w := s.l.w
	from, to := s.l.hosts[1-end].index, s.l.hosts[end].index
	var try func()
	try = func() {
		switch {
		case s.over[end]:
		case w.isCut(dataTraffic, from, to) || w.isCut(dataTraffic, to, from):
			w.after(time.Second, try)
		default:
			s.ended(end, why)
		}
	}
	w.after(d, try)
}

// ended tells the core at one end.
func (s *session) ended(end int, why string) {
	if s.over[end] {
		return
	}
	s.over[end] = true
	p := s.procs[end]
	s.keepOld(end)
	p.into(p.w.between(0, time.Millisecond), func() {
		if !s.up[end] {
			return
		}
		s.up[end] = false
		delete(p.w.resyncs, p.h.name+" "+s.l.hosts[1-end].name) // a resync begins anew with the next session
		p.step(&replication.Event{Kind: replication.EvSessionDown, Peer: p.peer(s.l.hosts[1-end]), Session: s.id, Err: fmt.Errorf("%w: %s", errModelCut, why)})
	})
}

// keepOld remembers what was still on its way to an end, for a replay of it in a later session.
func (s *session) keepOld(end int) {
	w := s.l.w
	if !w.Config.OldFrames || len(s.queue[end]) == 0 {
		return
	}
	p := s.procs[end]
	for _, pk := range s.queue[end][:min(len(s.queue[end]), 4)] {
		w.after(w.between(time.Millisecond, 2*time.Second), func() {
			p.run(func() {
				if n := s.l.sess; n != nil && n != s && n.procs[end] == p && n.up[end] && !n.over[end] {
					p.receive(n, end, s.id, pk)
				}
			})
		})
	}
}

// breakLink resets the connection: both ends hear of it, what was on its way is lost.
func (l *link) breakLink(why string) {
	s := l.sess
	if s == nil {
		return
	}
	for end := range 2 {
		keep := l.w.net.IntN(len(s.queue[end]) + 1)
		s.queue[end] = s.queue[end][:keep]
		s.ended(end, why)
	}
}

// procGone ends what a process had: its kernel closes the connections.
func (w *World) procGone(p *Proc) {
	for _, name := range p.peers {
		delete(w.resyncs, p.h.name+" "+name)
	}
	for _, l := range w.sortedLinks() {
		s := l.sess
		if s == nil {
			continue
		}
		for end := range 2 {
			if s.procs[end] == p {
				s.over[end], s.up[end] = true, false
				if l.hosts[end].up { // a host without power resets nothing
					s.over[end] = false
					s.finishGone(end)
				} else {
					l.silence(s, end)
				}
			}
		}
	}
	for _, c := range p.conns {
		c.serverClosed(w)
	}
}

// finishGone lets the other end hear that this end's process is gone.
func (s *session) finishGone(end int) {
	s.over[end] = true
	w, other := s.l.w, 1-end
	s.tell(other, max(w.latency(), s.last[other]-w.now+1), "the peer's process is gone")
}

// silence: nothing is heard from an end any more. When its host is up again it answers with a reset.
func (l *link) silence(s *session, end int) {
	var poll func()
	poll = func() {
		if s.over[1-end] {
			return
		}
		if l.hosts[end].up {
			s.ended(1-end, "the peer's host was restarted")
			return
		}
		l.w.after(300*time.Millisecond, poll)
	}
	l.w.after(300*time.Millisecond, poll)
}

// latency draws how long a message takes.
func (w *World) latency() time.Duration {
	return w.between(20*time.Microsecond, w.Config.SlowNet)
}

func (w *World) hostNamed(name string) *Host {
	for _, h := range w.hosts {
		if h.name == name {
			return h
		}
	}
	panic("sim: no host " + name)
}

// sortedLinks returns the links in a fixed order.
func (w *World) sortedLinks() []*link {
	var out []*link
	for a := range w.hosts {
		for b := a + 1; b < len(w.hosts); b++ {
			if l := w.links[[2]int{a, b}]; l != nil {
				out = append(out, l)
			}
		}
	}
	return out
}
