package replication

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// apply takes a write, from a client or from resync.
func (r *Resource) apply(p *peer, ev *Event) error {
	f := ev.Frame
	switch {
	case f.Extent.Off < 0 || f.Extent.Len <= 0 || f.Extent.End() > r.meta.Size:
		return fmt.Errorf("%s of %s beyond the device's %d bytes", f.Type, f.Extent, r.meta.Size)
	case f.Seq <= r.lastSeq:
		return fmt.Errorf("%s with sequence %d after %d", f.Type, f.Seq, r.lastSeq)
	case f.Extent.Len > MaxZeroes || (f.Payload > 0 && int64(f.Payload) != f.Extent.Len):
		return fmt.Errorf("%s of %s with %d bytes", f.Type, f.Extent, f.Payload)
	}
	var code Op
	switch f.Type {
	case wire.Write, wire.Copy:
		code = OpWrite
		if f.Payload == 0 {
			return fmt.Errorf("%s without its bytes", f.Type)
		}
	case wire.WriteZeroes, wire.CopyZeroes:
		code = OpWriteZeroes
	default:
		code = OpTrim
	}
	if (f.Type == wire.Copy || f.Type == wire.CopyZeroes) && r.meta.State != Inconsistent && !r.member && !r.selfInSet() &&
		!planted.On(planted.TargetStaysUpToDate) {
		return fmt.Errorf("%s into a replica that has not been made a target", f.Type) // rule 12
	}
	r.lastSeq = f.Seq
	i, o := r.claim(ev.ID)
	o.kind, o.code, o.ext, o.seq, o.peer = opApply, code, f.Extent, f.Seq, p.idx
	if f.Flags&wire.FlagFUA != 0 {
		o.flags |= FlagFUA
	}
	if f.Flags&wire.FlagPunch != 0 {
		o.flags |= FlagPunch
	}
	r.received.push(flight{seq: f.Seq, ext: f.Extent})
	if f.Type == wire.Copy || f.Type == wire.CopyZeroes {
		r.copiedHere(p, f.Extent)
	}
	for _, q := range r.outside { // rule 11
		if !planted.On(planted.OutsideNotTracked) {
			r.peers[q].mark(f.Extent)
		}
	}
	r.lock(i)
	return nil
}

// copiedHere notes that the leader changes blocks here alone. Any other replica may hold them as they
// were, and the leader may be gone before it has made that one equal, too: until Settled says so, they
// are suspect (rule 6).
func (r *Resource) copiedHere(leader *peer, ext bitmap.Extent) {
	for _, q := range r.peers {
		if q == leader || planted.On(planted.CopyForgotten) {
			continue
		}
		perhaps := bitmap.New(r.meta.Size)
		perhaps.Mark(ext)
		perhaps.AndNot(q.dirty) // what is known to differ needs no comparison
		q.dirty.Or(perhaps)
		q.coarse.Or(perhaps)
	}
}

func (r *Resource) selfInSet() bool { return r.rec != nil && r.rec.SelfInSet && r.rec.SelfKnown }

func (r *Resource) startApply(i int32) {
	o := &r.ops[i]
	o.state = opStarted
	switch o.code {
	case OpWrite:
		r.begin(i, ActLocalWrite)
	case OpWriteZeroes:
		r.begin(i, ActLocalZeroes)
	default:
		r.begin(i, ActLocalTrim)
	}
}

func (r *Resource) applyDone(i int32, o *op, err error) {
	seq := o.seq
	if err != nil {
		mark.Hit("apply-failed")
		errno := syscall.EIO
		errors.As(err, &errno)
		r.reply(wire.Frame{Type: wire.Failed, Seq: seq, Arg: uint64(errno)}, 0)
		if !transient(err) {
			r.diskError(err)
		}
		if f := r.received.find(seq); f != nil && planted.On(planted.FailedSeqAcked) {
			f.done = true
		}
		r.discard(i, false) // its seq stays unacknowledged for good (rule 7)
		return
	}
	if f := r.received.find(seq); f != nil {
		f.done = true
	}
	r.discard(i, false)
	r.startSyncs()
}

// acknowledged returns the newest sequence number up to which every frame is complete.
func (r *Resource) acknowledged() uint64 {
	for r.ackable < r.received.len() && r.received.at(r.ackable).done {
		r.ackable++
	}
	if r.ackable == 0 {
		return r.lastAck
	}
	return max(r.lastAck, r.received.at(r.ackable-1).seq)
}

// EndBatch appends what is said once for a whole batch of events: the cumulative ack.
func (r *Resource) EndBatch(out []Action) []Action {
	if r.leader < 0 {
		return out
	}
	if a := r.acknowledged(); a > r.lastAck {
		r.lastAck = a
		r.out = out
		r.reply(wire.Frame{Type: wire.Ack, Seq: a}, 0)
		out, r.out = r.out, nil
	}
	return out
}

// watermarkIs forgets the frames that are complete everywhere.
func (r *Resource) watermarkIs(seq uint64) {
	if seq <= r.seenMark {
		return
	}
	r.seenMark = seq
	r.log.SetWatermark(seq)
	for r.ackable > 0 && r.received.front().seq <= seq && r.received.front().seq <= r.lastAck {
		r.received.pop()
		r.ackable--
	}
}

// startSyncs begins those flushes whose earlier frames have all been applied.
func (r *Resource) startSyncs() {
	for len(r.syncs) > 0 {
		i, o := r.find(r.syncs[0])
		if o == nil {
			r.syncs = r.syncs[1:]
			continue
		}
		for k := r.ackable; k < r.received.len() && r.received.at(k).seq < o.seq; k++ {
			if !r.received.at(k).done {
				return
			}
		}
		r.syncs = r.syncs[1:]
		if planted.On(planted.FlushAckedUnsynced) {
			r.applySyncDone(i, o, nil)
			continue
		}
		r.begin(i, ActLocalSync)
	}
}

func (r *Resource) applySyncDone(i int32, o *op, err error) {
	seq := o.seq
	if err != nil && planted.On(planted.FsyncRetried) {
		r.begin(i, ActLocalSync)
		return
	}
	if err != nil {
		r.reply(wire.Frame{Type: wire.Failed, Seq: seq, Arg: uint64(syscall.EIO)}, 0)
		r.diskError(err)
	} else {
		r.reply(wire.Frame{Type: wire.FlushAck, Seq: seq}, 0)
	}
	r.discard(i, false)
}
