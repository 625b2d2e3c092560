package sim

import (
	"errors"
	"slices"
	"syscall"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// checkStep holds after every event of a core.
func (w *World) checkStep(p *Proc) {
	if w.failure != nil || p.dead {
		return
	}
	w.serves(p)
	w.checkLease(p)
	p.errs = p.errs && p.core.Erring()
	if p.ticks%16 == 0 {
		w.checkBounds(p)
	}
}

// checkLease: at most one replica serves inside a valid lease (rule 4).
func (w *World) checkLease(p *Proc) {
	if w.illegal != "" || !p.core.LeaseHeld() {
		return
	}
	for _, h := range w.hosts {
		o := h.proc
		if o == nil || o == p || o.core == nil || o.paused || !o.core.Serving() {
			continue
		}
		if o.core.LeaseHeldAt(h.clock()) {
			w.fail("%s and %s serve at the same time, each inside its lease", p.h.name, h.name)
		}
	}
}

// Bounds of what a core may hold: the window of the clients, of the copier, and of the peers.
const (
	maxOps      = 2048
	maxInFlight = 256 << 20 // trims count by their extent
)

// checkBounds: no queue grows without end.
func (w *World) checkBounds(p *Proc) {
	l := p.core.Load()
	if l.Ops > maxOps || l.Locks > maxOps || l.InFlightBytes > maxInFlight {
		w.fail("the core of %s holds %+v", p.h.name, l)
	}
}

// checkAnswer: a write that is answered is on every member of the recorded set (rule 1), or a later
// one is.
func (w *World) checkAnswer(p *Proc, r *request) {
	if w.truth == nil || w.illegal != "" || w.failure != nil || r.op != replication.OpWrite {
		return
	}
	for i := range w.truth.Replicas {
		m := &w.truth.Replicas[i]
		h := w.hostNamed(m.Node)
		if !m.InSet || m.Failed || h.lossy || m.Instance != h.instance || h.faults.misplace > 0 {
			continue
		}
		first, end := r.ext.Off/SectorSize, r.ext.End()/SectorSize
		for s := first; s < end; s++ {
			if got := h.disk.Sector(s); got != r.value && !w.mayFollow(got, r) {
				w.fail("%s answers the write of %d to sector %d, and member %s holds %d", p.h.name, r.value, s, h.name, got)
				return
			}
		}
	}
}

// mayFollow reports whether value may rightly stand where r wrote: its write was not acknowledged
// before r was asked for.
func (w *World) mayFollow(value uint64, r *request) bool {
	if value == 0 {
		return w.Config.Trims > 0 // zeros are of many writes; the history judges reads of them
	}
	mine, v := w.ops[r.value], w.ops[value]
	if _, rot := w.rots[value]; rot {
		return true
	}
	return v != nil && (v.seqAcked == 0 || v.seqAcked > mine.seqBegan)
}

// judgeError: an error is answered only where the device itself cannot go on (rule 15).
func (w *World) judgeError(p *Proc, r *request, err error) {
	switch {
	case errors.Is(err, syscall.ENOSPC):
	case errors.Is(err, syscall.EIO) && p.core != nil && p.core.Status(p.h.clock()).State == replication.Failed:
	case errors.Is(err, syscall.EIO) && w.diskWasHurt(p.h):
	case errors.Is(err, syscall.EIO) && r.excused:
	default:
		w.fail("%s answers value %d with an error: %v", p.h.name, r.value, err)
	}
}

// mayErr reports whether the policy asks p for errors now: it asked the ledger for something which that
// did not answer for PeerTimeout, by the slowest clock, and it has not gone on since.
func (p *Proc) mayErr() bool {
	if p.w.Config.IOError && p.owed > 0 && p.w.now-p.owed >= peerTimeout*9/10 {
		p.errs = true
	}
	p.errs = p.errs && p.core.Erring()
	return p.errs
}

// diskWasHurt reports whether a fault of the plan can have made the disk of h fail.
func (w *World) diskWasHurt(h *Host) bool { return w.hurt[h.index] }

// checkEqual: two replicas differ only where the one that leads the other tracks it. A primary that
// has not heard yet that its peer went on to a newer epoch leads it no more.
func (w *World) checkEqual() {
	if w.failure != nil || w.illegal != "" {
		return
	}
	for _, h := range w.hosts {
		p := h.proc
		if p == nil || p.core == nil || !p.core.Serving() {
			continue
		}
		for i, name := range p.peers {
			if q := w.hostNamed(name); p.core.Following(replication.Peer(i)) && w.linked(p, q) && q.proc.epoch() <= p.epoch() {
				w.checkPair(p, replication.Peer(i), q, "")
			}
		}
	}
}

// epoch is the newest that p's replica has accepted; 0 without one.
func (p *Proc) epoch() uint64 {
	if p.core == nil {
		return 0
	}
	return p.core.Fitness(p.h.clock()).Epoch
}

// linked reports whether the session that p has with q's host is one with the process that runs there.
func (w *World) linked(p *Proc, q *Host) bool {
	l := w.link(p.h.index, q.index)
	s := l.sess
	return s != nil && q.proc != nil && s.procs[l.end(q)] == q.proc && s.procs[l.end(p.h)] == p && !s.over[0] && !s.over[1] && !p.paused
}

// checkPair compares the blocks that clients touch.
func (w *World) checkPair(p *Proc, i replication.Peer, q *Host, when string) {
	if q.proc == nil || q.proc.core == nil || w.rotted() {
		return
	}
	for n := range w.Config.Blocks + 2 {
		block := w.blockAt(n)
		e := bitmap.Extent{Off: block * bitmap.BlockSize, Len: bitmap.BlockSize}.Clip(DeviceSize)
		s, differ := FirstDiff(p.h.disk, q.disk, e)
		if !differ || p.core.Tracks(i, e) || q.proc.core.Busy(e) || p.core.Status(p.h.clock()).State == replication.Failed {
			continue
		}
		w.fail("%s leads %s%s and takes sector %d for equal: it holds %d, %s holds %d", p.h.name, q.name, when, s,
			p.h.disk.Sector(s), q.name, q.disk.Sector(s))
		return
	}
}

// rotted reports whether bits were changed behind everybody's back and not repaired since.
func (w *World) rotted() bool { return len(w.rots) > 0 }

// applied takes a record that a voter applied, in the order of its log.
func (w *World) applied(s *quorum.State, rec *quorum.Resource) {
	if w.truth != nil && (rec.Version <= w.truth.Version && s.Incarnation == w.state.Incarnation || s.Incarnation.Counter < w.state.Incarnation.Counter) {
		return
	}
	old := w.truth
	w.truth, w.state = rec, s
	if old == nil {
		return
	}
	if rec.Epoch < old.Epoch {
		w.fail("the epoch went back from %d to %d", old.Epoch, rec.Epoch)
	}
	w.countChange(old, rec)
	if n := len(rec.Forced); n > 0 && rec.Forced[n-1].Epoch == rec.Epoch && rec.Epoch > old.Epoch {
		w.forcedBy(rec)
	}
	w.checkJoin(old, rec)
	w.judgeLoss()
}

func (w *World) countChange(old, rec *quorum.Resource) {
	set := func(r *quorum.Resource) int { return len(r.Set()) }
	switch {
	case rec.Epoch > old.Epoch:
		w.stats.Promotions++
		w.note(nil, kindLedger, "epoch %d: primary %s, set %v, version %d", rec.Epoch, rec.Primary.Node, rec.Set(), rec.Version)
	case set(rec) < set(old):
		w.stats.Drops++
		w.note(nil, kindLedger, "drop: set %v, version %d", rec.Set(), rec.Version)
	case set(rec) > set(old):
		w.stats.Joins++
		w.note(nil, kindLedger, "join: set %v, version %d", rec.Set(), rec.Version)
	case rec.Primary != old.Primary:
		w.note(nil, kindLedger, "epoch %d: primary %q, version %d", rec.Epoch, rec.Primary.Node, rec.Version)
	}
}

// checkJoin: a replica that enters the set holds durably that it is up to date, and is equal.
func (w *World) checkJoin(old, rec *quorum.Resource) {
	if old.Epoch == 0 || w.illegal != "" || rec.Epoch != old.Epoch {
		return
	}
	for i := range rec.Replicas {
		r := &rec.Replicas[i]
		if o := old.Replica(r.Node); !r.InSet || o == nil || o.InSet {
			continue
		}
		h := w.hostNamed(r.Node)
		if h.instance != r.Instance {
			continue // its disk was replaced since: the primary will find out
		}
		if h.restored { // or put back to a copy, likewise
			h.restored = false
			continue
		}
		if h.proc != nil && h.proc.meta != nil {
			if st := h.proc.meta.Meta().State; st != store.UpToDate && st != store.Outdated && st != store.Failed {
				w.fail("%s joins the set, and its metadata says %s", h.name, st)
			}
		}
		if l := w.hostNamed(rec.Primary.Node); l.proc != nil && l.proc.core != nil && l.proc.core.Serving() && w.linked(l.proc, h) {
			w.checkPair(l.proc, l.proc.peer(h), h, " at its join")
		}
	}
}

// judgeLoss: when every member has lost power since it was last equal, what was not flushed may be
// gone. That is the one loss that the fault atlas allows without force.
func (w *World) judgeLoss() {
	if w.truth == nil || w.truth.Epoch == 0 {
		return
	}
	for i := range w.truth.Replicas {
		r := &w.truth.Replicas[i]
		if h := w.hostNamed(r.Node); r.InSet && !r.Failed && !h.lossy && !h.ruined && r.Instance == h.instance {
			return
		}
	}
	w.stats.LossPoints++
	w.note(nil, kindFault, "every member has lost power: unflushed writes may be gone")
	w.history.LossPoint(w.now)
}

// resyncBegun is a resync under way.
type resyncBegun struct {
	dirty   int64 // bytes
	written int64 // World.written then
}

// noticed takes what a core reports: a resync copies, or finds equal, as many bytes as were dirty when
// it began and as were written since, and no more.
func (w *World) noticed(p *Proc, n *replication.Notice) {
	key := p.h.name + " " + n.Peer
	switch n.Kind {
	case replication.NoticeRole: // a resync ends with the role
		for _, name := range p.peers {
			delete(w.resyncs, p.h.name+" "+name)
		}
	case replication.NoticeResyncStarted:
		w.resyncs[key] = resyncBegun{dirty: n.Bytes, written: w.written - w.unanswered()}
	case replication.NoticeResyncDone:
		b, known := w.resyncs[key]
		delete(w.resyncs, key)
		done := n.Bytes + n.Equal
		switch {
		case !known:
		case done < b.dirty:
			w.fail("%s: a resync to %s of %d dirty bytes ends after %d", p.h.name, n.Peer, b.dirty, done)
		case done > b.dirty+w.written-b.written+w.abandoned() && !w.marksMore():
			w.fail("%s: a resync to %s copies %d bytes, dirty were %d, and %d were written since", p.h.name, n.Peer, done, b.dirty, w.written-b.written)
		}
	}
}

// unanswered returns the bytes of writes that clients wait for: they may begin at any time.
func (w *World) unanswered() (n int64) {
	for _, c := range w.clients {
		for _, r := range c.out {
			if r.op != replication.OpRead {
				n += r.ext.RoundOut(bitmap.BlockSize).Len
			}
		}
	}
	return n
}

// abandoned returns how many bytes of writes a server may still have that no client waits for.
func (w *World) abandoned() int64 {
	n := int64(w.Config.Clients*w.Config.Depth) * 4 * bitmap.BlockSize
	if w.Config.Trims > 0 {
		n += int64(w.Config.Clients*w.Config.Depth) * 4 * bitmap.RegionSize
	}
	return n
}

// marksMore reports whether the mix has faults that make blocks dirty which nobody wrote.
func (w *World) marksMore() bool {
	return slices.ContainsFunc(w.Config.Faults, func(k faultKind) bool {
		return k == faultFull || k == faultInvalidate || k == faultReplace || k == faultRestore
	})
}
