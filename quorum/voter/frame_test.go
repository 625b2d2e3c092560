package voter

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ha/lockstep/quorum"
)

func sampleFrames(t testing.TB) [][]byte {
	t.Helper()
	e := Envelope{From: 1, To: 2, Incarnation: 3}
	term, from, to, index := uint64(4), uint64(1), uint64(2), uint64(9)
	m := &pb.Message{Type: pb.MsgApp.Enum(), Term: &term, From: &from, To: &to, Index: &index}
	return [][]byte{
		NewFrame(FramePing, make([]byte, 8)), NewFrame(FramePong, make([]byte, 8)), raftFrame(e, m),
		proposeFrame(e, proposeMsg{attempt: 7, id: proposalID{8}, command: []byte("{}")}),
		verdictFrame(e, verdictMsg{attempt: 7, id: proposalID{8}, in: true, term: 5}),
		helloFrame(e, hello{Format: helloFormat, Node: "A", Forks: []fork{{ID: 3, Parent: 4, Index: 9, Commit: 7, Tail: []termRun{{8, 2}}}}}),
	}
}

func TestFrame_RoundTrip(t *testing.T) {
	frames := sampleFrames(t)
	r := bytes.NewReader(bytes.Join(frames, nil))
	for i := range frames {
		f, err := ReadFrame(r)
		if err != nil {
			t.Fatal(i, err)
		}
		switch f.Kind {
		case FramePropose:
			if p := f.propose(); p.attempt != 7 || p.id != (proposalID{8}) || string(p.command) != "{}" {
				t.Errorf("%+v", p)
			}
		case FrameVerdict:
			if v := f.verdict(); v != (verdictMsg{attempt: 7, id: proposalID{8}, in: true, term: 5}) {
				t.Errorf("%+v", v)
			}
		}
		if g, err := ParseFrame(frames[i]); err != nil || g.Kind != f.Kind || !bytes.Equal(g.Body, f.Body) {
			t.Errorf("parsed %+v %v", g, err)
		}
		if f.Kind == FrameHello {
			if h, err := f.hello(); err != nil || h.Node != "A" || h.Forks[0].Tail[0] != (termRun{8, 2}) {
				t.Errorf("%+v %v", h, err)
			}
		}
		if f.Addressed() {
			if e := f.Envelope(); e != (Envelope{From: 1, To: 2, Incarnation: 3}) {
				t.Errorf("%+v", e)
			}
			g, err := ReadFrame(bytes.NewReader(f.passedOn()))
			if err != nil || g.Envelope().Hops != 1 {
				t.Errorf("passed on: %+v %v", g, err)
			}
		}
	}
	if _, err := ReadFrame(r); err != io.EOF {
		t.Error(err)
	}
}

func TestFrame_TruncatedAtEveryByteIsAnError(t *testing.T) {
	for _, b := range sampleFrames(t) {
		for n := range b {
			if _, err := ReadFrame(bytes.NewReader(b[:n])); err == nil {
				t.Fatalf("%d of %d bytes were taken for a frame", n, len(b))
			}
			if _, err := ParseFrame(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes were parsed as a frame", n, len(b))
			}
		}
	}
}

func TestFrame_HostileLengths(t *testing.T) {
	for _, head := range [][]byte{{0, 0, 0, 0, 1}, {0xff, 0xff, 0xff, 0xff, 3}, {4, 0, 0, 1, 3}, {0, 0, 0, 2, 0}, {0, 0, 0, 2, 99}, {0, 0, 0, 2, 3, 1}} {
		if _, err := ReadFrame(bytes.NewReader(head)); !errors.Is(err, ErrFrame) {
			t.Errorf("%x: %v", head, err)
		}
	}
	// 64 MiB are announced and 1 byte comes: not 64 MiB are allocated.
	if n := testing.AllocsPerRun(10, func() { _, _ = ReadFrame(bytes.NewReader([]byte{4, 0, 0, 0, 3, 1})) }); n > 5 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, b := range sampleFrames(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := ReadFrame(bytes.NewReader(b))
		if err != nil || !fr.Addressed() {
			return
		}
		e := fr.Envelope()
		_ = fr.passedOn()
		if fr.Kind == FrameHello {
			_, _ = fr.hello()
		}
		if fr.Kind == FrameRaft {
			m := &pb.Message{}
			if proto.Unmarshal(fr.raft(), m) == nil {
				_ = acceptable(m, e)
			}
		}
	})
}

// FuzzStep gives hostile messages to an empty voter's raft: none may make it panic.
func FuzzStep(f *testing.F) {
	for _, b := range sampleFrames(f)[2:3] {
		f.Add(b[headSize+envelopeSize:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pb.Message{}
		if proto.Unmarshal(b, m) != nil || acceptable(m, Envelope{From: m.GetFrom(), To: 2}) != nil {
			return
		}
		rn, err := raft.NewRawNode(&raft.Config{ID: 2, ElectionTick: 10, HeartbeatTick: 2, MaxSizePerMsg: math.MaxUint64,
			Storage: raftStorage{raft.NewMemoryStorage(), &pb.ConfState{}}, MaxInflightMsgs: 8, PreVote: true, CheckQuorum: true,
			Logger: silentRaft{}})
		if err != nil {
			t.Fatal(err)
		}
		if m.GetType() == pb.MsgHeartbeat && m.GetCommit() > 0 {
			return // step confesses its loss instead
		}
		_ = rn.Step(m)
	})
}

func FuzzDecodeMachine(f *testing.F) {
	st, err := quorum.Genesis("c", quorum.Incarnation{Counter: 1, ID: 1}, []quorum.Node{{Name: "A", VoterID: 1, Addr: "A:1"}})
	if err != nil {
		f.Fatal(err)
	}
	m := newMachine(st)
	cmd, err := quorum.EncodeCommand(createCmd(st, "r0", 1))
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := m.apply(2, append(make([]byte, 16), cmd...)); err != nil {
		f.Fatal(err)
	}
	b, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMachine(b)
		if err != nil {
			return
		}
		if _, err := m.encode(); err != nil {
			t.Fatal(err)
		}
	})
}
