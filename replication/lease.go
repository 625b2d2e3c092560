package replication

import (
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// promise is what this replica promised, as a member, to a primary: not to serve as primary
// itself before promiseUntil (rule 4).
type promise struct {
	promiseUntil time.Duration
	promiseEpoch uint64 // of the primary that holds it; 0: unknown, from before this process
}

// startPromise behaves as if a beacon of the longest lease had been acknowledged at the start:
// the process before this one may have done so.
func (r *Resource) startPromise(now time.Duration) {
	r.promiseUntil = now + r.withDrift(r.cfg.MaxLease)
}

func (r *Resource) withDrift(d time.Duration) time.Duration {
	return d + d*time.Duration(r.cfg.DriftPercent)/100
}

// promised records the promise that the acknowledgement of beacon f gives. The stamp is taken
// here, after receipt, and recorded before the acknowledgement leaves.
func (r *Resource) promised(f *wire.Frame) {
	d := min(time.Duration(f.Arg), time.Hour)
	if d <= 0 {
		return
	}
	r.promiseUntil = max(r.promiseUntil, r.now+r.withDrift(d))
	r.promiseEpoch = f.Epoch
}

// releasePromise ends the promise when its holder stepped down in its very epoch.
func (r *Resource) releasePromise() {
	if r.promiseEpoch != 0 && r.rec.Epoch == r.promiseEpoch && r.rec.Primary == "" {
		r.promiseUntil = 0
	}
}

// leaseValid reports whether every other member that counts confirmed a beacon sent within the
// lease, so that none of them can be primary.
func (r *Resource) leaseValid() bool {
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
	p.beacons[p.beaconSeq%uint64(len(p.beacons))] = beacon{seq: p.beaconSeq, at: r.now}
	p.beaconAt = r.now
	r.send(p, wire.Frame{Type: wire.Beacon, Seq: p.beaconSeq, Arg: uint64(r.cfg.Lease)}, 0)
}

// beaconAck extends the lease that p grants, counted from the beacon's own stamp.
func (r *Resource) beaconAck(p *peer, seq uint64) {
	b := p.beacons[seq%uint64(len(p.beacons))]
	if b.seq != seq || seq == 0 {
		return // too old to matter
	}
	p.leaseUntil = max(p.leaseUntil, b.at+r.cfg.Lease)
	if r.leaseValid() {
		if len(r.held) > 0 {
			r.readmit = true
		}
		if len(r.leasing) > 0 {
			r.leaseBack()
		}
	}
}
