package replication

import (
	"slices"
	"time"
)

// Status returns a snapshot for people.
func (r *Resource) Status(now time.Duration) Status {
	s := Status{Role: "Secondary", IO: "none", State: r.meta.State, Unclean: r.meta.Unclean, Hangs: r.hangs(), Epoch: r.meta.Epoch,
		SizeBytes: r.meta.Size, Held: len(r.held), Gated: len(r.gated), InFlight: r.started.n,
		LogActive: len(r.log.Active()), SelfInSet: r.selfInSet(), Version: r.meta.Version,
		Lineage: r.meta.Lineage}
	if r.rec != nil {
		s.Primary = r.rec.Primary
		s.Epoch = max(s.Epoch, r.rec.Epoch)
	}
	switch r.role {
	case rolePrimary:
		s.Role, s.Serving, s.IO = "Primary", true, "running"
		if r.failed {
			s.IO, s.Reason = "failed", "the backing device has failed and no other member can take over"
		} else if why := r.whyFrozen(); why != "" {
			s.IO, s.Reason, s.Closed = "frozen", r.frozenText(why, now), r.freeze.closed
			if r.freeze.erring && !s.Closed {
				s.IO = "failed"
			}
		}
	case roleStarting:
		s.Role, s.IO, s.Reason = "Primary", "frozen", r.whyStarting()
	case roleStopping:
		s.Role, s.IO, s.Reason = "Primary", "frozen", "stopping to serve: requests under way are being finished"
	case roleStopped:
		s.IO, s.Reason = "none", "waiting for the ledger to record that this node stepped down"
	}
	for _, p := range r.peers {
		s.Peers = append(s.Peers, r.peerStatus(p, now))
	}
	if r.verify.peer != nil {
		v := r.verify.status
		v.First = append([]int64(nil), v.First...)
		s.Verify = &v
	}
	return s
}

func (r *Resource) whyStarting() string {
	switch {
	case !r.leading:
		return "becoming primary: the new epoch is being stored"
	case r.now < r.promiseUntil:
		return "becoming primary: the lease of the earlier primary has to run out"
	}
	for _, p := range r.peers {
		if p.inSet && p.phase != phaseFollowing {
			return "becoming primary: " + p.node + " has to follow or to be dropped from the in-sync set"
		}
	}
	return "becoming primary"
}

func (r *Resource) peerStatus(p *peer, now time.Duration) PeerStatus {
	s := PeerStatus{Node: p.node, Connection: p.phase.String(), State: p.state, InSet: p.inSet,
		Dirty: p.dirty.Bytes(), Unstable: p.unstable.Bytes() + p.flushing.Bytes()}
	s.Timeline = r.timeline(p)
	switch {
	case p.phase != phaseNone:
	case s.Timeline != nil && !p.inSet:
		s.State = Diverged // the session is refused again and again; what it said of itself stays true
	default:
		s.State = StateUnknown
	}
	if !p.resync.running {
		return s
	}
	done := p.resync.copied + p.resync.equal
	x := &ResyncStatus{Done: done, Total: done + p.dirty.Bytes(), Copied: p.resync.copied, Equal: p.resync.equal,
		Rate: int64(p.resync.rate), Paused: r.paused}
	if x.Rate > 0 {
		x.ETA = time.Duration(float64(p.dirty.Bytes()) / p.resync.rate * float64(time.Second))
	}
	s.Resync = x
	return s
}

// timeline returns where the history that p was refused for parts from ours, nil if it does not, or
// p has given it up since.
func (r *Resource) timeline(p *peer) *Timeline {
	theirs := p.theirs
	if len(theirs) > 0 && p.phase != phaseNone {
		theirs = p.hello.Lineage
	}
	if isPrefix(theirs, r.meta.Lineage) || isPrefix(r.meta.Lineage, theirs) {
		return nil
	}
	t := &Timeline{Ours: r.meta.Lineage, Theirs: theirs}
	for i := len(theirs) - 1; i >= 0; i-- {
		if at := slices.Index(r.meta.Lineage, theirs[i]); at >= 0 {
			t.Fork, t.Ours, t.Theirs = theirs[i], r.meta.Lineage[at+1:], theirs[i+1:]
			break
		}
	}
	return t
}

// startStats begins to count a resync anew.
func (r *Resource) startStats(p *peer) {
	p.resync = resyncStats{running: true, lastAt: r.now}
}

// rate keeps p's resync rate up to date, twice a second.
func (r *Resource) rate(p *peer) {
	s := &p.resync
	dt := r.now - s.lastAt
	if !s.running || dt < 500*time.Millisecond {
		return
	}
	done := s.copied + s.equal
	now := float64(done-s.lastDone) / dt.Seconds()
	if s.rate == 0 {
		s.rate = now
	} else {
		s.rate += (now - s.rate) / 3
	}
	s.lastAt, s.lastDone = r.now, done
}
