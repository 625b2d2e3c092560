package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// maxLogBytes of entries cause a snapshot before their number does.
const maxLogBytes = 8 << 20

// lazyTicks after a lone commit was learned, it is written even if nothing else is.
const lazyTicks = 20

// leadership is what is compared to notice a change.
type leadership struct{ term, lead uint64 }

// loop owns raft, the store and the machine.
func (l *Ledger) loop(ctx context.Context) error {
	ticker := time.NewTicker(l.cfg.TickInterval)
	defer ticker.Stop()
	defer l.abandon()
	l.connect()
	for {
		if err := l.ready(); err != nil {
			l.log.Error("ledger stopped", "error", err)
			return err
		}
		select {
		case <-ctx.Done():
			return l.store.flush()
		case <-ticker.C:
			if err := l.tick(); err != nil {
				l.log.Error("ledger stopped", "error", err)
				return err
			}
		case in := <-l.inbox:
			l.receive(in)
			for range len(l.inbox) { // one fsync for all that is here already
				l.receive(<-l.inbox)
			}
		case f := <-l.calls:
			f()
		}
	}
}

func (l *Ledger) tick() error {
	l.ticks++
	if !l.store.id.Lost {
		l.rn.Tick()
	}
	l.advanceProposals()
	l.retryReads()
	l.leave()
	l.placeLeader()
	l.reconcile()
	if l.ticks%lazyTicks == 0 {
		return l.store.flush()
	}
	return nil
}

// ready carries out what raft wants, in the order it asks for: stable first, then sent.
func (l *Ledger) ready() error {
	for l.rn.HasReady() {
		rd := l.rn.Ready()
		if rd.MustSync || len(rd.Entries) > 0 || !raft.IsEmptySnap(rd.Snapshot) {
			if err := l.store.save(rd.HardState, rd.Entries, rd.Snapshot); err != nil {
				return err
			}
		} else if rd.HardState != nil {
			l.store.hard, l.store.lazy = rd.HardState, true
		}
		for _, m := range rd.Messages {
			l.send(m)
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			if err := l.install(rd.Snapshot); err != nil {
				return err
			}
		}
		for _, e := range rd.CommittedEntries {
			if err := l.applyEntry(e); err != nil {
				return err
			}
		}
		l.confirmReads(rd.ReadStates)
		l.rn.Advance(rd)
	}
	l.noticeLeader()
	if err := l.maybeCompact(); err != nil {
		return err
	}
	l.publish()
	return nil
}

// noticeLeader lets proposals move on when there is another leader.
func (l *Ledger) noticeLeader() {
	b := l.rn.BasicStatus()
	now := leadership{term: b.GetTerm(), lead: b.Lead}
	if now == l.lastLead {
		return
	}
	if now.lead != l.lastLead.lead {
		l.log.Info("ledger leader changed", "leader", l.nodeOf(now.lead), "term", now.term)
	}
	l.lastLead = now
	l.leave()
	l.advanceProposals()
	l.report()
}

// send sends raft's message to the voter it is for.
func (l *Ledger) send(m *pb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("ledger: raft message does not encode: %v", err))
	}
	e := envelope{from: m.GetFrom(), to: m.GetTo(), incarnation: l.store.id.Incarnation}
	sent := len(b)+envelopeSize < maxFrame && l.mesh.send(m.GetTo(), raftFrame(e, b), false) > 0
	if m.GetType() == pb.MsgSnap {
		status := raft.SnapshotFinish // it left; if it is lost, raft's probes find out
		if !sent {
			status = raft.SnapshotFailure
		}
		l.rn.ReportSnapshot(m.GetTo(), status)
	} else if !sent {
		l.rn.ReportUnreachable(m.GetTo())
	}
}

// install replaces the machine by a leader's snapshot.
func (l *Ledger) install(snap *pb.Snapshot) error {
	m, err := decodeMachine(snap.GetData())
	if err != nil {
		return err
	}
	if id := m.state.Incarnation.ID; id != l.store.id.Incarnation {
		return fmt.Errorf("%w: snapshot of incarnation %x in incarnation %x", ErrCorrupt, id, l.store.id.Incarnation)
	}
	l.mach, l.changed, l.logBytes = m, true, 0
	l.log.Info("ledger snapshot installed", "index", snap.GetMetadata().GetIndex())
	l.setProblem("")
	l.settleFromMemory()
	return nil
}

func isConfChange(e *pb.Entry) bool {
	return e.GetType() == pb.EntryConfChange || e.GetType() == pb.EntryConfChangeV2
}

// applyEntry applies one committed entry and answers whoever waits for it.
func (l *Ledger) applyEntry(e *pb.Entry) error {
	if isConfChange(e) {
		return l.applyConfChange(e)
	}
	if l.mach == nil {
		return fmt.Errorf("%w: entry %d without a state", ErrCorrupt, e.GetIndex())
	}
	before := l.mach.state
	id, res, err := l.mach.apply(e.GetIndex(), e.GetData())
	if err != nil {
		return err
	}
	l.store.applied, l.store.lazy = e.GetIndex(), true
	l.logBytes += len(e.GetData())
	l.changed = l.changed || before != l.mach.state
	if len(e.GetData()) > 0 {
		l.settle(id, res)
	}
	return nil
}

func (l *Ledger) applyConfChange(e *pb.Entry) error {
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
	l.store.conf = l.rn.ApplyConfChange(cc)
	l.store.applied = e.GetIndex()
	l.log.Info("ledger voters changed", "voters", len(l.store.conf.GetVoters()), "learners", len(l.store.conf.GetLearners()))
	l.changed = true
	l.newConf = true // a voter refuses a snapshot whose configuration does not name it
	// Configuration and applied index must be stored together and at once: at a start, raft
	// applies the changes behind "applied" to the stored configuration.
	return l.store.save(nil, nil, nil)
}

// maybeCompact writes a snapshot when the log has grown long enough.
func (l *Ledger) maybeCompact() error {
	if l.mach == nil {
		return nil
	}
	snap, err := l.store.mem.Snapshot()
	if err != nil {
		return err
	}
	behind := l.store.applied - snap.GetMetadata().GetIndex()
	due := behind >= uint64(l.cfg.SnapshotEntries) || l.logBytes >= maxLogBytes || l.newConf
	if !due || behind == 0 {
		return nil
	}
	data, err := l.mach.encode()
	if err != nil {
		return err
	}
	l.logBytes, l.newConf = 0, false
	return l.store.compact(data, uint64(l.cfg.KeepEntries))
}

// publish shows the newest state to readers and subscribers.
func (l *Ledger) publish() {
	if l.changed && l.mach != nil {
		l.changed = false
		l.state.Store(l.mach.state)
		l.connect()
		l.subs.signal()
	}
	l.report()
	l.answerAll()
	l.finishReads()
}

// connect keeps links to all nodes of the list and of the state. Where both name an address,
// the list wins: it is what the operator of this node wrote last.
func (l *Ledger) connect() {
	if l.mesh.ctx == nil { // before Run
		return
	}
	addrs := map[string]string{}
	if l.mach != nil {
		for _, n := range l.mach.state.Nodes {
			addrs[n.Name] = n.Addr
			l.mesh.learn(n.VoterID, n.Name, true)
		}
	}
	for _, m := range l.cfg.Members {
		addrs[m.Name] = m.Addr
	}
	l.mesh.connect(addrs)
}

// receive takes one frame for this voter.
func (l *Ledger) receive(in inbound) {
	e := in.f.envelope()
	if l.store.id.Lost || !l.admit(e) {
		return
	}
	switch in.f.kind {
	case frameRaft:
		l.step(in, e)
	case framePropose:
		l.proposed(e, in.f.propose())
	case frameVerdict:
		l.judged(in.f.verdict())
	}
}

// admit checks that a frame is of this ledger's incarnation. An empty ledger without one takes
// the sender's: the sender could learn this random voter id only from a configuration that
// names it (rule 14).
func (l *Ledger) admit(e envelope) bool {
	id := l.store.id
	if e.incarnation == id.Incarnation && id.Incarnation != 0 {
		return true
	}
	if id.Incarnation == 0 && e.incarnation != 0 && l.store.empty() {
		id.Incarnation = e.incarnation
		if err := l.store.setIdentity(id); err != nil {
			l.log.Error("ledger cannot join", "error", err)
			return false
		}
		return true
	}
	if l.foreign++; l.foreign&(l.foreign-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		l.log.Warn("message of another ledger refused", "incarnation", e.incarnation, "own", id.Incarnation, "count", l.foreign)
	}
	return false
}

// step gives a peer's message to raft.
func (l *Ledger) step(in inbound, e envelope) {
	m := &pb.Message{}
	err := proto.Unmarshal(in.f.raft(), m)
	if err == nil {
		err = acceptable(m, e)
	}
	if err != nil {
		l.log.Warn("raft message refused", "peer", in.peer, "error", err)
		return
	}
	if last, _ := l.store.mem.LastIndex(); m.GetType() == pb.MsgHeartbeat && m.GetCommit() > last {
		l.confessLoss(m.GetCommit(), last)
		return
	}
	if err := l.rn.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
		l.log.Debug("raft message not taken", "peer", in.peer, "error", err)
	}
}

// confessLoss ends this voter's part: the leader's heartbeat carries at most what this voter has
// acknowledged, so a file that ends before it is older than its own promises (rule 14).
func (l *Ledger) confessLoss(acknowledged, last uint64) {
	id := l.store.id
	id.Lost = true
	if err := l.store.setIdentity(id); err != nil {
		l.log.Error("ledger cannot record its loss", "error", err)
	}
	l.store.id = id
	l.log.Error("ledger file went back in time", "last", last, "acknowledged", acknowledged)
	l.setProblem(lossProblem(l.cfg.Node))
}

func lossProblem(node string) string {
	return fmt.Sprintf("the ledger file on %s lacks entries that it had acknowledged: it was restored or damaged, and no longer votes. "+
		"Put the newest copy of its ledger.db back; a lost voter cannot be replaced by this version", node)
}

// acceptable refuses what raft would take for granted, or panic on.
func acceptable(m *pb.Message, e envelope) error {
	t := m.GetType()
	switch {
	case m.GetFrom() != e.from || m.GetTo() != e.to || raft.IsLocalMsgTarget(m.GetFrom()) || m.GetFrom() == 0:
		return fmt.Errorf("%w: from %x to %x in an envelope from %x to %x", errFrame, m.GetFrom(), m.GetTo(), e.from, e.to)
	case !travels(t):
		return fmt.Errorf("%w: %s does not travel", errFrame, t)
	case t == pb.MsgReadIndex || t == pb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 || len(m.GetEntries()[0].GetData()) != 8 {
			return fmt.Errorf("%w: %s with %d entries", errFrame, t, len(m.GetEntries()))
		}
		return nil
	case t != pb.MsgApp && len(m.GetEntries()) > 0:
		return fmt.Errorf("%w: %s with entries", errFrame, t)
	case m.GetTerm() == 0:
		return fmt.Errorf("%w: %s without a term", errFrame, t)
	case t == pb.MsgSnap && (m.GetSnapshot().GetMetadata().GetConfState() == nil || raft.IsEmptySnap(m.GetSnapshot())):
		return fmt.Errorf("%w: empty snapshot", errFrame)
	}
	if c := m.GetContext(); t == pb.MsgHeartbeatResp && len(c) != 0 && len(c) != 8 {
		return fmt.Errorf("%w: %s with a context of %d bytes", errFrame, t, len(c))
	}
	for i, x := range m.GetEntries() {
		if x.GetIndex() != m.GetIndex()+uint64(i)+1 || x.GetTerm() == 0 || x.GetTerm() > m.GetTerm() {
			return fmt.Errorf("%w: entry %d of term %d in %s", errFrame, x.GetIndex(), x.GetTerm(), t)
		}
	}
	return nil
}

// travels reports whether one voter sends messages of type t to another, here. Proposals have
// frames of their own.
func travels(t pb.MessageType) bool {
	switch t {
	case pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgPreVote, pb.MsgPreVoteResp, pb.MsgSnap,
		pb.MsgHeartbeat, pb.MsgHeartbeatResp, pb.MsgTimeoutNow, pb.MsgReadIndex, pb.MsgReadIndexResp:
		return true
	}
	return false
}
