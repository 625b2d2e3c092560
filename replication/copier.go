package replication

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// copyRun is the longest run copied or compared at once, in bytes.
const copyRun = MaxRequest

// What may be under way to one peer when nothing else is going on: many short runs where the dirty
// blocks are scattered, a few long ones where they are not.
const (
	copyWindow = 8 << 20 // bytes
	copyRuns   = 128
)

// resyncStats counts one resync, in bytes.
type resyncStats struct {
	running  bool
	copied   int64
	equal    int64
	rate     float64 // bytes per second, smoothed
	lastAt   time.Duration
	lastDone int64
}

// advance moves the synchronisation of p on as far as it can go now.
func (r *Resource) advance(p *peer) {
	r.tryLead(p)
	if p.phase != phaseFollowing || p.closing {
		return
	}
	switch p.sync {
	case syncIdle:
		r.beginSync(p)
	case syncCopying:
		r.pump(p)
		if p.dirty.Empty() && len(p.copies) == 0 {
			r.beginSettle(p)
		}
	case syncDraining:
		undrained := p.inflight.len() > 0 && p.inflight.front().seq <= p.joinSeq
		if r.backToCopying(p) || (undrained && !planted.On(planted.JoinWithoutDrain)) {
			return
		}
		if !planted.On(planted.JoinerGetsNoBitmaps) {
			r.handAll(p)
		}
		p.sync = syncFlushing
		if planted.On(planted.JoinWithoutFlush) || planted.On(planted.JoinWithoutDrain) {
			return
		}
		r.seq++
		p.joinFlush = r.seq
		p.endTracking() // this flush, not an earlier one, is to cover what is unstable now
		r.sendFlush(p, p.joinFlush)
	case syncFlushing:
		if r.backToCopying(p) || p.joinFlush != 0 || !r.handedAll(p) {
			return
		}
		p.sync = syncPreparing
		p.joinSeq = r.seq
		if planted.On(planted.JoinBeforeUpToDate) {
			r.joinReady(p, p.joinSeq)
			return
		}
		p.askedAt = r.now
		r.send(p, wire.Frame{Type: wire.JoinPrepare, Seq: p.joinSeq, Msg: r.state()}, 0)
	}
}

// backToCopying: blocks became dirty again while the peer was being settled.
func (r *Resource) backToCopying(p *peer) bool {
	if p.dirty.Empty() || planted.On(planted.JoinWithDirt) {
		return false
	}
	mark.Hit("dirty-again-while-settling")
	p.sync = syncCopying
	return true
}

// beginSync decides whether p needs anything.
func (r *Resource) beginSync(p *peer) {
	switch {
	case p.state == Failed || p.state == Diverged || p.mustDrop:
	case p.joinAsked && !p.inSet:
		// Its Join may apply at any moment, so it must not become Inconsistent now (rule 12). It
		// counts: requests that touch what it lacks wait until the outcome is known.
	case p.inSet && !p.dirty.Empty():
		p.needSettle = true
		p.sync = syncCopying
		r.startStats(p)
		r.pump(p)
	case p.inSet && p.needSettle:
		r.beginSettle(p)
	case p.inSet:
	case r.role != rolePrimary || r.now < p.retryAt || r.rec.Failed[p.idx]:
	case p.dirty.Empty():
		r.beginSettle(p)
	default:
		p.sync = syncBeginning
		r.startStats(p)
		r.notice(NoticeResyncStarted, p.node, "resync to %s begins: %d bytes differ", p.node, p.dirty.Bytes())
		r.out[len(r.out)-1].Notice.Bytes = p.dirty.Bytes()
		r.beginResync(p)
	}
}

// beginResync has the list of what is to be copied stored, and then makes p a target. Once p is
// Inconsistent that list alone knows what is wrong with it.
func (r *Resource) beginResync(p *peer) {
	session := p.session
	begin := func() {
		if p.sync != syncBeginning || p.session != session {
			return
		}
		r.seq++
		p.askedAt = r.now
		r.send(p, wire.Frame{Type: wire.ResyncBegin, Seq: r.seq, Msg: r.state()}, 0)
	}
	p.askedAt = r.now
	if planted.On(planted.ResyncBeforeBitmap) {
		begin()
		return
	}
	p.unsaved = true
	r.saveMeta(begin)
}

// state is what a target adopts: the primary's history, and the record that it comes from.
func (r *Resource) state() *wire.Message {
	return &wire.Message{Lineage: r.meta.Lineage, Version: r.meta.Version}
}

func (r *Resource) resyncReady(p *peer) {
	if p.sync == syncBeginning {
		p.state = Inconsistent
		p.sync = syncCopying
	}
}

// beginSettle: every block is copied. From here on the peer counts, so that nothing it misses
// can be answered while it is on its way into the set (rules 1, 2).
func (r *Resource) beginSettle(p *peer) {
	p.counts = p.counts || !planted.On(planted.JoinerNotCounted)
	p.joinSeq = r.seq
	p.sync = syncDraining
}

func (r *Resource) joinReady(p *peer, seq uint64) {
	if p.sync != syncPreparing || seq != p.joinSeq {
		return
	}
	if r.backToCopying(p) {
		return
	}
	p.state = UpToDate
	p.needSettle = false
	r.saveBitmap(p)
	if p.inSet {
		p.sync = syncIdle
		p.resync.running = false
		r.tellSettled()
		return
	}
	p.sync = syncJoining // propose asks for the Join
}

// pump keeps copies of p's dirty blocks on their way.
func (r *Resource) pump(p *peer) {
	for budget := r.copyBudget(p); p.copying < budget && len(p.copies) < copyRuns; {
		ext, coarse, ok := p.nextRun()
		if !ok {
			return
		}
		p.copies = append(p.copies, ext)
		p.copying += ext.Len
		if !p.inSet {
			r.throttle.take(ext.Len)
		}
		i, _ := r.alloc()
		o := &r.ops[i]
		o.kind, o.ext, o.peer = opCopy, ext, p.idx
		if coarse {
			o.kind = opCompare
		}
		r.lock(i)
	}
}

// copyBudget returns how many bytes may be under way to p. What a request waits for, or what a
// member lacks, goes ahead of every limit.
func (r *Resource) copyBudget(p *peer) int64 {
	switch {
	case p.counts:
		return copyWindow
	case r.paused:
		return 0
	default:
		return r.throttle.budget()
	}
}

// nextRun picks the next run to copy: first where a request waits, then in order. coarse tells
// that its blocks may well be equal.
func (p *peer) nextRun() (ext bitmap.Extent, coarse, ok bool) {
	if p.hint >= 0 {
		from := p.hint &^ (bitmap.BlockSize - 1)
		p.hint = -1
		if ext, coarse, ok = p.runFrom(from); ok {
			return ext, coarse, true
		}
	}
	if ext, coarse, ok = p.runFrom(p.cursor); !ok && p.cursor > 0 {
		ext, coarse, ok = p.runFrom(0)
	}
	if ok {
		p.cursor = ext.End()
	}
	return ext, coarse, ok
}

// runFrom returns the first run of dirty blocks at or after off that is not being copied, all
// coarse or all exact.
func (p *peer) runFrom(off int64) (bitmap.Extent, bool, bool) {
	for {
		ext, ok := p.dirty.NextRun(off, copyRun)
		if !ok {
			return ext, false, false
		}
		if c, ok := p.coarse.NextRun(ext.Off, copyRun); ok && c.Off == ext.Off {
			ext.Len = min(ext.Len, c.Len)
			if skip := p.overlapping(ext); skip > 0 {
				off = skip
				continue
			}
			return ext, true, true
		} else if ok && c.Off < ext.End() {
			ext.Len = c.Off - ext.Off
		}
		if skip := p.overlapping(ext); skip > 0 {
			off = skip
			continue
		}
		return ext, false, true
	}
}

// overlapping returns the end of a run under way that overlaps ext, or 0.
func (p *peer) overlapping(ext bitmap.Extent) int64 {
	for _, c := range p.copies {
		if c.Overlaps(ext) {
			return c.End()
		}
	}
	return 0
}

// copyRead sends a run that was read: as data, or as zeros that stay holes.
func (r *Resource) copyRead(i int32, o *op, ev *Event) {
	p := r.peers[o.peer]
	if ev.Err != nil {
		r.diskError(ev.Err)
		r.endCopy(p, i)
		return
	}
	r.seq++
	o.seq = r.seq
	f := wire.Frame{Type: wire.Copy, Seq: o.seq, Extent: o.ext, Payload: uint32(o.ext.Len)}
	payload := r.id(i)
	if ev.Zero {
		f.Type, f.Payload, f.Flags, payload = wire.CopyZeroes, 0, wire.FlagPunch, 0
	}
	r.fly(p, flight{seq: o.seq, ext: o.ext, id: r.id(i)})
	r.send(p, f, payload)
	switch {
	case planted.On(planted.BitClearedOnSend):
		p.settledBlocks(o.ext)
	case planted.On(planted.BitClearedByOlderVersion):
		r.unlock(i)
	}
}

// copied: p acknowledged the run of op i.
func (r *Resource) copied(p *peer, i int32) {
	ext := r.ops[i].ext
	p.settledBlocks(ext)
	if planted.On(planted.BitClearedByOlderVersion) {
		for k := range p.inflight.items() {
			if f := p.inflight.at(k); f.ext.Overlaps(ext) {
				f.ext.Len = 0
			}
		}
	}
	p.resync.copied += ext.Len
	r.throttle.copied(ext.Len)
	r.endCopy(p, i)
}

// endCopy ends op i, a copy or compare, whatever came of it.
func (r *Resource) endCopy(p *peer, i int32) {
	ext := r.ops[i].ext
	if k := slices.Index(p.copies, ext); k >= 0 {
		p.copies = slices.Delete(p.copies, k, k+1)
		p.copying -= ext.Len
	}
	r.discard(i, false)
	r.regate = true
}

// endCopies gives up all copies to p; their bits are still set.
func (r *Resource) endCopies(p *peer) {
	for i := range r.ops {
		o := &r.ops[i]
		if o.peer == p.idx && o.state != opOrphan && (o.kind == opCopy || o.kind == opCompare || o.kind == opVerdict) {
			r.discard(int32(i), false)
		}
	}
	p.copies, p.copying, p.sync, p.hint, p.hashes = nil, 0, syncIdle, -1, 0
	p.resync.running = false
}

// askHashes asks p for the hashes of op i's range, which is locked until the verdict.
func (r *Resource) askHashes(i int32) {
	o := &r.ops[i]
	p := r.peers[o.peer]
	if p.hashes == 0 && p.inflight.len() == 0 {
		p.progressAt = r.now
	}
	p.hashes++
	r.seq++
	o.seq = r.seq
	r.send(p, wire.Frame{Type: wire.HashRequest, Seq: o.seq, Extent: o.ext}, 0)
}

// hashReply has p's hashes compared with the local blocks.
func (r *Resource) hashReply(p *peer, ev *Event) error {
	f := ev.Frame
	for c := range r.ops {
		o := &r.ops[c]
		if o.kind != opCompare || o.state != opStarted || o.peer != p.idx || o.seq != f.Seq || o.other != 0 {
			continue
		}
		blocks := (o.ext.Len + bitmap.BlockSize - 1) / bitmap.BlockSize
		if int64(f.Payload) != blocks*wire.HashSize || f.Extent != o.ext {
			return fmt.Errorf("hashes of %s with %d bytes, asked for %s", f.Extent, f.Payload, o.ext)
		}
		i, v := r.claim(ev.ID)
		v.kind, v.state, v.ext, v.peer = opVerdict, opStarted, o.ext, p.idx
		v.other = r.id(int32(c))
		r.ops[c].other = ev.ID
		p.hashes--
		p.progressAt = r.now
		r.begin(i, ActLocalCompare)
		key := p.hashKey
		r.out[len(r.out)-1].HashKey = &key
		return nil
	}
	r.dropFrame(ev)
	return nil
}

// verdict takes the comparison of a run.
func (r *Resource) verdict(i int32, v *op, ev *Event) {
	p := r.peers[v.peer]
	c, o := r.find(v.other)
	r.discard(i, false)
	if o == nil || o.state == opOrphan {
		return
	}
	if ev.Err != nil {
		r.diskError(ev.Err)
		r.endCopy(p, c)
		return
	}
	if o.verify {
		r.verified(p, c, ev.Diff)
		return
	}
	for b := int64(0); b*bitmap.BlockSize < o.ext.Len; b++ {
		block := bitmap.Extent{Off: o.ext.Off + b*bitmap.BlockSize, Len: bitmap.BlockSize}.Clip(r.meta.Size)
		if ev.Diff.Has(int(b)) {
			p.coarse.Clear(block)
			continue
		}
		p.settledBlocks(block)
		if planted.On(planted.EqualWithoutFlush) {
			p.unstable.Clear(block)
		}
		p.resync.equal += block.Len
	}
	p.cursor = min(p.cursor, o.ext.Off) // what differs there is copied next
	r.endCopy(p, c)
}
