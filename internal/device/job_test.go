package device

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestCopy_ReadOfTheCoreIsSentAndZerosAreRecognised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		r.store.data[5<<20] = 1
		var id replication.ID
		var zeros []bool
		e := bitmap.Extent{Off: 5 << 20, Len: 1 << 20}
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			switch ev.Kind {
			case replication.EvPause:
				id = r.core.NewID()
				emit(replication.Action{Kind: replication.ActLocalRead, ID: id, Ext: e})
			case replication.EvResume:
				id = r.core.NewID()
				emit(replication.Action{Kind: replication.ActLocalRead, ID: id, Ext: bitmap.Extent{Len: 4097}})
			case replication.EvLocalDone:
				zeros = append(zeros, ev.Zero)
				if !ev.Zero {
					emit(replication.Action{Kind: replication.ActSend, Session: r.core.session, ID: id,
						Frame: wire.Frame{Type: wire.Copy, Extent: e, Payload: 1 << 20}})
				}
				emit(replication.Action{Kind: replication.ActFree, ID: id})
				return false
			}
			return true
		}
		stop := r.run()
		s := r.connect(7)
		_ = r.d.PauseResync()
		synctest.Wait()
		_ = r.d.ResumeResync()
		synctest.Wait()
		if len(zeros) != 2 || zeros[0] || !zeros[1] {
			t.Errorf("zeros %v, want [false true]", zeros)
		}
		if len(s.sent) != 1 || !bytes.Equal(s.sent[0], r.store.data[e.Off:e.End()]) {
			t.Error("the copy did not carry the blocks")
		}
		stop()
		r.checkBuffers()
	})
}

func TestHashAndCompare_MarkExactlyTheBlocksThatDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		key := [32]byte{1, 2, 3}
		e := bitmap.Extent{Off: 8192, Len: 10*4096 + 100} // the last block is short
		for i := range e.Len {
			r.store.data[e.Off+i] = byte(i * 7)
		}
		theirs := bytes.Clone(r.store.data[e.Off:e.End()])
		theirs[3*4096+5]++
		theirs[10*4096+99]++
		hashes := buf.Get(hashesLen(e.Len))
		appendHashes(hashes.B[:0], &key, theirs)
		r.mems = append(r.mems, hashes.Retain())
		var got replication.Diff
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			switch {
			case ev.Kind == replication.EvFrame && ev.Frame.Type == wire.HashRequest:
				emit(replication.Action{Kind: replication.ActLocalHash, ID: ev.ID, Ext: e, HashKey: &key})
				return false
			case ev.Kind == replication.EvFrame:
				emit(replication.Action{Kind: replication.ActLocalCompare, ID: ev.ID, Ext: e, HashKey: &key})
				return false
			case ev.Kind == replication.EvLocalDone && ev.Diff != nil:
				got = *ev.Diff
				emit(replication.Action{Kind: replication.ActFree, ID: ev.ID})
				return false
			case ev.Kind == replication.EvLocalDone:
				emit(replication.Action{Kind: replication.ActSend, Session: r.core.session, ID: ev.ID,
					Frame: wire.Frame{Type: wire.HashReply, Extent: e, Payload: uint32(hashesLen(e.Len))}})
				emit(replication.Action{Kind: replication.ActFree, ID: ev.ID})
				return false
			}
			return true
		}
		stop := r.run()
		s := r.connect(7)
		r.d.links[0].frames(s, []peer.Received{
			{Frame: wire.Frame{Type: wire.HashRequest, Extent: e}},
			{Frame: wire.Frame{Type: wire.HashReply, Extent: e}, Payload: hashes},
		})
		synctest.Wait()
		for i := range 11 {
			if got.Has(i) != (i == 3 || i == 10) {
				t.Errorf("block %d: differs %t", i, got.Has(i))
			}
		}
		want := appendHashes(nil, &key, r.store.data[e.Off:e.End()])
		if len(s.sent) != 1 || !bytes.Equal(s.sent[0], want) {
			t.Error("the reply does not carry the hashes of the local blocks")
		}
		stop()
		r.checkBuffers()
	})
}

func TestHashes_DependOnTheKey(t *testing.T) {
	data := make([]byte, 5000)
	a, b := appendHashes(nil, &[32]byte{1}, data), appendHashes(nil, &[32]byte{2}, data)
	if len(a) != hashesLen(5000) || len(a) != 2*wire.HashSize {
		t.Errorf("%d bytes of hashes", len(a))
	}
	if bytes.Equal(a[:wire.HashSize], b[:wire.HashSize]) || bytes.Equal(a[:wire.HashSize], a[wire.HashSize:]) {
		t.Error("hashes of different keys, or lengths, are equal")
	}
}

func TestAllZero_SeesEveryByte(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 12288, 12289} {
		b := make([]byte, n)
		if !allZero(b) {
			t.Errorf("%d zeros are not all zero", n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if n == 0 {
				continue
			}
			b[i] = 1
			if allZero(b) {
				t.Errorf("byte %d of %d was not seen", i, n)
			}
			b[i] = 0
		}
	}
}

func TestTurn_SlowInlineWorkIsHandedToTheWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Workers: 4}, Deps{})
		r.d.patience = inlineTime
		stop := r.run()
		r.store.latency = time.Millisecond
		var calls []*call
		var asked []*fakeRequest
		for i := range int64(5) {
			c, q := r.ask(replication.OpRead, i*4096, 4096)
			calls, asked = append(calls, c), append(asked, q)
		}
		start := time.Now() // the bubble's clock, which only the disk's latency moves
		r.submit(calls...)
		for _, q := range asked {
			<-q.done
		}
		if took := time.Since(start); took != 2*r.store.latency {
			t.Errorf("5 reads took %v, want one after the other only for the first", took)
		}
		stop()
		r.checkBuffers()
	})
}

func BenchmarkHash1M(b *testing.B) {
	data := make([]byte, 1<<20)
	out := make([]byte, 0, hashesLen(1<<20))
	b.SetBytes(1 << 20)
	for b.Loop() {
		appendHashes(out, &[32]byte{1}, data)
	}
}

func BenchmarkAllZero1M(b *testing.B) {
	data := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		allZero(data)
	}
}
