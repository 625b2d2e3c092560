package nbd_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

func TestSlowReader_IsNotReadFrom_AndStallsNobodyElse(t *testing.T) {
	mem := nbdtest.NewMemory(mib)
	s, addr := serve(t, nbd.Config{Logger: quiet, MaxBytes: 4 * mib}, oneExport(mem, mib, nbd.FeaturesUsual))
	slow := nbdtest.Open(t, addr, "m")
	const reads = 50
	go func() { // asks for 50 MiB, far more than may be owed, and takes nothing yet
		for i := range reads {
			slow.Conn.Write(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(i), Len: mib}.Append(nil, nil))
		}
	}()
	if _, errno := slow.Reply(); errno != 0 { // it has begun
		t.Fatal(errno)
	}
	fast := nbdtest.Open(t, addr, "m")
	for i := range 1000 {
		if errno, _ := fast.Do(nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(i), Len: 4096}, nil); errno != 0 {
			t.Fatal(errno)
		}
		for _, info := range s.Conns() {
			if info.Owed > 4*mib+replies(reads) {
				t.Fatalf("connection %d is owed %d bytes", info.ID, info.Owed)
			}
		}
	}
	slow.Read(mib)
	for range reads - 1 {
		slow.Reply()
		slow.Read(mib)
	}
}

// replies is what n reply headers count, in bytes.
func replies(n int64) int64 { return 16 * n }

func TestMaxRequests_BoundsWhatTheBackendHolds(t *testing.T) {
	m := newManual()
	s, addr := serve(t, nbd.Config{Logger: quiet, MaxRequests: 10}, oneExport(m, mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	var all []byte
	for i := range 25 {
		all = nbdtest.Command{Type: nbdtest.CmdFlush, Cookie: uint64(i)}.Append(all, nil)
	}
	c.Write(all)
	for range 25 {
		r := <-m.got
		if n := s.Conns()[0].InFlight; n > 10 {
			t.Fatalf("%d in flight", n)
		}
		conn := r.Conn()
		r.Reply(nil)
		conn.Flush()
	}
	for range 25 {
		c.Reply()
	}
}

// retaining keeps a reference of every buffer it is given and completes requests from another
// goroutine, some before and some after their connection is gone.
type retaining struct {
	mu   sync.Mutex
	bufs []*buf.Buf
	wg   sync.WaitGroup
}

func (b *retaining) Submit(batch []*nbd.Request) {
	reqs := append([]*nbd.Request(nil), batch...)
	b.wg.Go(func() {
		for _, r := range reqs {
			if r.Buf != nil {
				b.mu.Lock()
				b.bufs = append(b.bufs, r.Buf.Retain())
				b.mu.Unlock()
			}
			c := r.Conn()
			runtime.Gosched()
			r.Reply(nil)
			c.Flush()
		}
	})
}

// lastReference reports whether the caller's reference of p is the only one, and gives it back.
func lastReference(p *buf.Buf) (last bool) {
	p.Release()
	defer func() { last = recover() != nil }()
	p.Release()
	return false
}

func TestClientDies_WithAFullPipeline_NoBufferLeaks(t *testing.T) {
	for round := range 20 {
		b := &retaining{}
		s, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(b, 4*mib, nbd.FeaturesUsual))
		c := nbdtest.Open(t, addr, "m")
		var all []byte
		for i := range 200 {
			all = nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: uint64(i), Len: 5000}.Append(all, make([]byte, 5000))
			all = nbdtest.Command{Type: nbdtest.CmdRead, Cookie: uint64(i), Len: 50000}.Append(all, nil)
		}
		go io.CopyN(io.Discard, c.Conn, int64(round)*100000)
		c.Conn.Write(all[:len(all)-round*37]) // may be cut short by the Close below
		c.Conn.Close()
		if err := s.WaitExport(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		b.wg.Wait()
		for i, p := range b.bufs {
			if !lastReference(p) {
				t.Fatalf("round %d: buffer %d is still held", round, i)
			}
		}
	}
}

func TestConnects_TenThousand_LeakNothing(t *testing.T) {
	s, addr := serve(t, nbd.Config{Logger: quiet, MaxConns: 64}, memoryExports(mib))
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for who := range 4 {
		wg.Go(func() {
			for i := range 2500 {
				conn, err := net.Dial(addr.Network(), addr.String())
				if err != nil {
					t.Error(err)
					return
				}
				switch (who + i) % 4 {
				case 1:
					conn.Write([]byte{0, 0, 0, 3})
				case 2:
					conn.Write(nbdtest.AppendOption([]byte{0, 0, 0, 3}, 7, nbdtest.InfoRequest("m")))
				case 3:
					b := nbdtest.AppendOption([]byte{0, 0, 0, 3}, 7, nbdtest.InfoRequest("m"))
					b = nbdtest.Command{Type: nbdtest.CmdRead, Len: 4096}.Append(b, nil)
					conn.Write(nbdtest.Command{Type: nbdtest.CmdDisc}.Append(b, nil))
					io.Copy(io.Discard, conn)
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
	done := func(st nbd.Stats) bool { return st.Open == 0 && st.Accepted+st.Refused == 10000 }
	for !done(s.Stats()) || runtime.NumGoroutine() > before {
		runtime.Gosched() // until it is so; a leak shows as a test that never ends
	}
}

// pipeline returns a function that sends depth writes and depth reads of 4 KiB and takes the
// replies.
func pipeline(tb testing.TB, c *nbdtest.Client, depth int) func() {
	var all []byte
	for i := range depth {
		all = nbdtest.Command{Type: nbdtest.CmdWrite, Off: uint64(i) << 12, Len: 4096}.Append(all, make([]byte, 4096))
		all = nbdtest.Command{Type: nbdtest.CmdRead, Off: uint64(i) << 12, Len: 4096}.Append(all, nil)
	}
	sink := make([]byte, depth*(16+16+4096))
	return func() {
		if _, err := c.Conn.Write(all); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.ReadFull(c.Conn, sink); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkPipeline(b *testing.B) {
	_, addr := serve(b, nbd.Config{Logger: quiet}, memoryExports(mib))
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("depth=%d", 2*depth), func(b *testing.B) {
			run := pipeline(b, nbdtest.Open(b, addr, "m"), depth)
			b.SetBytes(int64(depth) * 8192)
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}
