package device

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// A write that is answered while its frame may have to be sent again keeps its payload, whoever got the
// answer.
func TestReplyEarly_PayloadGoesOnUntilTheOperationEnds(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	first := r.connect(7)
	var id replication.ID
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		switch ev.Kind {
		case replication.EvRequest:
			id = ev.ID
		case replication.EvTick:
			emit(replication.Action{Kind: replication.ActReplyEarly, ID: id, Err: syscall.EIO})
		case replication.EvFrame:
			emit(replication.Action{Kind: replication.ActSend, Session: 7, ID: id, Frame: wire.Frame{Type: wire.Write, Seq: 1, Payload: 4096}})
			emit(replication.Action{Kind: replication.ActFree, ID: id})
			return false
		}
		return true
	}
	c, q := r.ask(replication.OpWrite, 8192, 4096)
	want := bytes.Clone(q.mem.B)
	r.submit(c)
	r.d.tick()
	if len(q.answers) != 1 || !errors.Is(q.answers[0], syscall.EIO) || r.d.used != 1 {
		t.Fatalf("answers %v, %d slots in use", q.answers, r.d.used)
	}
	r.d.links[0].frames(first, []peer.Received{{Frame: wire.Frame{Type: wire.BeaconAck}}})
	if len(first.sent) != 2 || !bytes.Equal(first.sent[1], want) || len(q.answers) != 1 {
		t.Errorf("%d frames, answers %v", len(first.sent), q.answers)
	}
	r.checkBuffers()
}

// A request of several pieces is answered once, when each piece has ended or was answered early.
func TestReplyEarly_OfOnePieceWaitsForTheOthers(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	var ids []replication.ID
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		switch ev.Kind {
		case replication.EvRequest:
			ids = append(ids, ev.ID)
			return false
		case replication.EvTick:
			emit(replication.Action{Kind: replication.ActReplyEarly, ID: ids[1], Err: syscall.EIO})
		case replication.EvPause:
			emit(replication.Action{Kind: replication.ActReply, ID: ids[0]})
			emit(replication.Action{Kind: replication.ActFree, ID: ids[1]})
		}
		return true
	}
	c, q := r.ask(replication.OpWrite, 0, 2*replication.MaxRequest)
	r.submit(c)
	r.d.tick()
	if len(ids) != 2 || len(q.answers) != 0 {
		t.Fatalf("%d pieces, answers %v", len(ids), q.answers)
	}
	if err := r.d.PauseResync(); err != nil {
		t.Fatal(err)
	}
	if len(q.answers) != 1 || !errors.Is(q.answers[0], syscall.EIO) {
		t.Errorf("answers %v", q.answers)
	}
	r.checkBuffers()
}

func TestBackend_NoneWhileThePrimaryTakesNoClients(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	if _, ok := r.d.Backend(); !ok {
		t.Error("a primary that serves takes no connections")
	}
	r.core.closed = true
	if _, ok := r.d.Backend(); ok || !r.d.Serving() {
		t.Errorf("taken %v, serving %v", ok, r.d.Serving())
	}
}

// lonely makes a pair of which n1 is primary and then reaches neither n2 nor the ledger.
func lonely(t *testing.T, policy func(*pair)) (p *pair, n1 *node, model []byte) {
	const size = 8 << 20
	p = newPair(t, t.TempDir(), size, func(c *Config) { c.Timing.PeerTimeout = 300 * time.Millisecond })
	policy(p)
	model = make([]byte, size)
	p.promote("n1")
	p.workload("n1", model, 20, 1)
	n1 = p.nodes["n1"]
	n1.until("n2 is in sync", inSync)
	p.setSilent(true)
	if err := n1.device().SetConnected("n2", false); err != nil {
		t.Fatal(err)
	}
	n1.until("n2 is away", func(st *replication.Status) bool { return st.IO == "frozen" })
	return p, n1, model
}

func (p *pair) setSilent(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
}

func TestPair_NoQuorum_ErrorsBeginAndEndByThemselves(t *testing.T) {
	p, n1, model := lonely(t, func(p *pair) { p.ioError = true })
	c := nbdtest.Open(t, n1.nbd.Addr(), "r0")
	write := nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 1, Len: 4096}
	if errno, _ := c.Do(write, make([]byte, 4096)); errno != uint32(syscall.EIO) {
		t.Fatalf("errno %d", errno)
	}
	if st := n1.device().Status(); st.IO != "failed" || st.Closed {
		t.Errorf("%s, closed %v: %s", st.IO, st.Closed, st.Reason)
	}
	if err := n1.device().SetConnected("n2", true); err != nil {
		t.Fatal(err)
	}
	n1.until("n2 is back", func(st *replication.Status) bool { return st.IO == "running" })
	clear(model[:4096])
	if errno, _ := c.Do(write, model[:4096]); errno != 0 { // on the same connection
		t.Errorf("errno %d after the member is back", errno)
	}
	p.setSilent(false)
	p.compare(model)
}

func TestPair_FreezeDeadline_ClosesConnectionsAndLetsThemInAgain(t *testing.T) {
	p, n1, model := lonely(t, func(p *pair) { p.deadline = 500 * time.Millisecond })
	c := nbdtest.Open(t, n1.nbd.Addr(), "r0")
	c.Send(nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 1, Len: 4096}, make([]byte, 4096))
	c.Closed()
	st := n1.device().Status()
	_, err := n1.Lookup(context.Background(), "r0")
	if refused := new(nbd.ErrNotServed); !st.Closed || !st.Serving || !errors.As(err, &refused) {
		t.Errorf("closed %v, lookup: %v", st.Closed, err)
	}
	p.setSilent(false)
	n1.until("n2 is dropped", droppedOut)
	p.workload("n1", model, 20, 2)
	if err := n1.device().SetConnected("n2", true); err != nil {
		t.Fatal(err)
	}
	n1.until("n2 is in sync again", inSync)
	p.compare(model)
}
