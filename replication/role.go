package replication

import (
	"fmt"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
	"slices"
	"syscall"
	"time"
)

// ledger adopts a newer record of this resource.
func (r *Resource) ledger(rec *Record) {
	if rec.Version < r.meta.Version || (r.rec != nil && rec.Version <= r.rec.Version) {
		return // a copy of the ledger that lags behind what this replica has acted on
	}
	old := r.rec
	r.rec = rec
	r.meta.Version = rec.Version
	if r.prop.owedAt != 0 {
		r.prop.owedAt = r.awake // it was heard of
	}
	if rec.Size > r.meta.Size {
		r.grow(rec.Size)
	}
	r.adoptMembership(old)
	if !planted.On(planted.AnswersAfterRole) {
		r.loseRole() // first: who leaves the set must not complete what is not ours to answer any more (rule 15)
	}
	asked := slices.ContainsFunc(r.peers, func(p *peer) bool { return p.dropAsked })
	for _, p := range r.peers {
		r.peerRecord(p)
	}
	if asked {
		r.tellSettled() // what waited for the outcome of a Drop
	}
	if planted.On(planted.AnswersAfterRole) {
		r.loseRole()
	}
	if rec.PrimaryIsMe && rec.Epoch > r.epoch {
		r.startPrimary()
	}
	r.maxLeaseIs(rec.MaxLease)
	r.releasePromise()
	r.saveMeta(nil)
	r.readmit, r.regate = true, true
}

// loseRole ends a time as primary that the record says is over.
func (r *Resource) loseRole() {
	switch rec := r.rec; {
	case r.role == roleSecondary || rec.PrimaryIsMe && rec.Epoch == r.epoch:
	case rec.PrimaryIsMe && rec.Epoch > r.epoch:
		r.depose("promoted again")
	case r.role == roleStopped:
		r.becomeSecondary("stepped down")
	default:
		r.depose(fmt.Sprintf("the ledger records epoch %d, primary %q", rec.Epoch, rec.Primary))
	}
}

// adoptMembership draws the conclusions of this replica's own place in the set.
func (r *Resource) adoptMembership(old *Record) {
	in := r.selfInSet()
	switch {
	case in && r.meta.State == Outdated:
		// It was made UpToDate for this Join, and a record from before arrived in between. Outdated
		// says only that a record did not list it; what was copied into it is Inconsistent.
		r.setState(UpToDate)
	case in && r.meta.State == UpToDate:
	case !in && old != nil && old.SelfInSet && r.meta.State == UpToDate && r.rec.Version > r.equalAt:
		r.setState(Outdated)
	}
	if !in || r.meta.State != UpToDate {
		return
	}
	if !isPrefix(r.meta.Lineage, r.rec.Lineage) {
		r.setState(Diverged)
		return
	}
	r.meta.Lineage = r.rec.Lineage
}

// peerRecord adopts what the record says of p.
func (r *Resource) peerRecord(p *peer) {
	was := p.inSet
	p.inSet = r.rec.InSet[p.idx]
	p.dropAsked = false // it named an earlier version: by now it has applied or never will (rule 2)
	if inst := r.rec.Instances[p.idx]; inst != 0 && inst != p.instance {
		// A replica that we have tracked nothing for. A member of a set that was never written
		// to is equal by creation (rule 16); of anything else nothing is known.
		if p.instance != 0 || !p.inSet {
			p.markAll(r.meta.Size)
		}
		if p.instance != 0 { // the sessions were with another replica
			r.meta.PeerSession[p.idx], r.meta.PeerPending[p.idx], p.chain, p.stamp = 0, 0, 0, 0
		}
		p.instance, r.meta.PeerInstance[p.idx] = inst, inst
	}
	if planted.On(planted.ClearedByLedger) && p.inSet && !was {
		p.dirty.Reset()
		p.coarse.Reset()
	}
	if r.role == roleSecondary {
		p.counts = p.inSet
		return
	}
	switch {
	case was && !p.inSet:
		r.dropped(p)
	case !was && p.inSet:
		r.joined(p)
	case !p.inSet && p.joinAsked:
		// The version moved on, so the Join we asked for can never apply (rule 2).
		p.joinAsked, p.mustDrop, p.joinAt = false, false, 0
		if p.phase != phaseFollowing {
			r.discount(p)
		}
	}
	p.counts = p.counts || p.inSet
}

// dropped: the ledger no longer counts p in. Only now may writes be answered without it.
func (r *Resource) dropped(p *peer) {
	r.unhand(p)
	p.mustDrop, p.joinAsked, p.joinAt, p.joinPause = false, false, 0, 0
	if p.sync != syncIdle {
		r.endCopies(p)
	}
	r.discount(p)
	r.notice(NoticeDropped, p.node, "%s left the in-sync set: %s", p.node, orElse(p.why, "its connection is gone"))
	p.why = ""
}

func (r *Resource) joined(p *peer) {
	p.joinAsked, p.joinAt, p.joinPause, p.counts = false, 0, 0, true
	if p.sync == syncJoining {
		p.sync = syncIdle
	}
	n := p.resync.copied
	p.resync.running = false
	r.notice(NoticeResyncDone, p.node, "resync to %s is complete: %d bytes copied, %d found equal", p.node, n, p.resync.equal)
	r.out[len(r.out)-1].Notice.Bytes, r.out[len(r.out)-1].Notice.Equal = n, p.resync.equal
	r.notice(NoticeJoined, p.node, "%s joined the in-sync set", p.node)
	r.tellSettled()
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// startPrimary begins this process's time as primary of a new epoch (rule 3).
func (r *Resource) startPrimary() {
	r.endFollowing()
	r.epoch, r.roleAt, r.leading, r.stopFail = r.rec.Epoch, r.now, false, false
	if why := r.unfit(); why != "" {
		r.role, r.stopFail = roleStopped, r.failed
		r.notice(NoticeRole, "", "promotion to epoch %d declined: %s", r.epoch, why)
		return
	}
	r.role = roleStarting
	r.frozen = false
	for _, p := range r.peers {
		p.counts = p.inSet
		p.mustDrop, p.joinAsked, p.retryAt, p.chain = false, false, 0, 0
		p.joinAt, p.joinPause = 0, 0
		p.sync, p.needSettle = syncIdle, false
		if r.rec.Forced {
			p.markAll(r.meta.Size) // nobody handed us what they lack (rule 11)
		}
		if planted.On(planted.ReportOfLeaderOnly) && p.inSet {
			p.dirty.Reset()
			p.coarse.Reset()
		}
	}
	r.notice(NoticeRole, "", "promoted to primary of epoch %d", r.epoch)
}

// unfit returns why this replica cannot be primary of the recorded epoch, or "" (rule 9). An
// unclean replica is fit here: whoever proposed the Promote chose it knowingly.
func (r *Resource) unfit() string {
	forced := r.rec.Forced && (r.meta.State == Outdated || r.meta.State == Diverged)
	switch {
	case r.failed:
		return "its disk has failed"
	case !r.selfInSet():
		return "this replica is not in the in-sync set"
	case r.meta.State != UpToDate && !forced && !planted.On(planted.TargetPromotable):
		return fmt.Sprintf("its disk is %s", r.meta.State)
	case r.rec.Epoch <= r.meta.Epoch:
		return fmt.Sprintf("this replica has accepted epoch %d already", r.meta.Epoch)
	}
	return ""
}

// advanceRole takes a role that is coming or going to its next stage.
func (r *Resource) advanceRole() {
	r.yieldRole()
	switch r.role {
	case roleStarting:
		r.advanceStart()
	case roleStopping:
		if (r.started.n == 0 && r.reads == 0 && len(r.flush.running) == 0 && len(r.healing) == 0) || r.now >= r.stopBy {
			r.endServing()
		}
	}
}

// yieldRole gives the role up once the local disk has failed and another member can take over. One that
// does not serve yet has nobody to answer: it is as unfit as it would be at its promotion.
func (r *Resource) yieldRole() {
	if r.failed && (r.role == roleStarting || r.role == rolePrimary && r.otherMember()) {
		mark.Hit("disk-failure-hands-over")
		r.stop(r.meta.State == Failed) // a disk that merely hangs is not recorded as failed
	}
}

// advanceStart: local I/O of the earlier role ends (rule 5); the epoch becomes durable (rule 8);
// peers are led; the promises made to an earlier primary run out (rule 4); every member either
// follows or is dropped. Then the replica serves.
func (r *Resource) advanceStart() {
	if !r.leading {
		if (r.locals > 0 && !planted.On(planted.DrainSkippedAtPromotion)) || r.meta.Epoch == r.epoch {
			return
		}
		r.keepSuspects()
		r.meta.Epoch, r.meta.Unclean = r.epoch, false
		if r.rec.Forced {
			r.setState(UpToDate) // by the operator's word: it is the only copy now
			r.meta.Lineage = r.rec.Lineage
		}
		epoch := r.epoch
		r.saveMeta(func() {
			if r.epoch != epoch || r.role != roleStarting {
				return
			}
			if !r.rec.Forced {
				r.leading = true
				return
			}
			// What was forced is all there is: a later loss of power must not take it back again.
			i, _ := r.alloc()
			r.ops[i].kind, r.ops[i].state = opKept, opStarted
			r.begin(i, ActLocalSync)
		})
		return
	}
	if r.now < r.promiseUntil && !planted.On(planted.PromiseNotKept) {
		mark.Hit("promise-waited-for")
		return
	}
	for _, p := range r.peers {
		if p.inSet && p.phase != phaseFollowing && !planted.On(planted.WaitForPeerSkipped) {
			return
		}
		if p.phase != phaseFollowing && planted.On(planted.WaitForPeerSkipped) {
			r.discount(p)
		}
	}
	r.role = rolePrimary
	r.readmit = true
	r.notice(NoticeRole, "", "serving as primary of epoch %d", r.epoch)
}

// stop ends serving for good in this epoch.
func (r *Resource) stop(failed bool) {
	r.stopFail = r.stopFail || failed
	switch r.role {
	case rolePrimary:
		r.role = roleStopping
		r.stopBy = r.now + r.cfg.StopTimeout
		if failed {
			r.stopBy = r.now
		}
		r.notice(NoticeRole, "", "stopping to serve in epoch %d", r.epoch)
	case roleStarting:
		r.endServing()
	}
}

// endServing closes the clients' connections and asks the ledger for the StepDown: in this
// order (rule 3).
func (r *Resource) endServing() {
	clean := r.started.n == 0
	r.discardClients()
	r.role = roleStopped
	if clean {
		for _, p := range r.peers { // so that nothing is left above their watermark
			if p.phase == phaseFollowing {
				r.beaconTo(p)
			}
		}
	}
}

// becomeSecondary ends a time as primary that the ledger knows to have ended.
func (r *Resource) becomeSecondary(why string) {
	r.role, r.leading = roleSecondary, false
	for _, p := range r.peers {
		r.endLeading(p)
		p.counts = p.inSet
	}
	r.endVerify("this node is no longer primary")
	r.notice(NoticeRole, "", "secondary: %s", why)
}

// depose ends a time as primary that somebody else ended. Nothing unfinished is answered.
func (r *Resource) depose(why string) {
	r.discardClients()
	for _, p := range r.peers {
		if p.phase >= phaseOffering {
			r.closeSession(p, "no longer primary: "+why)
		}
	}
	r.becomeSecondary(why)
}

// discardClients closes every client connection and ends their requests unanswered (rule 15).
// What was begun and not completed everywhere is suspect from now on (rule 6).
func (r *Resource) discardClients() {
	if planted.On(planted.ErrorAtDemotion) {
		r.failUnfinished()
	}
	r.emit(Action{Kind: ActCloseClients})
	r.clients, r.opening = nil, nil
	for i := r.started.head; i >= 0; i = r.ops[i].next {
		mark.Hit("write-unfinished-at-role-loss")
		for _, p := range r.peers {
			if !planted.On(planted.InFlightForgotten) {
				p.mark(r.ops[i].ext)
			}
		}
	}
	r.started = newOpList()
	r.held, r.gated, r.healing, r.leasing = nil, nil, nil, nil
	r.flush = flushState{}
	r.reads = 0
	for i := range r.ops {
		o := &r.ops[i]
		if (o.kind == opRead || o.kind == opWrite || o.kind == opFlush) && o.state != opOrphan {
			r.discard(int32(i), true)
		}
	}
}

// failUnfinished is what ErrorAtDemotion plants: an error for everything that is unfinished.
func (r *Resource) failUnfinished() {
	for i := range r.ops {
		if o := &r.ops[i]; (o.kind == opRead || o.kind == opWrite || o.kind == opFlush) && !o.local && o.state != opOrphan && o.told == toldNothing {
			r.emit(Action{Kind: ActReply, ID: r.id(int32(i)), Err: syscall.EIO})
		}
	}
}

// invalidate has p's replica copied in full. It leaves the set first (rule 12).
func (r *Resource) invalidate(p *peer) {
	if !r.isPrimary() {
		return
	}
	if p.inSet && planted.On(planted.InvalidateBeforeDrop) && p.phase == phaseFollowing && p.sync == syncIdle {
		p.dirty.Mark(wholeDevice(r.meta.Size))
		p.sync = syncBeginning
		r.seq++
		r.send(p, wire.Frame{Type: wire.ResyncBegin, Seq: r.seq, Msg: r.state()}, 0)
		return
	}
	if p.inSet {
		p.mustDrop, p.why = true, "an operator invalidated it"
	}
	p.chain = 0
	p.dirty.Mark(wholeDevice(r.meta.Size))
	if p.phase == phaseFollowing && p.sync != syncIdle && p.sync != syncCopying {
		p.sync = syncIdle
	}
}

// discardData gives this replica's data and history up. A member never does (rule 12).
func (r *Resource) discardData() {
	if r.role != roleSecondary || r.selfInSet() || r.failed {
		r.notice(NoticeRefused, "", "this replica is in use: its data is not given up")
		return
	}
	r.endFollowing()
	r.meta.Lineage = nil
	r.setState(Inconsistent)
	r.saveMeta(nil)
	for _, p := range r.peers {
		r.closeSession(p, "this replica gave its data up")
	}
}

// grow makes room for a larger device. The backing has been grown with zeros on every member
// before the record said so (rule 16).
func (r *Resource) grow(size int64) {
	r.meta.Size = size
	for _, p := range r.peers {
		p.dirty.Resize(size)
		p.coarse.Resize(size)
		p.unstable.Resize(size)
		p.flushing.Resize(size)
	}
}

// Serving reports whether this replica is a primary that admits requests.
func (r *Resource) Serving() bool { return r.role == rolePrimary }

// Quiet reports whether no local I/O is under way and no write is unfinished.
func (r *Resource) Quiet() bool { return r.locals == 0 && r.started.n == 0 }

// NextTick is how long the next EvTick may be away: TickInterval while something is under way that a
// later one would keep waiting, and up to IdleTickInterval otherwise, until the next event.
func (r *Resource) NextTick() time.Duration {
	if r.idle() {
		return max(TickInterval, min(IdleTickInterval, r.cfg.BeaconInterval))
	}
	return TickInterval
}

// idle reports whether nothing is under way, and nobody is silent who should not be.
func (r *Resource) idle() bool {
	if r.live > 0 || r.frozen || r.role != rolePrimary && r.role != roleSecondary {
		return false
	}
	for _, p := range r.peers {
		follows := p.phase == phaseFollowing
		if p.counts && !follows && r.role == rolePrimary || follows && !p.inSet {
			return false
		}
		if (follows || r.leader == p.idx) && r.now-p.heardAt > 2*r.cfg.BeaconInterval {
			return false
		}
	}
	return true
}
