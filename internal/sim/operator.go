package sim

import (
	"time"

	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// operate lets an operator do something.
func (w *World) operate(f Fault, a, b *Host, mend func(func())) {
	p := a.proc
	switch f.Kind {
	case faultSwitch:
		w.switchover(a)
	case faultPromote:
		w.promote(a, true)
	case faultDemote:
		w.demote()
		mend(func() { w.promote(a, true) })
	case faultForce:
		w.force(a)
	case faultDisconnect:
		l := w.link(f.A, f.B)
		l.off = true
		l.breakLink("an operator disconnects")
		mend(func() { l.off = false })
	case faultInvalidate:
		w.invalidate(a)
	case faultHoldResync:
		if p != nil {
			p.step(&replication.Event{Kind: replication.EvPause})
			mend(func() { p.run(func() { p.step(&replication.Event{Kind: replication.EvResume}) }) })
		}
	case faultReplace:
		w.replaceDisk(a)
		mend(a.powerOn)
	case faultRestore:
		w.restore(f, a)
		mend(a.powerOn)
	case faultVerify:
		if p != nil && p.core != nil && p.core.Serving() {
			p.step(&replication.Event{Kind: replication.EvVerify, Peer: p.peer(b)})
		}
	case faultLease:
		w.setLease([]quorum.Duration{100e6, 300e6, 1000e6}[f.Arg%3])
	case faultAlone:
		w.confirmPeerDown(a, b)
	}
}

// fit reports whether an operator, or the daemon that asks on his behalf, finds nothing against
// promoting h: what an unhurried one sees (rule 9).
func (w *World) fit(h *Host) bool {
	p := h.proc
	if p == nil || p.core == nil || p.paused || p.newest == nil {
		return false
	}
	st := p.core.Status(h.clock())
	r := p.newest.Replica(h.name)
	return r != nil && r.InSet && !r.Failed && r.Instance == h.instance && st.State == replication.UpToDate &&
		(!st.Unclean || w.noneBetter(p.newest, h))
}

// noneBetter reports whether every other member says itself that it is unclean or failed.
func (w *World) noneBetter(rec *quorum.Resource, h *Host) bool {
	for i := range rec.Replicas {
		r := &rec.Replicas[i]
		if !r.InSet || r.Failed || r.Node == h.name {
			continue
		}
		o := w.hostNamed(r.Node).proc
		if o == nil || o.core == nil || o.paused {
			return false
		}
		if f := o.core.Fitness(0); !f.Unclean && (!f.Failed || f.Hangs) {
			return false
		}
	}
	return true
}

// promote proposes that h become primary; takeOver also while another one is recorded, which an
// operator may do in any haste: safety does not rest on his judgement.
func (w *World) promote(h *Host, takeOver bool) {
	p := h.proc
	if !w.fit(h) {
		return
	}
	rec := p.ledgerRecord()
	if rec == nil || rec.Primary == p.self() || !rec.Primary.None() && !takeOver {
		return
	}
	epoch := max(rec.Epoch, p.core.Status(h.clock()).Epoch)
	for _, o := range w.hosts {
		if o.proc != nil && o.proc.core != nil {
			epoch = max(epoch, o.proc.core.Status(o.clock()).Epoch)
		}
	}
	c := quorum.On(rec)
	c.Promote = &quorum.Promote{Candidate: p.self(), NewEpoch: epoch + 1, Generation: w.net.Uint64() | 1,
		TakeOver: !rec.Primary.None(), Operator: true, Unclean: p.core.Fitness(h.clock()).Unclean}
	if c.Promote.TakeOver && rec.Primary.Node != h.name {
		c.Promote.Statement = "an operator says that it is down"
		if rec.Policy.Fencing == quorum.FencingStonith || rec.Policy.Fencing == quorum.FencingManual {
			return // he does not know that
		}
	}
	p.command(c, nil)
}

// switchover has the primary stop, and promotes h once that is recorded.
func (w *World) switchover(h *Host) {
	if w.truth == nil || w.truth.Primary.None() || w.truth.Primary.Node == h.name || !w.fit(h) {
		return
	}
	if p := w.hostNamed(w.truth.Primary.Node).proc; p != nil && p.core != nil && p.core.Serving() {
		p.step(&replication.Event{Kind: replication.EvStop})
		for i := range 10 {
			w.after(time.Duration(i*30)*time.Millisecond, func() { w.promote(h, false) })
		}
	}
}

// demote has the primary stop and holds the resource.
func (w *World) demote() {
	for _, h := range w.hosts {
		if p := h.proc; p != nil && p.core != nil && p.core.Serving() {
			p.hold = true
			p.step(&replication.Event{Kind: replication.EvStop})
			w.after(3*time.Second, func() { p.hold = false })
			return
		}
	}
}

// invalidate drops a replica and has it copied in full: the primary is asked.
func (w *World) invalidate(h *Host) {
	for _, o := range w.hosts {
		if p := o.proc; o != h && p != nil && p.core != nil && p.core.Serving() {
			p.step(&replication.Event{Kind: replication.EvInvalidate, Peer: p.peer(h)})
			return
		}
	}
}

// replaceDisk gives h a new, empty disk while its daemon is down. The operator does not do that to
// the last good copy.
func (w *World) replaceDisk(h *Host) {
	if !w.spared(h) || w.truth.Primary.Node == h.name { // a Drop of its may be under way
		return
	}
	h.kill()
	h.crash()
	h.newReplica(store.Inconsistent, w.peersOf(h))
	w.hurt[h.index] = false
}

// spared reports whether the data would survive without h: another member is there and was not hurt.
func (w *World) spared(h *Host) bool {
	if w.truth == nil {
		return false
	}
	for i := range w.truth.Replicas {
		r := &w.truth.Replicas[i]
		o := w.hostNamed(r.Node)
		if o != h && r.InSet && !r.Failed && !o.lossy && o.up && r.Instance == o.instance && o.sound() {
			return true
		}
	}
	return false
}

// sound reports whether the replica on h says that it holds everything, and nothing says otherwise.
func (h *Host) sound() bool {
	p := h.proc
	return !h.failing() && p != nil && p.core != nil && p.core.Fitness(h.clock()).State == replication.UpToDate
}

// failing reports whether the disk of h has failed, or is about to.
func (h *Host) failing() bool {
	if h.faults.failIO > 0 || h.faults.failSync > 0 || h.faults.hang {
		return true
	}
	return h.proc != nil && h.proc.core != nil && h.proc.core.Fitness(h.clock()).Failed
}

// restore puts the disk of h, metadata and all, back to a copy that was made earlier.
func (w *World) restore(f Fault, h *Host) {
	if w.Config.Shape == Three {
		return // a copy younger than the last session is known for old to the primary alone: decision 0011
	}
	if h.snapshot == nil || f.Arg%3 == 0 {
		h.snapshot, h.snapMeta = h.disk.Clone(), h.meta.Clone()
		return
	}
	if !w.spared(h) || w.truth.Primary.Node == h.name {
		return
	}
	h.kill()
	h.crash()
	h.disk.Restore(h.snapshot)
	h.meta = h.snapMeta.Clone()
	h.restored = true
	h.epoch = 0
}

// hungOnly reports whether the process on h gave its disk up only because it hung.
func (h *Host) hungOnly() bool {
	return h.proc != nil && h.proc.core != nil && h.proc.core.Fitness(h.clock()).Hangs
}

// setLease changes the policy.
func (w *World) setLease(d quorum.Duration) {
	for _, h := range w.hosts {
		p := h.proc
		if p == nil || p.paused || p.voter == nil || !p.voter.Status().HasQuorum {
			continue
		}
		if rec := p.ledgerRecord(); rec != nil {
			c := quorum.On(rec)
			policy := rec.Policy
			policy.Lease = d
			c.SetPolicy = &quorum.SetPolicy{Policy: policy}
			p.command(c, nil)
			return
		}
	}
}

func (w *World) peersOf(h *Host) []string {
	var out []string
	for _, o := range w.hosts {
		if o.data && o != h {
			out = append(out, o.name)
		}
	}
	return out
}
