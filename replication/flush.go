package replication

import (
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// flushState runs one flush at a time; those that arrive meanwhile share the next one. A flush
// covers every write that was answered before it was asked for, and the next one begins after
// all of those it serves arrived.
type flushState struct {
	running []ID // the first one carries the local sync and the acknowledgements needed
	next    []ID
	seq     uint64
}

// enterFlush takes flush i in.
func (r *Resource) enterFlush(i int32) {
	r.ops[i].state = opStarted
	if len(r.flush.running) > 0 {
		r.flush.next = append(r.flush.next, r.id(i))
		return
	}
	r.flush.running = append(r.flush.running, r.id(i))
	r.startFlush()
}

// startFlush makes everything acknowledged so far stable here and on every member that counts,
// at the same time.
func (r *Resource) startFlush() {
	i, o := r.find(r.flush.running[0])
	r.seq++
	r.flush.seq = r.seq
	o.seq = r.seq
	for _, p := range r.peers {
		if !p.counts || planted.On(planted.FlushNotForwarded) {
			continue
		}
		o.need |= p.bit()
		if p.phase == phaseFollowing {
			r.sendFlush(p, r.flush.seq)
		}
	}
	r.begin(i, ActLocalSync)
}

// sendFlush sends flush seq to p. What p acknowledged before this moment is stable once it
// answers; what it acknowledges later is not (rule 10).
func (r *Resource) sendFlush(p *peer, seq uint64) {
	if p.flushSeq == 0 {
		p.unstable, p.flushing = p.flushing, p.unstable
		p.flushSeq, p.flushAt = seq, r.now
	}
	p.sent = seq
	r.send(p, wire.Frame{Type: wire.Flush, Seq: seq}, 0)
}

// syncDone takes the end of the local half of the running flush.
func (r *Resource) syncDone(i int32, o *op, err error) {
	if err != nil && planted.On(planted.FsyncRetried) {
		r.begin(i, ActLocalSync)
		return
	}
	if err != nil {
		o.err = err
		r.diskError(err)
	}
	r.finishFlush()
}

// flushAck takes p's answer to flush seq.
func (r *Resource) flushAck(p *peer, seq uint64) {
	if planted.On(planted.FlushCoversLater) {
		p.unstable.Reset()
	}
	if seq == p.flushSeq || planted.On(planted.AnyFlushAckClears) {
		p.flushing.Reset()
		p.flushSeq = 0
	}
	if seq == p.joinFlush {
		p.joinFlush = 0
	}
	if seq == r.flush.seq && len(r.flush.running) > 0 {
		if _, o := r.find(r.flush.running[0]); o != nil {
			o.need &^= p.bit()
		}
		r.finishFlush()
	}
}

// finishFlush answers the running flush when it is stable everywhere, and begins the next.
func (r *Resource) finishFlush() {
	if len(r.flush.running) == 0 {
		return
	}
	_, o := r.find(r.flush.running[0])
	if o.local || o.need != 0 {
		return
	}
	done, err := r.flush.running, o.err
	r.flush.running, r.flush.next = r.flush.next, done[:0]
	for _, id := range done {
		i, _ := r.find(id)
		if err != nil {
			r.diskAnswer(i, err)
		} else {
			r.answer(i, nil)
		}
	}
	r.flush.seq = 0
	if len(r.flush.running) > 0 {
		r.startFlush()
	}
}
