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

// request takes a client's request in.
func (r *Resource) request(ev *Event) {
	i, o := r.claim(ev.ID)
	o.code, o.flags, o.ext, o.began = ev.Op, ev.Flags, ev.Ext, r.now
	switch ev.Op {
	case OpRead:
		o.kind = opRead
	case OpFlush:
		o.kind = opFlush
	case OpWrite, OpWriteZeroes, OpTrim:
		o.kind = opWrite
		r.throttle.arrived()
	default:
		panic(fmt.Sprintf("core: unknown request %d", ev.Op))
	}
	o.client, o.number = ev.Client, ev.Number
	if r.role == roleSecondary || r.role == roleStopped || r.freeze.closed || !r.clientAdmitted(o) {
		// Its connection is about to be closed; no answer is the only right one (rule 15).
		r.discard(i, true)
		return
	}
	if o.ext.Off < 0 || o.ext.Len < 0 || o.ext.End() > r.meta.Size {
		r.answer(i, syscall.EINVAL)
		return
	}
	r.admit(i)
}

// admits reports whether o may begin now; a request that may not waits in held.
func (r *Resource) admits(o *op) bool {
	if r.role != rolePrimary {
		return false
	}
	if o.kind == opRead {
		return r.leaseValid()
	}
	if r.givenUp > 0 {
		return false // what was given up holds memory that no window counts: not more than one of it
	}
	// A write or flush begun while a counting member is away could not be answered anyway, and
	// every block begun is one more suspect.
	for _, p := range r.peers {
		if p.counts && p.phase != phaseFollowing {
			return false
		}
		// Answers do not wait for a peer that does not count, so what is on its way to it has to
		// be bounded here: a slow replica throttles.
		if !p.counts && p.inflight.bytes > r.cfg.Window {
			return false
		}
	}
	return true
}

func (r *Resource) admit(i int32) {
	o := &r.ops[i]
	switch {
	case r.freeze.erring && (o.told == toldNothing || !planted.On(planted.ErrorStartsLater)):
		r.answer(i, syscall.EIO)
	case !r.admits(o):
		o.state = opHeld
		r.held = append(r.held, r.id(i))
	case r.failed:
		r.answer(i, syscall.EIO)
	case o.kind == opFlush:
		r.enterFlush(i)
	case o.ext.Empty():
		r.answer(i, nil)
	case r.suspect(o.ext):
		r.gate(i)
	default:
		r.lock(i)
	}
}

func (r *Resource) admitHeld() {
	if len(r.leasing) > 0 && r.leaseValid() {
		r.leaseBack() // whoever had not confirmed may have been dropped, in this very epoch
	}
	if len(r.held) == 0 {
		return
	}
	list := r.held
	r.held = nil
	for _, id := range list {
		if i, o := r.find(id); o != nil && o.state == opHeld {
			r.admit(i)
		}
	}
}

// suspect reports whether a peer that counts may differ from this replica in ext (rule 6). One
// that is on its way into the set is included: its Join may be applied already.
func (r *Resource) suspect(ext bitmap.Extent) bool {
	if planted.On(planted.SuspectsServed) {
		return false
	}
	for _, p := range r.peers {
		if p.counts && !p.dirty.Empty() && p.dirty.Any(ext) {
			return true
		}
	}
	return false
}

// gate lets op i wait until the members are equal in its range, and has that range copied first.
func (r *Resource) gate(i int32) {
	o := &r.ops[i]
	o.state = opGated
	r.gated = append(r.gated, r.id(i))
	for _, p := range r.peers {
		if p.counts && p.dirty.Any(o.ext) {
			p.hint = o.ext.Off
		}
	}
}

// admitGated lets those go on whose range is equal everywhere by now, and answers those writes
// that failed and have been healed.
func (r *Resource) admitGated() {
	list := r.gated
	r.gated = nil
	for _, id := range list {
		if i, o := r.find(id); o != nil && o.state == opGated {
			r.admit(i)
		}
	}
	heal := r.healing
	r.healing = nil
	for _, id := range heal {
		i, o := r.find(id)
		if o == nil || o.state != opHealing {
			continue
		}
		if r.suspect(o.ext) {
			r.healing = append(r.healing, id)
			continue
		}
		r.answer(i, o.err)
	}
}

// answer ends request i. One that was given up has its answer already.
func (r *Resource) answer(i int32, err error) {
	a := Action{Kind: ActReply, ID: r.id(i), Err: err}
	if t := r.ops[i].told; t != toldNothing {
		r.readmit = true
		if !planted.On(planted.ErrorAnsweredTwice) {
			a.Kind, a.Err = t.lastWord(), nil
		}
	}
	r.emit(a)
	r.release(i)
}

// startRead reads locally: every member holds the same, so one copy is enough.
func (r *Resource) startRead(i int32) {
	r.ops[i].state = opStarted
	r.reads++
	r.begin(i, ActLocalRead)
}

func (r *Resource) readDone(i int32, o *op, err error) {
	r.reads--
	r.unlock(i)
	switch {
	case err != nil:
		r.diskError(err)
		r.diskAnswer(i, err)
	case r.role != rolePrimary && r.role != roleStopping:
		r.discard(i, true)
	case o.told != toldNothing:
		r.answer(i, nil)
	case !r.leaseValid() && !planted.On(planted.LeaseNotRechecked), !r.confirmed(o.began):
		// Rule 4: checked again after the last byte was read.
		mark.Hit("read-waits-for-lease")
		o.state = opLeasing
		r.leasing = append(r.leasing, r.id(i))
	default:
		r.answer(i, nil)
	}
}

// leaseBack answers the reads that were waiting for the lease. It was renewed in the same epoch,
// so no other primary can have served in between.
func (r *Resource) leaseBack() {
	list := r.leasing
	r.leasing = nil
	for _, id := range list {
		switch i, o := r.find(id); {
		case o == nil || o.state != opLeasing:
		case !r.confirmed(o.began):
			r.leasing = append(r.leasing, id)
		default:
			r.answer(i, nil)
		}
	}
}

// start sends op i, a write, to every connected peer and begins it locally (rule 1).
func (r *Resource) start(i int32) {
	o := &r.ops[i]
	o.state = opStarted
	r.seq++
	o.seq = r.seq
	r.started.push(&r.arena, i)
	for _, p := range r.peers {
		if p.counts && !planted.On(planted.AckBeforePeer) {
			o.need |= p.bit()
		}
		switch {
		case p.phase == phaseFollowing && p.takesWrites():
			r.sendWrite(p, i)
		case !p.counts:
			p.mark(o.ext)
		}
	}
	switch o.code {
	case OpWrite:
		r.begin(i, ActLocalWrite)
	case OpWriteZeroes:
		r.begin(i, ActLocalZeroes)
	default:
		r.begin(i, ActLocalTrim)
	}
}

// sendWrite sends op i to p as a frame and remembers it as in flight.
func (r *Resource) sendWrite(p *peer, i int32) {
	o := &r.ops[i]
	f := wire.Frame{Seq: o.seq, Extent: o.ext}
	var payload ID
	switch o.code {
	case OpWrite:
		f.Type, f.Payload, payload = wire.Write, uint32(o.ext.Len), r.id(i)
	case OpWriteZeroes:
		f.Type = wire.WriteZeroes
	default:
		f.Type = wire.Trim
	}
	if o.flags&FlagFUA != 0 && !planted.On(planted.FUANotForwarded) {
		f.Flags |= wire.FlagFUA
	}
	if o.flags&FlagPunch != 0 {
		f.Flags |= wire.FlagPunch
	}
	r.fly(p, flight{seq: o.seq, ext: o.ext, id: r.id(i), fua: o.flags&FlagFUA != 0})
	r.send(p, f, payload)
}

// fly notes a frame that p has to acknowledge.
func (r *Resource) fly(p *peer, f flight) {
	if p.inflight.len() == 0 {
		p.progressAt = r.now
	}
	p.inflight.push(f)
	p.sent = f.seq
}

// send queues a frame of the primary to p.
func (r *Resource) send(p *peer, f wire.Frame, payload ID) {
	f.Epoch = r.epoch
	f.Watermark = r.watermark()
	if f.Type != wire.Beacon {
		f.Arg = r.stamp
	}
	r.emit(Action{Kind: ActSend, Peer: p.idx, Session: p.session, Frame: f, ID: payload})
}

// watermark returns the sequence number up to which every write is complete here and on every
// peer that is connected.
func (r *Resource) watermark() uint64 {
	w := r.seq
	if r.started.head >= 0 {
		w = r.ops[r.started.head].seq - 1
	}
	for _, p := range r.peers {
		if p.inflight.len() > 0 {
			w = min(w, p.inflight.front().seq-1)
		}
	}
	return w
}

// writeDone takes the end of the local half of a write.
func (r *Resource) writeDone(i int32, o *op, err error) {
	if err != nil {
		o.err = err
		if !transient(err) {
			r.diskError(err)
		}
	}
	r.finish(i)
}

// finish ends a write that is complete on every member that counts (rule 1).
func (r *Resource) finish(i int32) {
	o := &r.ops[i]
	if o.local || o.need != 0 || o.state != opStarted {
		return
	}
	r.started.remove(&r.arena, i)
	r.unlog(i)
	if o.err != nil {
		r.failWrite(i)
		return
	}
	r.throttle.finished(r.now - o.began)
	r.unlock(i)
	r.answer(i, nil)
}

// failWrite ends a write that failed here. Peers may have applied it, so its blocks are suspect
// until they hold what this replica holds; only then is the error answered (rule 7).
func (r *Resource) failWrite(i int32) {
	o := &r.ops[i]
	r.unlock(i)
	if planted.On(planted.FailedWriteUnlocked) {
		r.answer(i, o.err)
		return
	}
	for _, p := range r.peers { // also those that are away: they may have applied it before
		if !r.failed || !planted.On(planted.FailedWriteUnmarked) {
			p.mark(o.ext)
		}
	}
	if r.failed {
		r.diskAnswer(i, o.err)
		return
	}
	mark.Hit("write-failed")
	if o.told != toldNothing || !r.suspect(o.ext) {
		r.answer(i, o.err)
		return
	}
	o.state = opHealing
	r.healing = append(r.healing, r.id(i))
	r.hintAll(o.ext.Off)
}

func (r *Resource) hintAll(off int64) {
	for _, p := range r.peers {
		if p.counts && p.hint < 0 {
			p.hint = off
		}
	}
}

// transient reports whether err leaves the backing device usable.
func transient(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.EAGAIN)
}

// diskError takes note that the local disk failed: for good (rule 13). With another member in
// the set this replica hands over; alone it can only say so.
func (r *Resource) diskError(err error) {
	if r.failed {
		return
	}
	r.failed = true
	r.meta.State = Failed
	r.emit(Action{Kind: ActDiskFailed, Err: err})
	r.saveMeta(nil)
	r.notice(NoticeDiskState, "", "the backing device failed: %v", err)
	r.yieldRole()
}

// otherMember reports whether a member besides this one could take over.
func (r *Resource) otherMember() bool {
	for _, p := range r.peers {
		if p.inSet && p.phase == phaseFollowing {
			return true
		}
	}
	return false
}

// diskAnswer ends a request that the failed disk could not serve: unanswered when another member
// takes over, so that clients reconnect and see no error; otherwise with the error.
func (r *Resource) diskAnswer(i int32, err error) {
	if r.role == rolePrimary {
		r.answer(i, err)
		return
	}
	r.discard(i, true)
}
