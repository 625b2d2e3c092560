package device

import (
	"os"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// echoCore answers every request once its local I/O is done; a write is sent to the peer, too. It
// keeps nothing, so that what allocates is the shell.
type echoCore struct {
	ids   uint32
	spare []replication.ID
}

func (c *echoCore) NewID() replication.ID {
	if n := len(c.spare); n > 0 {
		id := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return id + 1<<32
	}
	c.ids++
	return replication.ID(1<<32 | uint64(c.ids-1))
}

func (c *echoCore) Step(ev *replication.Event, out []replication.Action) []replication.Action {
	switch ev.Kind {
	case replication.EvRequest:
		return append(out,
			replication.Action{Kind: replication.ActSend, Session: 7, ID: ev.ID,
				Frame: wire.Frame{Type: wire.Write, Seq: 1, Extent: ev.Ext, Payload: uint32(ev.Ext.Len)}},
			replication.Action{Kind: replication.ActLocalWrite, ID: ev.ID, Ext: ev.Ext})
	case replication.EvLocalDone:
		c.spare = append(c.spare, ev.ID)
		return append(out, replication.Action{Kind: replication.ActReply, ID: ev.ID, Err: ev.Err})
	}
	return out
}

func (c *echoCore) EndBatch(out []replication.Action) []replication.Action { return out }
func (*echoCore) Fitness(time.Duration) (f replication.Fitness)            { return f }
func (c *echoCore) Status(time.Duration) (st replication.Status)           { return st }
func (c *echoCore) Hello(replication.Peer) (h wire.Hello)                  { return h }
func (c *echoCore) MayGoAlone(replication.Peer) error                      { return nil }
func (c *echoCore) CheckHello(replication.Peer, *wire.Hello) error         { return nil }
func (c *echoCore) Serving() bool                                          { return true }
func (c *echoCore) LeaseHeldAt(time.Duration) bool                         { return true }
func (c *echoCore) TakesClients() bool                                     { return true }
func (c *echoCore) Quiet() bool                                            { return true }
func (c *echoCore) NextTick() time.Duration                                { return replication.IdleTickInterval }
func (c *echoCore) Final() (m replication.Meta, p []replication.Page)      { return m, p }

// idle swallows what is given to it.
type idle struct{}

func (idle) ID() uint64                           { return 7 }
func (idle) Send(_ *wire.Frame, payload *buf.Buf) { payload.Release() }
func (idle) Flush()                               {}
func (idle) Close(error)                          {}

// memory is a backing that only copies.
type memory struct {
	backing
	b []byte
}

func (m memory) WriteAt(p []byte, off int64, _ bool) error { copy(m.b[off:], p); return nil }
func (m memory) Failed() error                             { return nil }

// release is a request whose answer gives its buffer back.
type release struct{ mem *buf.Buf }

func (r *release) Reply(error) { r.mem.Release() }

// writer gives a device batches of 4 KiB writes.
type writer struct {
	d     *Device
	conn  idle
	door  *door
	reqs  []release
	calls []*call
}

func newWriter(depth int) *writer {
	d := newDevice(Config{Resource: "r0", Node: "n1"}, Deps{}, memory{b: make([]byte, 16<<20)})
	d.core = &echoCore{}
	d.patience = time.Hour
	d.links = []*link{{d: d, session: idle{}}}
	return &writer{d: d, door: &door{}, reqs: make([]release, depth), calls: make([]*call, 0, depth)}
}

func (w *writer) batch() {
	t := w.d.begin(true)
	w.calls = w.calls[:0]
	for i := range w.reqs {
		r := &w.reqs[i]
		r.mem = buf.Get(4096)
		c := w.d.newCall()
		c.ans, c.conn, c.op = r, w.conn, replication.OpWrite
		c.ext, c.buf = bitmap.Extent{Off: int64(i) << 12, Len: 4096}, r.mem
		c.cost = w.d.window.cost(4096)
		w.calls = append(w.calls, c)
	}
	w.d.submit(t, w.door, w.calls)
	t.finish()
}

func TestWrite_DoesNotAllocateInSteadyState(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool forget things")
	}
	w := newWriter(8)
	w.batch()
	if n := testing.AllocsPerRun(500, w.batch); n > 0.1 {
		t.Errorf("%.2f allocations for 8 writes", n)
	}
}

func BenchmarkWrite4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "qd1", 32: "qd32"}[depth], func(b *testing.B) {
			w := newWriter(depth)
			b.ReportAllocs()
			b.SetBytes(4096)
			for n := 0; n < b.N; n += depth {
				w.batch()
			}
		})
	}
}

// benchDir is on a RAM disk where there is one: the disk is not what is measured.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkPairWrite4K is the whole path: NBD client, primary, loopback TCP, secondary and back.
func BenchmarkPairWrite4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "qd1", 32: "qd32"}[depth], func(b *testing.B) {
			p := newPair(b, benchDir(b), 64<<20, nil)
			p.promote("n1")
			c := nbdtest.Open(b, p.nodes["n1"].nbd.Addr(), "r0")
			var msg []byte
			payload := make([]byte, 4096)
			send := func(i int) {
				q := nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: uint64(i), Off: uint64(i) % (64 << 8) << 12, Len: 4096}
				msg = q.Append(msg[:0], payload)
				c.Write(msg)
			}
			b.SetBytes(4096)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < min(depth, b.N); i++ {
				send(i)
			}
			for i := depth; i < b.N+depth; i++ {
				if i-depth < b.N {
					c.Reply()
				}
				if i < b.N {
					send(i)
				}
			}
		})
	}
}
