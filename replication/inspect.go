package replication

import (
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// Tracks reports whether this replica counts any block of ext among those that peer idx may lack or
// hold differently: dirty, unstable, on their way, or being written. It is for checks from outside:
// two replicas may differ only in blocks that the primary tracks.
func (r *Resource) Tracks(idx Peer, ext bitmap.Extent) bool {
	p := r.peers[idx]
	for _, b := range []*bitmap.Bitmap{p.dirty, p.unstable, p.flushing} {
		if b.Any(ext) {
			return true
		}
	}
	for _, f := range p.inflight.items() {
		if f.ext.Overlaps(ext) {
			return true
		}
	}
	return r.busy(ext)
}

// Lacks reports whether peer idx is known to lack a block of ext, or may.
func (r *Resource) Lacks(idx Peer, ext bitmap.Extent) bool { return r.peers[idx].dirty.Any(ext) }

// busy reports whether an operation that writes is under way in ext.
func (r *Resource) busy(ext bitmap.Extent) bool {
	for i := range r.ops {
		o := &r.ops[i]
		if (o.kind == opWrite || o.kind == opApply) && o.ext.Overlaps(ext) {
			return true
		}
	}
	return false
}

// Busy is busy for checks from outside.
func (r *Resource) Busy(ext bitmap.Extent) bool { return r.busy(ext) }

// Following reports whether peer idx follows this replica.
func (r *Resource) Following(idx Peer) bool { return r.peers[idx].phase == phaseFollowing }

// LeaseHeld reports whether this replica serves reads at now.
func (r *Resource) LeaseHeld() bool { return r.role == rolePrimary && r.leaseValid() }

// LeaseHeldAt is LeaseHeld at a moment at which the core was not called, and which it forgets.
func (r *Resource) LeaseHeldAt(now time.Duration) bool {
	old := r.now
	r.now = max(r.now, now)
	held := r.LeaseHeld()
	r.now = old
	return held
}

// DirtyBytes returns how much peer idx lacks.
func (r *Resource) DirtyBytes(idx Peer) int64 { return r.peers[idx].dirty.Bytes() }

// Load is how much a core holds, for bounds.
type Load struct {
	Ops, Locks, Started, Held, Received, Copies int
	InFlightBytes                               int64
}

// Load returns how much this core holds now.
func (r *Resource) Load() Load {
	l := Load{Ops: r.live, Locks: len(r.locks.entries), Started: r.started.n, Held: len(r.held), Received: r.received.len()}
	for _, p := range r.peers {
		l.Copies += len(p.copies)
		l.InFlightBytes += p.inflight.bytes
	}
	return l
}

// Settled reports whether peer idx is a member that follows and holds everything that this replica
// holds, with nothing under way.
func (r *Resource) Settled(idx Peer) bool {
	p := r.peers[idx]
	return p.settled() && p.inflight.len() == 0 && len(p.copies) == 0
}

// Dump describes what the core is doing, for the text of a failed test.
func (r *Resource) Dump() string {
	var b strings.Builder
	fmt.Fprintf(&b, "   role %s epoch %d leading %v promise until %v now %v proposal busy %v %+v\n", r.role, r.epoch, r.leading, r.promiseUntil, r.now,
		r.prop.busy, r.prop.asked)
	for _, p := range r.peers {
		fmt.Fprintf(&b, "   peer %s phase %s sync %s inSet %v counts %v settle %v mustDrop %v retry %v dirty %d unstable %d flight %d handed %b handing %v stamp %d lease until %v\n",
			p.node, p.phase, p.sync, p.inSet, p.counts, p.needSettle, p.mustDrop, p.retryAt, p.dirty.Blocks(), p.unstable.Blocks(), p.inflight.len(),
			p.handed, p.handing, p.stamp, p.leaseUntil)
	}
	for i := range r.ops {
		if o := &r.ops[i]; o.kind > opNew {
			fmt.Fprintf(&b, "   op %d kind %d state %s local %v need %b blockers %d %v\n", i, o.kind, o.state, o.local, o.need, o.blockers, o.ext)
		}
	}
	return b.String()
}
