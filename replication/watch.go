package replication

import (
	"fmt"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"time"
)

// noteFreeze reports when requests begin to wait and when they go on.
func (r *Resource) noteFreeze() {
	given := r.freeze.erring || r.freeze.closed // then nothing is held any more
	frozen := r.role == rolePrimary && (len(r.held) > 0 || given) && r.whyFrozen() != ""
	if frozen == r.frozen {
		return
	}
	r.frozen = frozen
	if frozen && given { // it was said how
		return
	}
	if frozen {
		r.notice(NoticeFrozen, "", "requests wait: %s", r.whyFrozen())
	} else if r.role == rolePrimary {
		r.notice(NoticeResumed, "", "requests go on")
	}
}

// whyFrozen says what requests wait for; "" when they only go as slowly as a peer does.
func (r *Resource) whyFrozen() string {
	for _, p := range r.peers {
		switch {
		case p.counts && p.phase != phaseFollowing && p.inSet:
			return fmt.Sprintf("%s is in the in-sync set and not connected; waiting for the ledger to drop it", p.node)
		case p.counts && p.phase != phaseFollowing:
			return fmt.Sprintf("whether %s joined the in-sync set is not known yet", p.node)
		case p.counts && r.now >= p.leaseUntil:
			return fmt.Sprintf("%s has not confirmed the lease", p.node)
		}
	}
	return ""
}

// early is how much before its time a beacon may leave. Without it a tick that comes a hair after the
// last one's interval finds the beacon not due, and it waits for one tick more.
const early = TickInterval / 4

// tick lets time act.
func (r *Resource) tick() {
	for _, p := range r.peers {
		if p.phase == phaseNone || p.closing {
			continue
		}
		silent := r.now - p.heardAt
		switch {
		case p.phase == phaseFollowing:
			if r.now-p.beaconAt >= r.cfg.BeaconInterval-early {
				r.beaconTo(p)
			}
			r.watchPeer(p, silent)
		case p.phase == phaseLeading && silent > r.cfg.StallTimeout:
			r.closeSession(p, fmt.Sprintf("no answer to Lead for %v", silent))
		case r.leader == p.idx && silent > r.cfg.PeerTimeout:
			r.closeSession(p, fmt.Sprintf("the primary is silent for %v", silent.Round(time.Millisecond)))
		}
		r.rate(p)
	}
	r.throttle.tick(r.now, r.cfg.LatencyPercent)
	r.watchDisk()
	r.retrySaves()
}

// watchDisk gives the local disk up when an I/O does not end. What hangs may still land, so this
// process touches the disk no more; the next one finds it healthy or not (rule 5).
func (r *Resource) watchDisk() {
	if r.failed || r.locals == 0 || r.awake-r.diskAt < r.cfg.DiskTimeout/16 {
		return
	}
	r.diskAt = r.awake
	for i := range r.ops {
		o := &r.ops[i]
		if !o.local || r.awake-o.localAt <= r.cfg.DiskTimeout {
			continue
		}
		if planted.On(planted.HungDiskServes) {
			return
		}
		mark.Hit("disk-hangs")
		r.failed = true
		err := fmt.Errorf("an I/O on %v did not end within %v", o.ext, r.cfg.DiskTimeout)
		r.emit(Action{Kind: ActDiskFailed, Err: err})
		r.notice(NoticeDiskState, "", "the backing device hangs: %v", err)
		if r.leader >= 0 {
			r.closeSession(r.peers[r.leader], "the backing device hangs")
		}
		return
	}
}

// hangs reports whether the disk was given up because it hung: no later process is bound by that.
func (r *Resource) hangs() bool { return r.failed && r.meta.State != Failed }

// watchPeer gives a follower up that is silent, or that answers but completes nothing.
func (r *Resource) watchPeer(p *peer, silent time.Duration) {
	stalled := r.now - p.progressAt
	asked := p.sync == syncBeginning || p.sync == syncPreparing || len(p.handing) > 0
	switch {
	case asked && r.now-p.askedAt > 3*r.cfg.StallTimeout:
		mark.Hit("stage-unanswered")
		r.closeSession(p, fmt.Sprintf("no answer for %v while the replica was being made equal", (r.now-p.askedAt).Round(time.Millisecond)))
	case silent > r.cfg.PeerTimeout:
		r.closeSession(p, fmt.Sprintf("no answer for %v", silent.Round(time.Millisecond)))
	case (p.inflight.len() > 0 || p.hashes > 0) && stalled > r.cfg.StallTimeout,
		p.flushSeq != 0 && r.now-p.flushAt > 3*r.cfg.StallTimeout:
		p.mustDrop, p.why = p.inSet, fmt.Sprintf("its disk completed nothing for %v", stalled.Round(time.Millisecond))
		p.retryAt = r.now + r.cfg.StallTimeout
		r.closeSession(p, p.why)
	}
}
