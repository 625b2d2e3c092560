package replication

import (
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// promise is what this replica promised, as a member, to a primary: not to serve as primary
// itself before promiseUntil (rule 4).
type promise struct {
	promiseStart time.Duration // the process started
	promiseUntil time.Duration
	promiseEpoch uint64 // of the primary that holds it; 0: unknown, from before this process
}

// startPromise behaves as if a beacon of the longest lease had been acknowledged at the start:
// the process before this one may have done so.
func (r *Resource) startPromise(now time.Duration) {
	r.promiseStart = now
	if !planted.On(planted.PromiseForgotten) {
		r.promiseUntil = now + r.withDrift(r.cfg.MaxLease)
	}
}

// maxLeaseIs takes note that a lease as long as d may be out since before this process started.
func (r *Resource) maxLeaseIs(d time.Duration) {
	if d > r.cfg.MaxLease && !planted.On(planted.PromiseForgotten) {
		r.cfg.MaxLease = d
		r.promiseUntil = max(r.promiseUntil, r.promiseStart+r.withDrift(d))
	}
}

// lease returns how long a beacon sent now is good for.
func (r *Resource) lease() time.Duration {
	if r.rec != nil && r.rec.Lease > 0 {
		return r.rec.Lease
	}
	return r.cfg.Lease
}

func (r *Resource) withDrift(d time.Duration) time.Duration {
	if planted.On(planted.DriftIgnored) {
		return d
	}
	return d + d*time.Duration(r.cfg.DriftPercent)/100
}

// promised records the promise that the acknowledgement of beacon f gives. The stamp is taken
// here, after receipt, and recorded before the acknowledgement leaves.
func (r *Resource) promised(f *wire.Frame) {
	d := min(time.Duration(f.Arg), time.Hour)
	if d <= 0 {
		return
	}
	if planted.On(planted.BeaconWithoutDuration) {
		d = r.lease()
	}
	r.promiseUntil = max(r.promiseUntil, r.now+r.withDrift(d))
	r.promiseEpoch = f.Epoch
}

// releasePromise ends the promise when its holder stepped down in its very epoch.
func (r *Resource) releasePromise() {
	anyEpoch := planted.On(planted.PromiseReleasedByAnyStepDown) && len(r.rec.Released) > 0
	if anyEpoch || r.promiseEpoch != 0 && slices.Contains(r.rec.Released, r.promiseEpoch) {
		mark.Hit("promise-released")
		r.promiseUntil = 0
	}
}

// leaseValid reports whether every other member that counts confirmed a beacon sent within the
// lease, so that none of them can be primary.
func (r *Resource) leaseValid() bool {
	if planted.On(planted.ReadWithoutLease) {
		return true
	}
	for _, p := range r.peers {
		if p.counts && r.now >= p.leaseUntil {
			return false
		}
	}
	return true
}

// beaconTo sends p a beacon. It is stamped before it is queued.
func (r *Resource) beaconTo(p *peer) {
	p.beaconSeq++
	lease := r.lease()
	p.beacons[p.beaconSeq%uint64(len(p.beacons))] = beacon{seq: p.beaconSeq, at: r.now, lease: lease}
	p.beaconAt = r.now
	r.send(p, wire.Frame{Type: wire.Beacon, Seq: p.beaconSeq, Arg: uint64(lease)}, 0)
}

// beaconAck extends the lease that p grants, counted from the beacon's own stamp.
func (r *Resource) beaconAck(p *peer, seq uint64) {
	b := p.beacons[seq%uint64(len(p.beacons))]
	if b.seq != seq || seq == 0 {
		return // too old to matter
	}
	from := b.at
	if planted.On(planted.LeaseFromReceipt) {
		from = r.now
	}
	p.leaseUntil = max(p.leaseUntil, from+b.lease)
	p.confirmedAt = max(p.confirmedAt, b.at)
	if r.leaseValid() {
		if len(r.held) > 0 {
			r.readmit = true
		}
		if len(r.leasing) > 0 {
			r.leaseBack()
		}
	}
}

// confirmed reports whether every counting member has answered a beacon that was sent after at,
// which no lease, however a clock may have stood still, can replace (rule 4). Where one has not
// and none is on its way, it is asked.
func (r *Resource) confirmed(at time.Duration) bool {
	if !r.cfg.ConfirmReads && (r.rec == nil || !r.rec.Confirm) {
		return true
	}
	all := true
	for _, p := range r.peers {
		if !p.counts || p.confirmedAt > at {
			continue
		}
		all = false
		if p.phase == phaseFollowing && p.beaconAt <= at {
			r.beaconTo(p)
		}
	}
	return all
}
