package replication

import (
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// pair is a primary that serves with one following peer, without any world around it.
func pair(t testing.TB) (*Resource, *[]Action) {
	r, err := New(Config{Resource: "r0", Node: "n1", Instance: 1, Peers: []string{"n2"}, NewID: func() uint64 { return 7 }},
		Stored{Meta: Meta{State: UpToDate, Size: 1 << 30}, Clean: true})
	if err != nil {
		t.Fatal(err)
	}
	var out []Action
	now := time.Hour
	step := func(ev Event) {
		ev.Now = now
		out = r.Step(&ev, out[:0])
		for i := 0; i < len(out); i++ { // saves are durable at once
			switch a := out[i]; a.Kind {
			case ActSaveMeta:
				out = append(out, r.Step(&Event{Kind: EvMetaSaved, Token: a.Token, Now: now}, nil)...)
			case ActSaveLog:
				out = append(out, r.Step(&Event{Kind: EvLogSaved, Gen: a.Log.Gen, Now: now}, nil)...)
			}
		}
	}
	step(Event{Kind: EvTick})
	now += time.Second
	step(Event{Kind: EvLedger, Record: &Record{Version: 2, Epoch: 1, Primary: "n1", PrimaryIsMe: true, SelfInSet: true, SelfKnown: true,
		InSet: []bool{true}, Failed: []bool{false}, Instances: []uint64{2}, Lineage: []uint64{5}, Size: 1 << 30}})
	step(Event{Kind: EvSessionUp, Session: 1, Hello: &wire.Hello{Node: "n2", Instance: 2, Size: 1 << 30, State: "UpToDate"}})
	step(Event{Kind: EvFrame, Session: 1, Frame: &wire.Frame{Type: wire.Follow, Epoch: 1, Msg: &wire.Message{State: "UpToDate", Kept: true}}})
	step(Event{Kind: EvFrame, Session: 1, Frame: &wire.Frame{Type: wire.BeaconAck, Epoch: 1, Seq: 1}})
	if !r.Serving() {
		t.Fatalf("does not serve: %+v", r.Status(now))
	}
	write(r, &out, now, 0) // warms the activity log
	id := r.NewID()
	step(Event{Kind: EvRequest, ID: id, Op: OpWrite, Ext: bitmap.Extent{Len: 4096}})
	finishWrite(r, &out, now, id)
	return r, &out
}

func write(r *Resource, out *[]Action, now time.Duration, off int64) {
	id := r.NewID()
	*out = r.Step(&Event{Kind: EvRequest, Now: now, ID: id, Op: OpWrite, Ext: bitmap.Extent{Off: off, Len: 4096}}, (*out)[:0])
	for _, a := range *out {
		if a.Kind == ActSaveLog {
			*out = r.Step(&Event{Kind: EvLogSaved, Now: now, Gen: a.Log.Gen}, *out)
			break
		}
	}
	finishWrite(r, out, now, id)
}

// ack lies on the heap once, as a session's batch of received frames does.
var ack = &wire.Frame{Type: wire.Ack, Epoch: 1}

func finishWrite(r *Resource, out *[]Action, now time.Duration, id ID) {
	ack.Seq = r.seq
	*out = r.Step(&Event{Kind: EvLocalDone, Now: now, ID: id}, (*out)[:0])
	*out = r.Step(&Event{Kind: EvFrame, Now: now, Session: 1, Frame: ack}, *out)
}

func TestStep_WriteOnPrimary_DoesNotAllocate(t *testing.T) {
	r, out := pair(t)
	now := r.now
	if n := testing.AllocsPerRun(1000, func() { write(r, out, now, 8192) }); n != 0 {
		t.Errorf("%.1f allocations for one write", n)
	}
	if last := (*out)[len(*out)-1]; last.Kind != ActReply || last.Err != nil {
		t.Errorf("the write was not answered: %+v", last)
	}
}

func BenchmarkStep_Write(b *testing.B) {
	r, out := pair(b)
	now := r.now
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		write(r, out, now, int64(i%1024)*4096)
	}
}
