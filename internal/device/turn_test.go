package device

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestWrite_FrameLeavesBeforeTheLocalWriteAndTheReplyAfterIt(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	s := r.connect(7)
	r.tr.take()
	c, q := r.ask(replication.OpWrite, 8192, 4096)
	want := bytes.Clone(q.mem.B)
	r.submit(c)
	r.tr.want(t, "send write 1", "flush session", "write 8192+4096")
	r.d.links[0].frames(s, []peer.Received{{Frame: wire.Frame{Type: wire.Ack, Seq: 1}}})
	r.tr.want(t, "reply <nil>", "flush conn")
	if len(s.sent) != 1 || !bytes.Equal(s.sent[0], want) {
		t.Error("the frame did not carry the request's payload")
	}
	if !bytes.Equal(r.store.data[8192:8192+4096], want) {
		t.Error("the backing does not hold the request's payload")
	}
	r.checkBuffers()
}

func TestRead_AnsweredWithWhatTheBackingHolds(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	copy(r.store.data[4096:], "some bytes")
	c, q := r.ask(replication.OpRead, 4096, 10)
	r.submit(c)
	r.tr.want(t, "read 4096+10", "reply <nil>", "flush conn")
	if string(q.data) != "some bytes" {
		t.Errorf("read %q", q.data)
	}
	r.checkBuffers()
}

func TestBatch_OneFlushForManyRequests(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	var calls []*call
	want := []string{}
	for i := range int64(4) {
		c, _ := r.ask(replication.OpWrite, i*4096, 4096)
		calls = append(calls, c)
		want = append(want, fmt.Sprintf("write %d+4096", i*4096))
	}
	r.submit(calls...)
	want = append(want, "reply <nil>", "reply <nil>", "reply <nil>", "reply <nil>", "flush conn")
	r.tr.want(t, want...)
	r.checkBuffers()
}

func TestFrames_SecondaryWritesThenAcknowledgesOnce(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	s := r.connect(7)
	r.tr.take()
	var batch []peer.Received
	for i := range int64(3) {
		e := bitmap.Extent{Off: i * 8192, Len: 4096}
		batch = append(batch, peer.Received{
			Frame:   wire.Frame{Type: wire.Write, Seq: uint64(i + 1), Extent: e, Payload: 4096},
			Payload: r.payload(4096, byte(i)),
		})
	}
	r.d.links[0].frames(s, batch)
	r.tr.want(t, "write 0+4096", "write 8192+4096", "write 16384+4096", "send ack 3", "flush session")
	r.checkBuffers()
}

func TestFrames_PayloadOfATypeWithoutIDIsReleased(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	s := r.connect(7)
	r.d.links[0].frames(s, []peer.Received{{Frame: wire.Frame{Type: wire.Beacon}, Payload: r.payload(10, 0)}})
	r.checkBuffers()
}

func TestSlots_ReusedForThousandsOfRequests(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	for i := range int64(5000) {
		c, q := r.ask(replication.OpWrite, i%100*4096, 512)
		r.submit(c)
		if len(q.answers) != 1 {
			t.Fatalf("request %d has %d answers", i, len(q.answers))
		}
	}
	if n := len(r.d.slots); n > 1 {
		t.Errorf("%d slots for one request at a time", n)
	}
	r.checkBuffers()
}

func TestSplit_PiecesEndAtMultiplesAndOneReplyCarriesTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Workers: 1}, Deps{})
		stop := r.run()
		s := r.connect(7)
		r.tr.take()
		const off, n = 512, 2<<20 + 1024
		c, q := r.ask(replication.OpWrite, off, n)
		want := bytes.Clone(q.mem.B)
		r.submit(c)
		synctest.Wait()
		got := r.tr.take()
		wantLines := []string{"send write 1", "send write 2", "send write 3", "flush session",
			"write 2097152+1536", "write 512+1048064", "write 1048576+1048576"}
		slices.Sort(got)
		slices.Sort(wantLines)
		if !slices.Equal(got, wantLines) {
			t.Errorf("happened %q, want %q", got, wantLines)
		}
		if !bytes.Equal(bytes.Join(s.sent, nil), want) || !bytes.Equal(r.store.data[off:off+n], want) {
			t.Error("the pieces are not the request's payload")
		}
		if len(q.answers) != 0 {
			t.Error("answered before the peer acknowledged")
		}
		for seq := range uint64(3) {
			r.d.links[0].frames(s, []peer.Received{{Frame: wire.Frame{Type: wire.Ack, Seq: seq + 1}}})
		}
		if len(q.answers) != 1 || q.answers[0] != nil {
			t.Errorf("answers %v, want one success", q.answers)
		}

		c, q = r.ask(replication.OpRead, 0, 3<<20)
		r.store.mu.Lock()
		r.store.err = syscall.EIO
		r.store.mu.Unlock()
		r.submit(c)
		synctest.Wait()
		if len(q.answers) != 1 || !errors.Is(q.answers[0], syscall.EIO) {
			t.Errorf("answers %v, want EIO once", q.answers)
		}
		stop()
		r.checkBuffers()
	})
}

func TestSplit_TrimsTakeFewRegions(t *testing.T) {
	for _, tc := range []struct {
		off, n int64
		want   int
	}{
		{0, 1, 1},
		{0, replication.MaxZeroes, 1},
		{1, replication.MaxZeroes, 2},
		{replication.MaxZeroes - 1, 2, 2},
		{4096, 3 * replication.MaxZeroes, 4},
	} {
		e := bitmap.Extent{Off: tc.off, Len: tc.n}
		got := 0
		for rest := e; rest.Len > 0; got++ {
			p := piece(rest, replication.MaxZeroes)
			if p.Len <= 0 || p.Off/replication.MaxZeroes != (p.End()-1)/replication.MaxZeroes {
				t.Fatalf("piece %s of %s", p, e)
			}
			rest = bitmap.Extent{Off: p.End(), Len: rest.End() - p.End()}
		}
		if n := pieces(e, replication.MaxZeroes); n != tc.want || got != tc.want {
			t.Errorf("%s: pieces says %d, there are %d, want %d", e, n, got, tc.want)
		}
	}
}

func TestWorkers_LargeWriteIsAnsweredAndFlushedByAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		stop := r.run()
		c, _ := r.ask(replication.OpWrite, 0, inlineMax+1)
		r.submit(c)
		synctest.Wait()
		r.tr.want(t, fmt.Sprintf("write 0+%d", inlineMax+1), "reply <nil>", "flush conn")
		stop()
		r.checkBuffers()
	})
}

func TestWorkers_DirectModeLeavesNothingToTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Direct: true}, Deps{})
		stop := r.run()
		r.store.gate = make(chan struct{})
		c, q := r.ask(replication.OpRead, 0, 512)
		r.submit(c) // would wait for the gate
		synctest.Wait()
		if len(q.answers) != 0 {
			t.Error("answered without a read")
		}
		r.store.gate <- struct{}{}
		synctest.Wait()
		if len(q.answers) != 1 {
			t.Error("not answered")
		}
		stop()
		r.checkBuffers()
	})
}

func TestClose_WhileBusyWaitsForTheDiskAndLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Workers: 2}, Deps{})
		stop := r.run()
		s := r.connect(7)
		r.store.gate = make(chan struct{})
		var asked []*fakeRequest
		for i := range int64(5) {
			c, q := r.ask(replication.OpWrite, i<<20, 512<<10)
			asked = append(asked, q)
			r.submit(c)
		}
		synctest.Wait()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop()
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("Run returned while the disk was at work")
		default:
		}
		for range 5 {
			r.store.gate <- struct{}{}
		}
		<-stopped
		r.store.gate = nil
		r.d.links[0].down(s, errStop)
		if err := r.d.Close(false); err != nil {
			t.Error(err)
		}
		for i, q := range asked {
			if len(q.answers) != 1 || !errors.Is(q.answers[0], nbd.ErrDrop) {
				t.Errorf("request %d: answers %v, want one ErrDrop", i, q.answers)
			}
		}
		r.checkBuffers()
	})
}

func TestSubmit_AfterTheEndIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		r.run()()
		c, q := r.ask(replication.OpWrite, 0, 512)
		r.submit(c)
		if len(q.answers) != 1 || !errors.Is(q.answers[0], nbd.ErrDrop) {
			t.Errorf("answers %v, want one ErrDrop", q.answers)
		}
		if _, ok := r.d.Backend(); ok {
			t.Error("a device that has ended gives out a backend")
		}
		if err := r.d.SetRecord(&replication.Record{}); !errors.Is(err, ErrClosed) {
			t.Errorf("SetRecord: %v", err)
		}
		r.checkBuffers()
	})
}

func TestDoor_RequestOfAnEarlierTimeAsPrimaryIsDropped(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		if ev.Kind == replication.EvStop {
			emit(replication.Action{Kind: replication.ActCloseClients})
		}
		return true
	}
	old := r.d.doors
	if err := r.d.post(replication.EvStop, nil); err != nil {
		t.Fatal(err)
	}
	r.tr.take()
	// The role came back; the reader of the old connection was late.
	c, q := r.ask(replication.OpWrite, 0, 512)
	tn := r.d.begin(true)
	r.d.submit(tn, &door{n: old}, []*call{c})
	tn.finish()
	if len(q.answers) != 1 || !errors.Is(q.answers[0], nbd.ErrDrop) {
		t.Errorf("answers %v, want one ErrDrop", q.answers)
	}
	r.tr.want(t, "reply "+nbd.ErrDrop.Error(), "flush conn")
	r.checkBuffers()
}

func TestDrop_EndsARequestWithoutAnAnswerOncePiecesAreThrough(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	var ids []replication.ID
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		switch ev.Kind {
		case replication.EvRequest:
			ids = append(ids, ev.ID)
			return false
		case replication.EvStop:
			emit(replication.Action{Kind: replication.ActReply, ID: ids[0]})
			emit(replication.Action{Kind: replication.ActDrop, ID: ids[1]})
			return false
		}
		return true
	}
	c, q := r.ask(replication.OpWrite, 0, replication.MaxRequest+1)
	r.submit(c)
	if len(q.answers) != 0 {
		t.Error("answered while held")
	}
	if err := r.d.post(replication.EvStop, nil); err != nil {
		t.Fatal(err)
	}
	if len(q.answers) != 1 || !errors.Is(q.answers[0], nbd.ErrDrop) {
		t.Errorf("answers %v, want one ErrDrop", q.answers)
	}
	r.checkBuffers()
}

func TestAct_AnswerToUnknownOperationPanicsWithIt(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	defer func() {
		if msg := fmt.Sprint(recover()); msg != "device: answer to operation 0x100000005, which is no request" {
			t.Errorf("panic %q", msg)
		}
	}()
	tn := r.d.begin(true)
	tn.acts = []replication.Action{{Kind: replication.ActReply, ID: 1<<32 | 5}}
	tn.perform()
}
