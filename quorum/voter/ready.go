package voter

import (
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ha/lockstep/internal/mark"
)

// maxLogBytes of entries cause a snapshot before their number does.
const maxLogBytes = 8 << 20

// lazyTicks after a lone commit was learned, it is written even if nothing else is.
const lazyTicks = 20

// Tick lets one unit of time pass. Ready has to follow.
func (v *Voter) Tick() {
	if v.err != nil {
		return
	}
	v.ticks++
	if !v.idle() {
		v.rn.Tick()
	}
	v.advanceProposals()
	v.retryReads()
	v.leave()
	v.placeLeader()
	v.reconcile()
	v.greetAll()
	if v.ticks%lazyTicks == 0 {
		v.err = v.book.flush()
	}
}

// Ready carries out what the calls since the last one have led to, in the order that raft asks
// for: stable first, then sent. One Ready may follow many calls: what they have to write is then
// written once.
//
// An error ends this voter: the Storage failed, or the log holds what this version cannot read.
// Every later Ready returns it, too.
func (v *Voter) Ready() error {
	for v.err == nil {
		if v.err = v.turn(); v.err == nil && !v.answer() && !v.rn.HasReady() {
			return nil
		}
	}
	return v.err
}

func (v *Voter) turn() error {
	for v.rn.HasReady() {
		rd := v.rn.Ready()
		if rd.MustSync || len(rd.Entries) > 0 || !raft.IsEmptySnap(rd.Snapshot) {
			if err := v.book.save(rd.HardState, rd.Entries, rd.Snapshot); err != nil {
				return err
			}
		} else if rd.HardState != nil {
			v.book.pos.Hard, v.book.lazy = rd.HardState, true
		}
		for _, m := range rd.Messages {
			v.send(m)
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			if err := v.install(rd.Snapshot); err != nil {
				return err
			}
		}
		for _, e := range rd.CommittedEntries {
			if err := v.applyEntry(e); err != nil {
				return err
			}
		}
		v.confirmReads(rd.ReadStates)
		v.rn.Advance(rd)
	}
	v.noticeLeader()
	if err := v.maybeCompact(); err != nil {
		return err
	}
	v.publish()
	return nil
}

// noticeLeader lets proposals move on when there is another leader.
func (v *Voter) noticeLeader() {
	now := v.leadership()
	if now == v.lastLead {
		return
	}
	if now.lead != v.lastLead.lead {
		v.log.Info("ledger leader changed", "leader", v.nodeOf(now.lead), "term", now.term)
	}
	v.lastLead = now
	v.leave()
	v.advanceProposals()
	v.report()
}

// send sends raft's message to the voter it is for.
func (v *Voter) send(m *pb.Message) {
	f := raftFrame(v.envelope(m.GetTo()), m)
	sent := len(f)-4 < MaxFrame && v.net.Send(m.GetTo(), f, false) > 0
	if m.GetType() == pb.MsgSnap {
		status := raft.SnapshotFinish // it left; if it is lost, raft's probes find out
		if !sent {
			status = raft.SnapshotFailure
		}
		v.rn.ReportSnapshot(m.GetTo(), status)
	} else if !sent {
		v.rn.ReportUnreachable(m.GetTo())
	}
}

// install replaces the machine by a leader's snapshot.
func (v *Voter) install(snap *pb.Snapshot) error {
	m, err := decodeMachine(snap.GetData())
	if err != nil {
		return err
	}
	if id := m.state.Incarnation.ID; id != v.book.id.Incarnation {
		return fmt.Errorf("%w: snapshot of incarnation %x in incarnation %x", ErrCorrupt, id, v.book.id.Incarnation)
	}
	v.mach, v.changed, v.logBytes = m, true, 0
	mark.Hit("ledger-snapshot-installed")
	v.log.Info("ledger snapshot installed", "index", snap.GetMetadata().GetIndex())
	v.setProblem("")
	v.settleFromMemory()
	return nil
}

// applyEntry applies one committed entry and answers whoever waits for it.
func (v *Voter) applyEntry(e *pb.Entry) error {
	if isConfChange(e) {
		return v.applyConfChange(e)
	}
	if v.mach == nil {
		return fmt.Errorf("%w: entry %d without a state", ErrCorrupt, e.GetIndex())
	}
	before := v.mach.state
	id, res, err := v.mach.apply(e.GetIndex(), e.GetData())
	if err != nil {
		return err
	}
	v.book.pos.Applied, v.book.lazy = e.GetIndex(), true
	v.logBytes += len(e.GetData())
	v.changed = v.changed || before != v.mach.state
	if len(e.GetData()) > 0 {
		v.settle(id, res)
	}
	return nil
}

func (v *Voter) applyConfChange(e *pb.Entry) error {
	var cc pb.ConfChangeI
	var err error
	if e.GetType() == pb.EntryConfChangeV2 {
		v2 := &pb.ConfChangeV2{}
		cc, err = v2, proto.Unmarshal(e.GetData(), v2)
	} else {
		v1 := &pb.ConfChange{}
		cc, err = v1, proto.Unmarshal(e.GetData(), v1)
	}
	if err != nil {
		return fmt.Errorf("%w: configuration change %d: %w", ErrCorrupt, e.GetIndex(), err)
	}
	conf := v.rn.ApplyConfChange(cc)
	v.book.pos.Conf, v.book.pos.Applied = conf, e.GetIndex()
	v.log.Info("ledger voters changed", "voters", len(conf.GetVoters()), "learners", len(conf.GetLearners()))
	v.changed = true
	v.newConf = true // a voter refuses a snapshot whose configuration does not name it
	// Configuration and applied index must be stored together and at once: at a start, raft
	// applies the changes behind "applied" to the stored configuration.
	return v.book.save(nil, nil, nil)
}

// maybeCompact writes a snapshot when the log has grown long enough.
func (v *Voter) maybeCompact() error {
	behind := v.book.pos.Applied - v.book.snapIndex
	due := behind >= uint64(v.cfg.SnapshotEntries) || v.logBytes >= maxLogBytes || v.newConf
	if v.mach == nil || !due || behind == 0 {
		return nil
	}
	data, err := v.mach.encode()
	if err != nil {
		return err
	}
	v.logBytes, v.newConf = 0, false
	return v.book.compact(data, uint64(v.cfg.KeepEntries))
}

// publish shows the newest state, then queues the answers of those who wait for it.
func (v *Voter) publish() {
	if v.changed && v.mach != nil {
		v.changed = false
		v.shown = v.mach.state
		for _, n := range v.shown.Nodes {
			v.net.Learn(n.VoterID, n.Name)
		}
		if v.cfg.OnState != nil {
			v.cfg.OnState(v.shown)
		}
	}
	v.report()
	v.finishReads()
}
