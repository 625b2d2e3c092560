package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// Hello returns what this replica says when a session with p begins.
func (r *Resource) Hello(p Peer) wire.Hello {
	return wire.Hello{
		Resource: r.cfg.Resource, ResourceID: r.cfg.ResourceID, Node: r.cfg.Node,
		Instance: r.cfg.Instance, Boot: r.cfg.Boot, Process: r.cfg.Process,
		Epoch: r.meta.Epoch, Lineage: r.meta.Lineage, Size: r.meta.Size,
		State: r.meta.State.String(), Unclean: r.meta.Unclean,
		LastID: r.meta.PeerSession[p], PendingID: r.meta.PeerPending[p], Stamp: r.stamp,
	}
}

// sessionUp takes a new session in. On a primary it is led as soon as that is possible; on a
// secondary it waits for the other side to lead.
func (r *Resource) sessionUp(p *peer, ev *Event) {
	if p.phase != phaseNone {
		panic(fmt.Sprintf("core: session %d with %s begins while session %d lives", ev.Session, p.node, p.session))
	}
	p.phase, p.session, p.hello, p.closing = phaseUp, ev.Session, ev.Hello, false
	p.older = ev.Hello.Stamp < p.stamp
	p.state = ParseDiskState(ev.Hello.State)
	p.heardAt, p.frameAt = r.now, r.now
	r.notice(NoticeConnection, p.node, "connected to %s, disk %s, epoch %d", p.node, p.state, ev.Hello.Epoch)
}

// tryLead offers p, whose session is up, the primary's lead.
func (r *Resource) tryLead(p *peer) {
	if !r.isPrimary() || !r.leading || p.phase != phaseUp || p.closing || r.now < p.retryAt {
		return
	}
	h := p.hello
	if h.Epoch > r.epoch && !planted.On(planted.OldEpochLeads) {
		mark.Hit("lead-of-newer-epoch-refused")
		r.refuse(p, fmt.Sprintf("%s has accepted epoch %d, this primary is of epoch %d", p.node, h.Epoch, r.epoch))
		return
	}
	if h.Size < r.meta.Size {
		r.refuse(p, fmt.Sprintf("%s holds %d bytes, the resource has %d: it must grow first", p.node, h.Size, r.meta.Size))
		return
	}
	astray := !isPrefix(h.Lineage, r.meta.Lineage)
	if astray && p.state != Inconsistent {
		if isPrefix(r.meta.Lineage, h.Lineage) {
			p.retryAt = r.now + r.cfg.DropGrace // our copy of the ledger lags behind
			return
		}
		mark.Hit("diverged")
		p.state, p.theirs = Diverged, h.Lineage
		p.retryAt = r.now + r.cfg.PeerTimeout
		r.refuseDiverged(p, fmt.Sprintf("%s holds writes of a history that is not this one's: diverged; nothing is merged", p.node))
		return
	}
	p.theirs = nil
	if p.state == Inconsistent && (len(h.Lineage) == 0 || astray) {
		// New, or it gave its data up, or a resync from another history left it without a state that
		// anybody could want: copy everything.
		p.dirty.Mark(wholeDevice(r.meta.Size))
		p.coarse.Reset()
	}
	// The report of p adds nothing when everything p may hold since its last full report came
	// from this process in this epoch. After another boot its data may be those of a copy that was
	// made within that session: then its activity log names what the copy lacks, see wentBack.
	sameBoot := p.heldBy == h.Boot || planted.On(planted.KeptByAnyBoot)
	p.continued = p.chain != 0 && p.chain == h.LastID && p.chainEpoch == r.epoch && sameBoot && !p.wentBack()
	if !p.continued {
		r.checkRestored(p)
	}
	p.phase = phaseOffering
	if r.meta.PeerPending[p.idx] == 0 {
		r.meta.PeerPending[p.idx] = r.cfg.NewID()
	}
	session := p.session
	r.saveMeta(func() {
		if p.phase == phaseOffering && p.session == session && r.isPrimary() {
			r.sendLead(p)
		}
	})
}

func (r *Resource) sendLead(p *peer) {
	p.phase, p.heardAt = phaseLeading, r.now // two secondaries have nothing to say to each other
	p.wireID = r.meta.PeerPending[p.idx]
	key := make([]byte, 0, 32)
	for range 4 {
		key = binary.BigEndian.AppendUint64(key, r.cfg.NewID())
	}
	if planted.On(planted.WeakHashSkips) {
		clear(key)
	}
	copy(p.hashKey[:], key)
	var outside []string
	for _, q := range r.peers {
		// Whose Drop is under way may be outside by now: what an earlier session handed over for it has
		// to be kept up in this one, too (rule 11).
		dropping := q.dropAsked && q != p && !planted.On(planted.LeadForgetsDrops)
		if !q.inSet || dropping {
			outside = append(outside, q.node)
		}
	}
	r.send(p, wire.Frame{Type: wire.Lead, Msg: &wire.Message{Version: r.meta.Version, Lineage: r.meta.Lineage, HashKey: key, SessionID: p.wireID, Outside: outside}}, 0)
}

// followed takes p's answer to Lead: from now on p gets every write.
func (r *Resource) followed(p *peer, m *wire.Message) {
	p.phase, p.heldBy = phaseFollowing, p.hello.Boot
	p.state = ParseDiskState(m.State)
	r.meta.PeerSession[p.idx], r.meta.PeerPending[p.idx] = p.wireID, 0
	p.chain, p.chainEpoch = p.wireID, r.epoch
	p.hello.LastID = p.wireID // it stored it before it answered
	kept := m.Kept && p.instance == p.hello.Instance || planted.On(planted.KeptByAnyBoot)
	if !kept && !planted.On(planted.UnstableDropped) {
		mark.Hit("unstable-lost")
		p.lost()
	} else { // its clean fdatasync covers everything it ever acknowledged
		p.endTracking()
		p.unstable.Reset()
	}
	if !p.dirty.Empty() {
		p.needSettle = true
	}
	p.inflight.reset()
	p.acked, p.sent, p.joinFlush, p.sync = 0, 0, 0, syncIdle
	p.cursor, p.copies, p.copying, p.joinAsked = 0, nil, 0, p.joinAsked && !p.inSet
	p.handed, p.handing = 0, nil
	p.progressAt = r.now
	r.saveMeta(nil)
	r.resend(p)
	r.beaconTo(p)
	r.readmit = true
	r.notice(NoticeConnection, p.node, "%s follows in epoch %d, disk %s", p.node, r.epoch, p.state)
}

// resend sends again what p has to acknowledge and may have missed, in the old order. That is no
// resync: p stays in the set throughout (rule 12).
func (r *Resource) resend(p *peer) {
	for i := r.started.head; i >= 0; i = r.ops[i].next {
		if r.ops[i].need&p.bit() != 0 {
			r.sendWrite(p, i)
		}
	}
	if len(r.flush.running) > 0 {
		if _, o := r.find(r.flush.running[0]); o.need&p.bit() != 0 {
			r.sendFlush(p, r.flush.seq)
		}
	}
}

// sessionDown takes the end of a session.
func (r *Resource) sessionDown(p *peer, ev *Event) {
	if p.session != ev.Session || p.phase == phaseNone {
		panic(fmt.Sprintf("core: session %d with %s ended, session %d is current", ev.Session, p.node, p.session))
	}
	was := p.phase
	p.heldThrough, p.brokeAt = r.holds(p), r.now
	r.endLeading(p)
	p.phase, p.session, p.hello = phaseNone, 0, nil
	if r.leader == p.idx || (r.offer != nil && r.offer.peer == p.idx) {
		r.endFollowing()
	}
	if was != phaseUp || ev.Err != nil {
		r.notice(NoticeConnection, p.node, "connection to %s lost: %v", p.node, ev.Err)
	}
}

// endLeading takes p's session apart as far as this side led it.
func (r *Resource) endLeading(p *peer) {
	if p.phase != phaseFollowing {
		if p.phase != phaseNone {
			p.phase = phaseUp
		}
		return
	}
	p.phase, p.lostAt = phaseUp, r.now
	for _, f := range p.inflight.items() {
		_, o := r.find(f.id)
		if o != nil && o.kind == opWrite && o.need&p.bit() != 0 {
			continue // sent again, or marked when p is dropped
		}
		if o != nil && o.kind == opCopy && planted.On(planted.BitClearedOnSend) {
			continue
		}
		if !planted.On(planted.InFlightForgotten) {
			p.mark(f.ext)
		}
	}
	p.inflight.reset()
	r.readmit = true // requests may have waited for its window
	p.endTracking()
	if planted.On(planted.UnstableDropped) {
		p.unstable.Reset()
	}
	r.endCopies(p)
	p.leaseUntil, p.confirmedAt = 0, 0
	if p.counts && !p.inSet && (!p.joinAsked || planted.On(planted.UnknownNarrow)) {
		r.discount(p) // nobody can record it any more: no Join was proposed
	}
}

// discount stops waiting for p: it is not in the set, and cannot come into it without us.
func (r *Resource) discount(p *peer) {
	p.counts = false
	for i := r.started.head; i >= 0; {
		next := r.ops[i].next
		if o := &r.ops[i]; o.need&p.bit() != 0 {
			o.need &^= p.bit()
			p.mark(o.ext)
			r.finish(i)
		}
		i = next
	}
	if len(r.flush.running) > 0 {
		if _, o := r.find(r.flush.running[0]); o != nil {
			o.need &^= p.bit()
			r.finishFlush()
		}
	}
	r.readmit, r.regate = true, true
}

// frame takes a frame in, whichever side leads the session.
func (r *Resource) frame(p *peer, ev *Event) {
	f := ev.Frame
	old := p.session != ev.Session && !planted.On(planted.OldSessionFrame)
	if old || p.phase == phaseNone || p.closing {
		r.dropFrame(ev) // of a session that has ended, or is about to (rule 8)
		return
	}
	p.heardAt, p.frameAt = r.now, r.now
	if f.Epoch > 0 && f.Epoch < r.meta.Epoch {
		mark.Hit("frame-of-old-epoch")
	}
	var err error
	switch f.Type {
	case wire.Refuse:
		r.notice(NoticeRefused, p.node, "%s refuses: %s", p.node, reason(f.Msg))
		p.retryAt = r.now + r.cfg.PeerTimeout/4
		r.refusedBy(p, f.Msg)
		r.closeSession(p, "the peer refused: "+reason(f.Msg))
	case wire.Follow, wire.Bits, wire.Ack, wire.FlushAck, wire.BeaconAck, wire.ResyncReady, wire.HashReply, wire.JoinReady, wire.HandoverDone, wire.Failed:
		err = r.fromFollower(p, ev)
	default:
		err = r.fromLeader(p, ev)
	}
	if err != nil {
		r.dropFrame(ev)
		if planted.On(planted.BadFrameSkipped) {
			return
		}
		mark.Hit("frame-refused")
		r.closeSession(p, err.Error())
	}
}

// dropFrame ends the ID of a frame that is not used.
func (r *Resource) dropFrame(ev *Event) {
	if ev.ID == 0 {
		return
	}
	i := int32(ev.ID.Index())
	if r.id(i) == ev.ID && r.ops[i].kind == opNew {
		r.emit(Action{Kind: ActFree, ID: ev.ID})
		r.release(i)
	}
}

var errOldEpoch = errors.New("frame of another epoch")

// fromFollower takes a frame of a peer that this primary leads.
func (r *Resource) fromFollower(p *peer, ev *Event) error {
	f := ev.Frame
	switch f.Type {
	case wire.Ack, wire.FlushAck, wire.BeaconAck:
		if p.session == ev.Session {
			p.stamp = max(p.stamp, f.Arg)
		}
	}
	if !r.isPrimary() && r.role != roleStopped {
		r.dropFrame(ev) // it may still be on its way after a step down
		return nil
	}
	if f.Epoch != r.epoch {
		return errOldEpoch
	}
	if p.phase == phaseLeading {
		switch {
		case f.Type == wire.Bits && f.Msg != nil:
			return r.reported(p, f.Msg)
		case f.Type == wire.Follow && f.Msg != nil:
			r.followed(p, f.Msg)
			return nil
		}
	}
	if p.phase != phaseFollowing {
		return fmt.Errorf("%s frame in a session that is %s", f.Type, p.phase)
	}
	switch f.Type {
	case wire.Ack:
		return r.ack(p, f.Seq)
	case wire.FlushAck:
		r.flushAck(p, f.Seq)
	case wire.BeaconAck:
		r.beaconAck(p, f.Seq)
		if planted.On(planted.ResyncDoneLost) {
			r.joinReady(p, p.joinSeq)
		}
	case wire.ResyncReady:
		r.resyncReady(p)
	case wire.JoinReady:
		r.joinReady(p, f.Seq)
	case wire.HandoverDone:
		r.handoverDone(p, f.Seq)
	case wire.HashReply:
		return r.hashReply(p, ev)
	case wire.Failed:
		r.peerFailed(p, f)
	default:
		return fmt.Errorf("%s frame out of place", f.Type)
	}
	return nil
}

// reported takes the blocks that p knows to differ or suspects (rule 6).
func (r *Resource) reported(p *peer, m *wire.Message) error {
	if p.continued {
		return nil
	}
	theirs := bitmap.New(r.meta.Size)
	if err := theirs.MarkRuns(m.Runs); err != nil {
		return fmt.Errorf("blocks reported by %s: %w", p.node, err)
	}
	if m.Coarse {
		theirs.AndNot(p.dirty) // what is known to differ needs no comparison
		p.coarse.Or(theirs)
	} else {
		p.coarse.AndNot(theirs)
	}
	p.dirty.Or(theirs)
	return nil
}

// ack takes a cumulative acknowledgement.
func (r *Resource) ack(p *peer, seq uint64) error {
	if seq < p.acked || seq > p.sent {
		return fmt.Errorf("acknowledgement of %d outside %d..%d", seq, p.acked, p.sent)
	}
	p.acked, p.progressAt = seq, r.now
	throttled := p.inflight.bytes > r.cfg.Window
	for p.inflight.len() > 0 && p.inflight.front().seq <= seq {
		f := p.inflight.pop()
		i, o := r.find(f.id)
		if o != nil && o.kind == opCopy {
			r.copied(p, i)
			continue
		}
		if !f.fua {
			p.unstable.Mark(f.ext)
		}
		if o != nil && o.need&p.bit() != 0 {
			o.need &^= p.bit()
			r.finish(i)
		}
	}
	if throttled && p.inflight.bytes <= r.cfg.Window {
		r.readmit = true
	}
	return nil
}

// peerFailed takes the report that p could not apply a frame. It cannot stay in the set; its
// blocks are dirty, and it is tried again later when its disk is merely full.
func (r *Resource) peerFailed(p *peer, f *wire.Frame) {
	errno := syscall.Errno(f.Arg)
	p.mustDrop, p.why = p.inSet, fmt.Sprintf("a write failed there: %v", errno)
	p.retryAt = r.now + 2*r.cfg.PeerTimeout
	if errno != syscall.ENOSPC && errno != syscall.EDQUOT {
		p.state = Failed
	}
	r.notice(NoticeError, p.node, "write on %s failed: %v", p.node, errno)
	r.closeSession(p, fmt.Sprintf("a write failed there: %v", errno))
}

// closeSession asks for the end of p's session; sessionDown follows.
func (r *Resource) closeSession(p *peer, why string) {
	if p.closing || p.phase == phaseNone {
		return
	}
	p.closing = true
	r.emit(Action{Kind: ActCloseSession, Peer: p.idx, Session: p.session, Reason: why})
}
