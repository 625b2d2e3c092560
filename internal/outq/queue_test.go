package outq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/buf"
)

// socketPair returns two connected stream sockets of the network named, or a net.Pipe.
func socketPair(t testing.TB, network string) (a, b net.Conn) {
	t.Helper()
	if network == "pipe" {
		a, b = net.Pipe()
	} else {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if a, err = net.Dial(network, l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if b, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// start runs q until the test ends; the channel gives Run's result.
func start(t testing.TB, q *Queue) <-chan error {
	t.Helper()
	ret := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ret <- q.Run(context.Background()) })
	t.Cleanup(func() { q.Close(nil); wg.Wait() })
	return ret
}

var networks = []string{"unix", "tcp", "pipe"}

// frame builds a 16 byte header and a payload whose bytes all follow from (who, seq).
func frame(who, seq, n int) ([]byte, *buf.Buf) {
	h := make([]byte, 16)
	binary.BigEndian.PutUint32(h, uint32(who))
	binary.BigEndian.PutUint64(h[4:], uint64(seq))
	binary.BigEndian.PutUint32(h[12:], uint32(n))
	if n == 0 {
		return h, nil
	}
	p := buf.Get(n)
	for i := range p.B {
		p.B[i] = byte(who + seq + i)
	}
	return h, p
}

func readFrame(r io.Reader) (who, seq int, err error) {
	h := make([]byte, 16)
	if _, err := io.ReadFull(r, h); err != nil {
		return 0, 0, err
	}
	who, seq = int(binary.BigEndian.Uint32(h)), int(binary.BigEndian.Uint64(h[4:]))
	p := make([]byte, binary.BigEndian.Uint32(h[12:]))
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, 0, err
	}
	for i := range p {
		if p[i] != byte(who+seq+i) {
			return 0, 0, errors.New("payload is not the frame's own")
		}
	}
	return who, seq, nil
}

func TestQueue_KeepsTheOrderOfAppend_UnderConcurrentAppendAndFlush(t *testing.T) {
	const writers, frames = 8, 400
	sizes := []int{0, 0, 1, 100, 0, 4096, 70000}
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			a, b := socketPair(t, network)
			q := New(a)
			start(t, q)
			var wg sync.WaitGroup
			for who := range writers {
				wg.Go(func() {
					for seq := range frames {
						h, p := frame(who, seq, sizes[(who+seq)%len(sizes)])
						q.Append(h, p)
						if seq%3 == 0 || seq == frames-1 {
							q.Flush()
						}
					}
				})
			}
			var next [writers]int
			for range writers * frames {
				who, seq, err := readFrame(b)
				if err != nil {
					t.Fatal(err)
				}
				if seq != next[who] {
					t.Fatalf("writer %d: frame %d, want %d", who, seq, next[who])
				}
				next[who]++
			}
			wg.Wait()
		})
	}
}

func TestFlush_ReaderThatDoesNotRead_DoesNotBlockTheCaller(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			a, b := socketPair(t, network)
			q := New(a)
			start(t, q)
			const frames = 100
			for i := range frames { // far more than a socket's buffers take
				q.Append(frame(0, i, 128<<10))
				q.Flush()
			}
			if q.Len() < frames*(128<<10)/2 {
				t.Errorf("only %d bytes pending: the socket was not full", q.Len())
			}
			for i := range frames {
				if _, seq, err := readFrame(b); err != nil || seq != i {
					t.Fatalf("frame %d: got %d, %v", i, seq, err)
				}
			}
		})
	}
}

// owned reports whether somebody still holds a reference of p besides the test's own.
func owned(p *buf.Buf) (held bool) {
	defer func() { held = recover() == nil }()
	p.Release() // the test's own
	p.Release() // panics when it was the last
	return true
}

func TestClose_WithASocketFull_ReleasesEveryBuffer(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			a, _ := socketPair(t, network)
			q := New(a)
			ret := start(t, q)
			var held []*buf.Buf
			for i := range 500 {
				h, p := frame(0, i, 16<<10)
				held = append(held, p.Retain())
				q.Append(h, p)
				q.Flush()
			}
			reason := errors.New("told so")
			q.Close(reason)
			if err := <-ret; err != reason {
				t.Errorf("Run returned %v", err)
			}
			h, p := frame(0, 0, 10)
			held = append(held, p.Retain())
			q.Append(h, p) // after Close
			q.Flush()
			if q.Len() != 0 || q.Err() != reason {
				t.Errorf("after Close: %d bytes, %v", q.Len(), q.Err())
			}
			for i, p := range held {
				if owned(p) {
					t.Fatalf("buffer %d is still held", i)
				}
			}
		})
	}
}

func TestClose_RacingWithAppendAndFlush_ReleasesEveryBuffer(t *testing.T) {
	for range 50 {
		a, b := socketPair(t, "unix")
		q := New(a)
		ret := start(t, q)
		held := make([][]*buf.Buf, 4)
		var wg sync.WaitGroup
		for who := range held {
			wg.Go(func() {
				for i := range 50 {
					h, p := frame(who, i, 16<<10)
					held[who] = append(held[who], p.Retain())
					q.Append(h, p)
					q.Flush()
				}
			})
		}
		wg.Go(func() { io.CopyN(io.Discard, b, 300<<10) })
		wg.Go(func() { io.CopyN(io.Discard, b, 100<<10); q.Close(nil); b.Close() })
		wg.Wait()
		if err := <-ret; err != ErrClosed {
			t.Fatalf("Run returned %v", err)
		}
		a.Close()
		for _, ps := range held {
			for i, p := range ps {
				if owned(p) {
					t.Fatalf("buffer %d is still held", i)
				}
			}
		}
	}
}

func TestRun_PeerGone_ReturnsTheWriteError(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			a, b := socketPair(t, network)
			q := New(a)
			ret := start(t, q)
			b.Close()
			for q.Err() == nil {
				q.Append(frame(0, 0, 1000))
				q.Flush()
			}
			if err := <-ret; err == nil || err == ErrClosed {
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestRun_ContextCancelled_ClosesTheQueueWithTheCause(t *testing.T) {
	a, _ := socketPair(t, "unix")
	q := New(a)
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("role lost")
	cancel(cause)
	if err := q.Run(ctx); err != cause {
		t.Errorf("Run returned %v", err)
	}
}

func TestAppendBytes_SendsThePartGiven_AndLargeHeaders(t *testing.T) {
	a, b := socketPair(t, "unix")
	q := New(a)
	start(t, q)
	big := bytes.Repeat([]byte("h"), 3*chunkSize)
	p := buf.Get(10)
	copy(p.B, "0123456789")
	q.AppendBytes([]byte("a"), p.Retain(), p.B[3:5])
	q.Append(big, nil)
	q.AppendBytes(nil, p, p.B[9:])
	q.Append([]byte("z"), buf.Get(0))
	q.Flush()
	want := "a34" + string(big) + "9z"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(b, got); err != nil || string(got) != want {
		t.Errorf("got %.40q, %v", got, err)
	}
}

func TestOnWritten_SumsToWhatWasAppended(t *testing.T) {
	a, b := socketPair(t, "tcp")
	q := New(a)
	sum := make(chan int, 1)
	sum <- 0
	q.OnWritten(func(n int) { sum <- <-sum + n })
	ret := start(t, q)
	const frames = 300
	for i := range frames {
		q.Append(frame(1, i, 5000))
		q.Flush()
	}
	if _, err := io.CopyN(io.Discard, b, frames*5016); err != nil {
		t.Fatal(err)
	}
	q.Close(nil)
	<-ret
	if got := <-sum; got != frames*5016 {
		t.Errorf("%d bytes reported, %d sent", got, frames*5016)
	}
}

func TestFlush_HundredsOfSmallFrames_LeaveInOneVector(t *testing.T) {
	a, _ := socketPair(t, "unix")
	q := New(a)
	for i := range 500 {
		h, _ := frame(0, i, 0)
		q.Append(h, nil)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.segs) - q.head; n != 1 {
		t.Errorf("%d segments for 500 headers", n)
	}
}

// steady appends eight frames, one with a payload, flushes, and reads them away.
func steady(q *Queue, h []byte, p *buf.Buf, b net.Conn, sink []byte) error {
	for range 7 {
		q.Append(h, nil)
	}
	q.Append(h, p.Retain())
	q.Flush()
	_, err := io.ReadFull(b, sink)
	return err
}

func TestAppendFlush_DoNotAllocateInSteadyState(t *testing.T) {
	a, b := socketPair(t, "unix")
	q := New(a)
	start(t, q)
	h, p := frame(0, 0, 4096)
	sink := make([]byte, 8*16+4096)
	if n := testing.AllocsPerRun(500, func() {
		if err := steady(q, h, p, b, sink); err != nil {
			t.Fatal(err)
		}
	}); n > 0.1 {
		t.Errorf("%.2f allocations per eight frames", n)
	}
}

func BenchmarkAppendFlush(bm *testing.B) {
	a, b := socketPair(bm, "unix")
	q := New(a)
	start(bm, q)
	h, p := frame(0, 0, 4096)
	sink := make([]byte, 8*16+4096)
	bm.SetBytes(int64(len(sink)))
	bm.ReportAllocs()
	for bm.Loop() {
		if err := steady(q, h, p, b, sink); err != nil {
			bm.Fatal(err)
		}
	}
}
