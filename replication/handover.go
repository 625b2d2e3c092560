package replication

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// This file keeps rule 11's second half: every member holds, for every replica outside the set, a
// bitmap of at least the blocks that one lacks. So whichever member is promoted next can resync
// the replica without comparing all of it.
//
// The invariant is kept by two moves and one habit:
//
//   - before a Drop, the bitmap of each replica that leaves (dirty, unstable, in flight) is handed
//     to every member that stays, and is durable there before the Drop is proposed;
//   - before a Join, the joiner is handed the bitmap of every replica that is outside;
//   - a member marks every frame it applies for every replica that it was handed, or that the
//     session's Lead named as outside.
//
// Whose Drop was proposed counts as outside until the record moves on: a Lead names it, and Settled
// does not.
//
// A bit is only ever taken back by Settled, a message of the session: a record of the ledger may
// be applied late, after a newer Drop of the same replica (history 7).
//
// A member that does not answer a Handover holds no Drop up for good: it becomes overdue itself,
// and both leave in one Drop (history 33).

// handover is one bitmap on its way to a peer.
type handover struct {
	seq uint64 // of its last part
	of  Peer
}

// runsPart bounds the coded runs of one frame, in bytes.
const runsPart = 256 << 10

// handOver sends p the bitmap for q. From that frame on p marks what it applies for q.
func (r *Resource) handOver(p, q *peer) {
	if p.handed&q.bit() != 0 || slices.ContainsFunc(p.handing, func(h handover) bool { return h.of == q.idx }) {
		return
	}
	mark.Hit("handover")
	all := q.dirty.Clone()
	for _, b := range []*bitmap.Bitmap{q.unstable, q.flushing, r.extra(q)} {
		if b != nil {
			all.Or(b)
		}
	}
	r.seq++
	for next, first := int64(0), true; next >= 0 && (first || !all.Empty()); first = false {
		var runs []byte
		runs, next = all.AppendRuns(nil, next, runsPart)
		m := &wire.Message{Node: q.node, Runs: runs, More: next >= 0}
		r.send(p, wire.Frame{Type: wire.Handover, Seq: r.seq, Msg: m}, 0)
	}
	p.askedAt = r.now
	p.handing = append(p.handing, handover{seq: r.seq, of: q.idx})
}

// handoverDone: p holds what was handed durably.
func (r *Resource) handoverDone(p *peer, seq uint64) {
	p.handing = slices.DeleteFunc(p.handing, func(h handover) bool {
		if h.seq == seq {
			p.handed |= r.peers[h.of].bit()
		}
		return h.seq == seq
	})
}

// handAll hands p, which is about to join, the bitmap of everyone outside.
func (r *Resource) handAll(p *peer) {
	for _, q := range r.peers {
		if q != p && !q.inSet {
			r.handOver(p, q)
		}
	}
}

// handedAll reports whether p, which is about to join, holds the bitmap of everyone outside.
func (r *Resource) handedAll(p *peer) bool {
	if planted.On(planted.JoinerGetsNoBitmaps) {
		return true
	}
	done := true
	for _, q := range r.peers {
		if q == p || q.inSet || p.handed&q.bit() != 0 {
			continue
		}
		done = false
		r.handOver(p, q) // it left the set since, or was handed in an earlier stay
	}
	return done
}

// handedToStaying reports whether each member that stays when leaving go holds the bitmaps of all
// of those; where one does not, it is sent.
func (r *Resource) handedToStaying(leaving []Peer) bool {
	if planted.On(planted.HandoverSkipped) {
		return true
	}
	done := true
	for _, p := range r.peers {
		if !p.inSet || slices.Contains(leaving, p.idx) {
			continue
		}
		if p.phase != phaseFollowing {
			return false // it comes back, or is overdue soon
		}
		for _, l := range leaving {
			q := r.peers[l]
			if p.handed&q.bit() == 0 {
				done = false
				r.handOver(p, q)
			}
		}
	}
	return done
}

// unhand: q has left the set, or is on its way into it. Whatever was handed for it remains handed;
// what q itself was handed in an earlier stay is outdated once it does not get every frame.
func (r *Resource) unhand(q *peer) { q.handed, q.handing = 0, nil }

// settled reports whether p holds what this primary holds, and everything it does not is known. One
// that is about to be dropped is not: nobody would be handed its bitmap again.
func (p *peer) settled() bool {
	dropping := p.dropAsked && !planted.On(planted.DroppedIsSettled)
	return p.inSet && p.phase == phaseFollowing && p.sync == syncIdle && !p.needSettle && p.dirty.Empty() && !dropping
}

// tellSettled tells every member that is equal which other ones are: their bitmaps for each other
// say nothing any more.
func (r *Resource) tellSettled() {
	for _, p := range r.peers {
		if !p.settled() {
			continue
		}
		for _, q := range r.peers {
			if q == p || !q.settled() {
				continue
			}
			// It tracks q no longer, also where it has yet to confirm that it does.
			p.handed &^= q.bit()
			p.handing = slices.DeleteFunc(p.handing, func(h handover) bool { return h.of == q.idx })
			r.send(p, wire.Frame{Type: wire.Settled, Msg: &wire.Message{Node: q.node}}, 0)
		}
	}
}

// takeHandover keeps a bitmap that the primary hands over. It is answered once it is durable.
func (r *Resource) takeHandover(p *peer, f *wire.Frame) error {
	if f.Msg == nil {
		return fmt.Errorf("%s without a message", f.Type)
	}
	idx, ok := r.byNode[f.Msg.Node]
	if !ok || idx == p.idx {
		return fmt.Errorf("%s for %q, which is no third replica", f.Type, f.Msg.Node)
	}
	q := r.peers[idx]
	lacks := bitmap.New(r.meta.Size)
	if err := lacks.MarkRuns(f.Msg.Runs); err != nil {
		return fmt.Errorf("%s for %s: %w", f.Type, q.node, err)
	}
	q.dirty.Or(lacks)
	q.coarse.AndNot(lacks)
	if !slices.Contains(r.outside, idx) {
		r.outside = append(r.outside, idx)
	}
	if f.Msg.More {
		return nil
	}
	seq := f.Seq
	done := func() { r.reply(wire.Frame{Type: wire.HandoverDone, Seq: seq}, 0) }
	if planted.On(planted.HandoverNotDurable) {
		done()
		return nil
	}
	q.unsaved = true
	r.afterSaveFor(p, done)
	return nil
}

// takeSettled: the primary and the named replica are equal, and so is this one.
func (r *Resource) takeSettled(m *wire.Message) {
	if m == nil {
		return
	}
	idx, ok := r.byNode[m.Node]
	if !ok {
		return
	}
	mark.Hit("settled")
	q := r.peers[idx]
	q.dirty.Reset()
	q.coarse.Reset()
	for _, f := range r.received.items() { // not known to be complete there
		q.mark(f.ext)
	}
	r.outside = slices.DeleteFunc(r.outside, func(o Peer) bool { return o == idx })
	r.saveBitmap(q)
}
