package peer

import (
	"fmt"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// exchange connects two nodes: b acknowledges each batch of writes with one Ack. It returns a
// function that sends a burst of writes and waits until the last is acknowledged.
func exchange(t testing.TB, size, burst int) func() {
	a, b := newNode(t, "a"), newNode(t, "b")
	acked := make(chan uint64, 1024)
	a.frames = func(_ *Session, batch []Received) {
		acked <- batch[len(batch)-1].Frame.Seq
	}
	ack := &wire.Frame{Type: wire.Ack}
	b.frames = func(s *Session, batch []Received) {
		for i := range batch {
			batch[i].Payload.Release()
		}
		ack.Seq = batch[len(batch)-1].Frame.Seq
		s.Send(ack, nil)
		s.Flush()
	}
	_, addr := accepting(t, b, nil)
	dialing(t, a, addr, nil)
	s := a.next("up").s
	f := writeFrame(0, size)
	data := buf.Get(size)
	t.Cleanup(data.Release)
	return func() {
		for range burst {
			f.Seq++
			s.Send(f, data.Retain())
		}
		s.Flush()
		for <-acked != f.Seq {
		}
	}
}

func TestSession_DataFramesDoNotAllocate(t *testing.T) {
	const burst = 16
	for _, size := range []int{4 << 10, 256 << 10} {
		round := exchange(t, size, burst)
		for range 10 {
			round()
		}
		if n := testing.AllocsPerRun(20, round) / burst; n > 0.1 && !raceEnabled {
			t.Errorf("%.2f allocations per write of %d bytes and its ack", n, size)
		}
	}
}

func BenchmarkWriteAndAck(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		for _, burst := range []int{1, 32} {
			b.Run(fmt.Sprintf("size=%d/depth=%d", size, burst), func(b *testing.B) {
				round := exchange(b, size, burst)
				b.SetBytes(int64(size * burst))
				b.ReportAllocs()
				for b.Loop() {
					round()
				}
			})
		}
	}
}
