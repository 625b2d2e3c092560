package replication

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// follower is the part of a Resource that follows a primary.
//
//	leader < 0 --Lead accepted--> joining the session (offer != nil): drain, persist, sync --> leader >= 0
type follower struct {
	leader      Peer // whom we follow, -1 for nobody
	leadEpoch   uint64
	leadSession SessionID
	hashKey     [32]byte
	outside     []Peer // whose bitmaps we keep while following
	equalAt     uint64 // version of the record under which we were last made equal
	member      bool   // the leader's record has us in the set
	offer       *offer // a Lead that is being accepted

	received flightQueue // frames above the watermark, in order of seq
	ackable  int         // entries of received that are already acknowledged
	lastSeq  uint64
	lastAck  uint64
	seenMark uint64
	syncs    []ID // flushes waiting for earlier frames
}

// offer is a Lead on its way to being answered.
type offer struct {
	peer    Peer
	session SessionID
	msg     *wire.Message
	epoch   uint64
	stage   offerStage
}

type offerStage uint8

const (
	offerDraining offerStage = iota // local I/O of earlier sessions goes on (rule 5)
	offerSaving                     // epoch and session id become durable (rule 8)
	offerSyncing                    // fdatasync: what we acknowledged is still there (rule 10)
)

// fromLeader takes a frame of a peer that leads, or wants to lead, this replica.
func (r *Resource) fromLeader(p *peer, ev *Event) error {
	f := ev.Frame
	if f.Type == wire.Lead {
		return r.ledBy(p, f)
	}
	if r.leader != p.idx || r.leadSession != p.session {
		return fmt.Errorf("%s frame from a node that does not lead this session", f.Type)
	}
	if f.Epoch != r.leadEpoch {
		return errOldEpoch
	}
	if f.Type != wire.Beacon {
		p.stamp = max(p.stamp, f.Arg)
	}
	r.watermarkIs(f.Watermark)
	switch f.Type {
	case wire.Write, wire.WriteZeroes, wire.Trim, wire.Copy, wire.CopyZeroes:
		return r.apply(p, ev)
	case wire.Handover:
		return r.takeHandover(p, f)
	case wire.Settled:
		r.takeSettled(f.Msg)
	case wire.Flush:
		i, o := r.claim(ev.ID)
		o.kind, o.seq, o.peer = opApplySync, f.Seq, p.idx
		o.state = opStarted
		r.syncs = append(r.syncs, r.id(i))
		r.startSyncs()
	case wire.Beacon:
		r.promised(f)
		r.reply(wire.Frame{Type: wire.BeaconAck, Seq: f.Seq}, 0)
	case wire.ResyncBegin:
		r.becomeTarget(p, f)
	case wire.HashRequest:
		return r.hashRequest(p, ev)
	case wire.JoinPrepare:
		r.becomeEqual(p, f)
	default:
		return fmt.Errorf("%s frame out of place", f.Type)
	}
	return nil
}

// ledBy judges a primary's Lead. It is accepted in advanceFollow once everything begun earlier
// has ended.
func (r *Resource) ledBy(p *peer, f *wire.Frame) error {
	switch m := f.Msg; {
	case m == nil || len(m.HashKey) != len(r.hashKey):
		return errors.New("frame Lead without a hash key")
	case planted.On(planted.OldEpochLeads) && r.role == roleSecondary && !r.failed:
		r.endFollowing()
		r.offer = &offer{peer: p.idx, session: p.session, msg: m, epoch: f.Epoch}
	case f.Epoch < r.meta.Epoch || (f.Epoch == r.epoch && r.role != roleSecondary):
		mark.Hit("lead-of-old-epoch-refused")
		r.refuse(p, fmt.Sprintf("%s has accepted epoch %d: a primary of epoch %d is of the past", r.cfg.Node, r.meta.Epoch, f.Epoch))
	case r.rec != nil && (f.Epoch < r.rec.Epoch || m.Version < r.rec.Version):
		r.refuse(p, fmt.Sprintf("the ledger record that %s acts on is older than the one %s has", p.node, r.cfg.Node))
	case r.failed:
		r.refuse(p, fmt.Sprintf("the disk of %s has failed", r.cfg.Node))
	case p.wentBack() && !slices.Contains(m.Outside, r.cfg.Node) && r.meta.State == UpToDate:
		mark.Hit("restored-primary-refused")
		r.refuseWith(p, &wire.Message{Reason: fmt.Sprintf("the replica on %s was put back to an earlier copy", p.node), State: restored})
	case !isPrefix(r.meta.Lineage, m.Lineage) && r.meta.State != Inconsistent:
		r.setState(Diverged)
		p.theirs = m.Lineage
		r.saveMeta(nil)
		r.notice(NoticeDiskState, "", "this replica holds writes that %s does not have: diverged; it keeps its data and serves nothing", p.node)
		r.refuseDiverged(p, fmt.Sprintf("%s holds writes of another history: diverged", r.cfg.Node))
	default:
		if p.wentBack() { // it holds the only copy that counts, and does not know what we lack of it
			p.markAll(r.meta.Size)
			p.stamp, p.older = 0, false
		}
		if r.role != roleSecondary {
			r.depose(fmt.Sprintf("%s leads epoch %d", p.node, f.Epoch))
		}
		r.endFollowing()
		r.offer = &offer{peer: p.idx, session: p.session, msg: m, epoch: f.Epoch}
	}
	return nil
}

// advanceFollow takes an accepted offer through its stages.
func (r *Resource) advanceFollow() {
	o := r.offer
	if o == nil || o.stage != offerDraining || (r.locals > 0 && !planted.On(planted.DrainSkippedAtLead)) {
		return
	}
	o.stage = offerSaving
	r.keepSuspects()
	r.meta.Epoch = o.epoch
	r.meta.PeerSession[o.peer], r.meta.PeerPending[o.peer] = o.msg.SessionID, 0
	r.peers[o.peer].hello.PendingID = o.msg.SessionID // it stored it before it offered it
	if planted.On(planted.UncleanClearedAtStart) {
		r.meta.Unclean = false
	}
	if planted.On(planted.EpochNotStored) {
		r.saveMeta(nil)
		r.keepOffer(o)
		return
	}
	r.saveMeta(func() {
		if r.offer == o {
			r.keepOffer(o)
		}
	})
}

// keepOffer proves by an fdatasync that what this replica acknowledged is still there.
func (r *Resource) keepOffer(o *offer) {
	o.stage = offerSyncing
	i, _ := r.alloc()
	op := &r.ops[i]
	op.kind, op.state, op.peer = opKept, opStarted, o.peer
	if planted.On(planted.KeptWithoutSync) {
		r.keptDone(i, op, nil)
		return
	}
	r.begin(i, ActLocalSync)
}

// keptDone answers the offer: what this replica acknowledged before is still there, unless the
// fdatasync says otherwise.
func (r *Resource) keptDone(i int32, _ *op, err error) {
	o := r.offer
	peer := r.ops[i].peer
	r.discard(i, false)
	if err != nil {
		r.diskError(err)
	}
	if peer < 0 { // of a forced promotion
		r.leading = r.leading || err == nil && r.role == roleStarting
		return
	}
	if o == nil || o.peer != peer || o.stage != offerSyncing {
		return
	}
	r.offer = nil
	p := r.peers[o.peer]
	if err != nil {
		r.refuse(p, fmt.Sprintf("the disk of %s has failed", r.cfg.Node))
		return
	}
	r.leader, r.leadEpoch, r.leadSession = p.idx, o.epoch, o.session
	copy(r.hashKey[:], o.msg.HashKey)
	r.outside = r.outside[:0]
	r.member = !slices.Contains(o.msg.Outside, r.cfg.Node)
	for _, n := range o.msg.Outside {
		if q, ok := r.byNode[n]; ok && q != p.idx {
			r.outside = append(r.outside, q)
		}
	}
	r.lastSeq, r.lastAck, r.seenMark = 0, 0, 0
	r.log.Renumber() // what was above the watermark is in the bitmaps by now
	r.report(p)
	r.reply(wire.Frame{Type: wire.Follow, Msg: &wire.Message{State: r.meta.State.String(), Kept: !r.meta.Unclean, Version: r.meta.Version}}, 0)
	r.notice(NoticeConnection, p.node, "following %s in epoch %d", p.node, o.epoch)
}

// report sends every block that this replica knows to differ from p or suspects (rule 6): exact
// ones first, then those that come from whole regions.
func (r *Resource) report(p *peer) {
	if planted.On(planted.ReportSkipped) {
		return
	}
	exact := p.dirty.Clone()
	if p.heldBy != p.hello.Boot { // what it acknowledged and had not flushed is gone
		exact.Or(p.unstable)
		exact.Or(p.flushing)
	}
	exact.AndNot(p.coarse)
	coarse := p.coarse.Clone()
	for _, part := range []struct {
		blocks *bitmap.Bitmap
		coarse bool
	}{{exact, false}, {coarse, true}} {
		for next := int64(0); next >= 0 && !part.blocks.Empty(); {
			var runs []byte
			runs, next = part.blocks.AppendRuns(nil, next, 256<<10)
			r.reply(wire.Frame{Type: wire.Bits, Msg: &wire.Message{Runs: runs, Coarse: part.coarse}}, 0)
		}
	}
}

// reply queues a frame to the leader.
func (r *Resource) reply(f wire.Frame, payload ID) {
	f.Epoch = r.leadEpoch
	switch f.Type {
	case wire.Ack, wire.FlushAck, wire.BeaconAck:
		f.Arg = r.stamp
	}
	r.emit(Action{Kind: ActSend, Peer: r.leader, Session: r.leadSession, Frame: f, ID: payload})
}

// keepSuspects marks the frames above the watermark: this replica may hold writes that others do
// not (rule 6).
func (r *Resource) keepSuspects() {
	for _, f := range r.received.items() {
		mark.Hit("frame-above-watermark")
		for _, p := range r.peers {
			if !planted.On(planted.ReceivedForgotten) {
				p.mark(f.ext)
			}
		}
	}
	r.received.reset()
	r.ackable = 0
}

// endFollowing gives up everything of the session that led us. What is being written locally
// goes on as an orphan; a new session waits for it (rule 5).
func (r *Resource) endFollowing() {
	r.offer = nil
	if r.leader < 0 {
		return
	}
	r.leader = -1
	for i := range r.ops {
		o := &r.ops[i]
		switch o.kind {
		case opApply, opApplySync, opHash:
			if o.state != opOrphan {
				r.discard(int32(i), false)
			}
		}
	}
	r.syncs = nil
	r.log.SetWatermark(math.MaxUint64)
}

// becomeTarget makes this replica durably Inconsistent before the first copied block (rule 12).
func (r *Resource) becomeTarget(p *peer, f *wire.Frame) {
	r.adopt(f.Msg)
	if !planted.On(planted.TargetStaysUpToDate) {
		r.setState(Inconsistent)
	}
	seq := f.Seq
	r.afterSaveFor(p, func() { r.reply(wire.Frame{Type: wire.ResyncReady, Seq: seq}, 0) })
}

// becomeEqual: every block is equal and stable here, the leader says. From now on this replica
// is up to date, and its own list of differences with the leader is settled (rule 11).
func (r *Resource) becomeEqual(p *peer, f *wire.Frame) {
	r.adopt(f.Msg)
	r.equalAt = r.meta.Version
	p.dirty.Reset()
	p.coarse.Reset()
	p.unstable.Reset()
	p.flushing.Reset()
	r.meta.Unclean = false
	r.setState(UpToDate)
	seq := f.Seq
	r.afterSaveFor(p, func() { r.reply(wire.Frame{Type: wire.JoinReady, Seq: seq}, 0) })
}

// adopt takes the primary's history over. Records older than the one it comes from, which a
// ledger copy that lags may still bring, say nothing about this replica any more.
func (r *Resource) adopt(m *wire.Message) {
	if m == nil {
		return
	}
	r.meta.Lineage = slices.Clone(m.Lineage)
	r.meta.Version = max(r.meta.Version, m.Version)
}

// afterSaveFor saves the metadata and then calls do, if p still leads the same session.
func (r *Resource) afterSaveFor(p *peer, do func()) {
	session := p.session
	r.saveMeta(func() {
		if r.leader == p.idx && r.leadSession == session {
			do()
		}
	})
}

func (r *Resource) setState(s DiskState) {
	if r.meta.State != s {
		r.notice(NoticeDiskState, "", "disk of this replica is %s, was %s", s, r.meta.State)
		r.meta.State = s
	}
}

// hashRequest answers with the keyed hash of each block, as it is after every earlier frame.
func (r *Resource) hashRequest(p *peer, ev *Event) error {
	f := ev.Frame
	if f.Extent.Off < 0 || f.Extent.Len <= 0 || f.Extent.Len > MaxRequest || f.Extent.End() > r.meta.Size {
		return fmt.Errorf("hashes of %s asked for, the device has %d bytes", f.Extent, r.meta.Size)
	}
	i, o := r.claim(ev.ID)
	o.kind, o.ext, o.seq, o.peer = opHash, f.Extent, f.Seq, p.idx
	r.lock(i)
	return nil
}

func (r *Resource) beginHash(i int32) {
	r.begin(i, ActLocalHash)
	key := r.hashKey
	r.out[len(r.out)-1].HashKey = &key
}

func (r *Resource) hashDone(i int32, o *op, err error) {
	if err != nil {
		r.reply(wire.Frame{Type: wire.Failed, Seq: o.seq, Arg: uint64(syscall.EIO)}, 0)
		r.diskError(err)
	} else {
		blocks := (o.ext.Len + bitmap.BlockSize - 1) / bitmap.BlockSize
		r.reply(wire.Frame{Type: wire.HashReply, Seq: o.seq, Extent: o.ext, Payload: uint32(blocks * wire.HashSize)}, r.id(i))
	}
	r.discard(i, false)
}
