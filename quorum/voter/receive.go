package voter

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Receive takes one addressed frame that Router.Arrived, or the like, found to be for this node.
// peer is the node whose connection it came over. Ready has to follow.
func (v *Voter) Receive(peer string, f Frame) {
	e := f.Envelope()
	switch {
	case v.err != nil || v.book.id.Lost:
		return
	case f.Kind == FrameHello:
		v.hear(peer, f)
		return
	case e.To != v.book.id.Voter:
		return // to the voter that this node was before its ledger was lost or given up (rule 14)
	case !v.admit(peer, e) || v.idle():
		return
	}
	switch f.Kind {
	case FrameRaft:
		v.step(peer, f, e)
	case FramePropose:
		v.proposed(e, f.propose())
	case FrameVerdict:
		v.judged(f.verdict())
	}
}

// admit checks that a frame is of this ledger's incarnation. An empty ledger without one takes
// the sender's: the sender could learn this random voter id only from a configuration that
// names it (rule 14).
func (v *Voter) admit(peer string, e Envelope) bool {
	id := v.book.id
	if id.Incarnation != 0 && (e.Incarnation == id.Incarnation || planted.On(planted.IncarnationCrossed)) {
		return true
	}
	if id.Incarnation == 0 && e.Incarnation != 0 && v.book.empty() {
		id.Incarnation = e.Incarnation
		if err := v.book.setIdentity(id); err != nil {
			v.err = err
			return false
		}
		return true
	}
	mark.Hit("message-of-another-incarnation")
	if v.foreign++; v.foreign&(v.foreign-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		v.log.Warn("message of another ledger refused", "incarnation", e.Incarnation, "own", id.Incarnation, "count", v.foreign)
	}
	if e.Hops == 0 && v.mach != nil {
		v.greet(peer)
	}
	return false
}

// step gives a peer's message to raft.
func (v *Voter) step(peer string, f Frame, e Envelope) {
	m := &pb.Message{}
	err := proto.Unmarshal(f.raft(), m)
	if err == nil {
		err = acceptable(m, e)
	}
	if err != nil {
		v.log.Warn("raft message refused", "peer", peer, "error", err)
		return
	}
	if last := v.book.last(); m.GetType() == pb.MsgHeartbeat && m.GetCommit() > last {
		v.confessLoss(m.GetCommit(), last)
		return
	}
	if err := v.rn.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
		v.log.Debug("raft message not taken", "peer", peer, "error", err)
	}
}

// confessLoss ends this voter's part: the leader's heartbeat carries at most what this voter has
// acknowledged, so a file that ends before it is older than its own promises (rule 14).
func (v *Voter) confessLoss(acknowledged, last uint64) {
	id := v.book.id
	id.Lost = true
	mark.Hit("ledger-older-than-its-promises")
	if err := v.book.setIdentity(id); err != nil {
		v.log.Error("ledger cannot record its loss", "error", err)
	}
	v.book.id = id
	v.log.Error("ledger file went back in time", "last", last, "acknowledged", acknowledged)
	v.setProblem(v.ownProblem())
}

// acceptable refuses what raft would take for granted, or panic on.
func acceptable(m *pb.Message, e Envelope) error {
	t := m.GetType()
	switch {
	case m.GetFrom() != e.From || m.GetTo() != e.To || raft.IsLocalMsgTarget(m.GetFrom()) || m.GetFrom() == 0:
		return fmt.Errorf("%w: from %x to %x in an envelope from %x to %x", ErrFrame, m.GetFrom(), m.GetTo(), e.From, e.To)
	case !travels(t):
		return fmt.Errorf("%w: %s does not travel", ErrFrame, t)
	case t == pb.MsgReadIndex || t == pb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 || len(m.GetEntries()[0].GetData()) != 8 {
			return fmt.Errorf("%w: %s with %d entries", ErrFrame, t, len(m.GetEntries()))
		}
		return nil
	case t != pb.MsgApp && len(m.GetEntries()) > 0:
		return fmt.Errorf("%w: %s with entries", ErrFrame, t)
	case m.GetTerm() == 0:
		return fmt.Errorf("%w: %s without a term", ErrFrame, t)
	case t == pb.MsgSnap && (m.GetSnapshot().GetMetadata().GetConfState() == nil || raft.IsEmptySnap(m.GetSnapshot())):
		return fmt.Errorf("%w: empty snapshot", ErrFrame)
	}
	if c := m.GetContext(); t == pb.MsgHeartbeatResp && len(c) != 0 && len(c) != 8 {
		return fmt.Errorf("%w: %s with a context of %d bytes", ErrFrame, t, len(c))
	}
	for i, x := range m.GetEntries() {
		if x.GetIndex() != m.GetIndex()+uint64(i)+1 || x.GetTerm() == 0 || x.GetTerm() > m.GetTerm() {
			return fmt.Errorf("%w: entry %d of term %d in %s", ErrFrame, x.GetIndex(), x.GetTerm(), t)
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

// silentRaft is a raft.Logger that keeps nothing. Panic and Fatal are raft's broken invariants:
// to go on would be to guess.
type silentRaft struct{}

func (silentRaft) Debug(...any)            {}
func (silentRaft) Debugf(string, ...any)   {}
func (silentRaft) Info(...any)             {}
func (silentRaft) Infof(string, ...any)    {}
func (silentRaft) Warning(...any)          {}
func (silentRaft) Warningf(string, ...any) {}
func (silentRaft) Error(...any)            {}
func (silentRaft) Errorf(string, ...any)   {}

func (silentRaft) Fatal(a ...any)            { panic("raft: " + fmt.Sprint(a...)) }
func (silentRaft) Fatalf(f string, a ...any) { panic("raft: " + fmt.Sprintf(f, a...)) }
func (silentRaft) Panic(a ...any)            { panic("raft: " + fmt.Sprint(a...)) }
func (silentRaft) Panicf(f string, a ...any) { panic("raft: " + fmt.Sprintf(f, a...)) }
