package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

func TestConn_DoesWhatNetConnPromises(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		x, y := Pair()
		return x, y, func() { x.Close(); y.Close() }, nil
	})
}

// limit of the fake clock. Nothing here ticks, so only a test that fails comes near it.
const limit = 24 * time.Hour

// world is two hosts and a connection between them, in a bubble.
type world struct {
	*testing.T
	*Network
	a, b net.Conn
}

// bubble runs f with hosts a and b, where b listens on b:1 and has a connection from a.
func bubble(t *testing.T, f func(w *world)) {
	t.Helper()
	Bubble(t, limit, func(t *testing.T) {
		w := &world{T: t, Network: New()}
		ln, err := w.Host("b").Listen("tcp", "b:1")
		w.must(err)
		w.a, err = w.Host("a").Dial(t.Context(), "tcp", "b:1")
		w.must(err)
		w.b, err = ln.Accept()
		w.must(err)
		f(w)
		w.a.Close()
		w.b.Close()
		ln.Close()
		if n := w.Conns("a", "b"); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(c net.Conn, s string) {
	w.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		w.Fatalf("wrote %d of %d bytes: %v", n, len(s), err)
	}
}

// reads reads exactly want, and fails when that has not come by within.
func (w *world) reads(c net.Conn, want string, within time.Duration) {
	w.Helper()
	w.must(c.SetReadDeadline(time.Now().Add(within)))
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		w.Fatalf("read %q, %v, want %q", b[:n], err, want)
	}
	w.must(c.SetReadDeadline(time.Time{}))
}

// silent fails when a byte or an end comes within d.
func (w *world) silent(c net.Conn, d time.Duration) {
	w.Helper()
	w.must(c.SetReadDeadline(time.Now().Add(d)))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		w.Fatalf("read %d bytes, %v, want silence", n, err)
	}
	w.must(c.SetReadDeadline(time.Time{}))
}

// ends fails unless a read from c, and then a write to it, fail with want.
func (w *world) ends(c net.Conn, want error) {
	w.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		w.Errorf("read %d bytes, %v, want %v", n, err, want)
	}
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, want) {
		w.Errorf("wrote %d bytes, %v, want %v", n, err, want)
	}
}

func TestWrite_WaitsOnlyWhenTheWindowIsFull(t *testing.T) {
	bubble(t, func(w *world) {
		big := strings.Repeat("0123456789abcdef", Window/16)
		w.write(w.a, big)
		w.must(w.a.SetWriteDeadline(time.Now().Add(time.Minute)))
		start := time.Now()
		if n, err := w.a.Write([]byte("more")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			w.Errorf("wrote %d bytes, %v", n, err)
		}
		if d := time.Since(start); d != time.Minute {
			w.Errorf("waited %v", d)
		}
		w.must(w.a.SetWriteDeadline(time.Time{}))
		done := make(chan error, 1)
		go func() { _, err := w.a.Write([]byte("more")); done <- err }()
		w.reads(w.b, big+"more", 0+time.Second)
		w.must(<-done)
	})
}

func TestLatency_IsExactAndDialsTakeItTwice(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLatency("a", "b", 3*time.Millisecond)
		start := time.Now()
		w.write(w.a, "one")
		w.write(w.a, "two")
		w.reads(w.b, "onetwo", time.Second)
		if d := time.Since(start); d != 3*time.Millisecond {
			w.Errorf("arrived after %v", d)
		}
		start = time.Now()
		c, err := w.Host("a").Dial(w.Context(), "tcp", "b:1")
		w.must(err)
		if d := time.Since(start); d != 6*time.Millisecond {
			w.Errorf("dialed in %v", d)
		}
		w.write(w.a, "slow")
		w.SetLatency("a", "b", 0)
		w.write(w.a, "fast")
		w.reads(w.b, "slowfast", time.Second) // nothing overtakes
		c.Close()
	})
}

func TestCut_NothingArrivesUntilItIsHealed(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLatency("a", "b", time.Millisecond)
		w.write(w.a, "lost on the way, ")
		w.Cut("a", "b")
		w.write(w.a, "never sent, ")
		w.silent(w.b, time.Hour)
		w.write(w.b, "the other way works")
		w.reads(w.a, "the other way works", time.Second)
		w.Heal("a", "b")
		w.write(w.a, "and then")
		w.reads(w.b, "lost on the way, never sent, and then", time.Second)
	})
}

func TestCut_AnEndIsNotHeardOfEither(t *testing.T) {
	bubble(t, func(w *world) {
		w.Split("a", "b")
		w.a.Close()
		w.silent(w.b, time.Hour)
		w.write(w.b, "to nobody")
		w.Join("a", "b")
		if _, err := w.b.Read(make([]byte, 1)); err != io.EOF {
			w.Errorf("read: %v", err)
		}
		// What b had written was sent again, and a reset is the answer to it.
		if _, err := w.b.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			w.Errorf("write: %v", err)
		}
	})
}

func TestBreak_BothEndsFailAtOnceAndOnlyTheirs(t *testing.T) {
	bubble(t, func(w *world) {
		ln, err := w.Host("c").Listen("unix", "/c")
		w.must(err)
		x, err := w.Host("c").Dial(w.Context(), "unix", "/c")
		w.must(err)
		y, err := ln.Accept()
		w.must(err)
		failed := make(chan error, 1)
		go func() { _, err := w.b.Read(make([]byte, 1)); failed <- err }()
		synctest.Wait()
		if n := w.Break("b", "a"); n != 1 {
			w.Errorf("%d connections were broken", n)
		}
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
			w.Errorf("the read that waited: %v", err)
		}
		w.ends(w.a, syscall.ECONNRESET)
		w.ends(w.b, syscall.ECONNRESET)
		w.write(x, "whole")
		w.reads(y, "whole", time.Second)
		x.Close()
		y.Close()
		ln.Close()
	})
}

func TestLiveness_EndsAfterTheSilenceAndOnlyThen(t *testing.T) {
	for _, cut := range [][2]string{{"a", "b"}, {"b", "a"}} {
		bubble(t, func(w *world) {
			w.must(w.a.(*Conn).SetLiveness(10 * time.Second))
			w.silent(w.a, time.Hour) // nothing to say is no silence
			w.Cut(cut[0], cut[1])
			w.silent(w.a, 10*time.Second-1)
			w.Heal(cut[0], cut[1])
			w.silent(w.a, time.Hour)
			start := time.Now()
			w.Cut(cut[0], cut[1])
			w.ends(w.a, syscall.ETIMEDOUT)
			if d := time.Since(start); d != 10*time.Second {
				w.Errorf("ended after %v", d)
			}
			w.silent(w.b, time.Hour) // it was not told, and has no liveness
		})
	}
}

func TestCrash_LeavesTheOtherEndHalfOpen(t *testing.T) {
	bubble(t, func(w *world) {
		w.SetLatency("a", "b", time.Millisecond)
		w.write(w.b, "on its way")
		w.Host("b").Crash()
		w.ends(w.b, syscall.ECONNABORTED)
		w.silent(w.a, time.Hour)
		if n := w.Conns("a", "b"); n != 1 {
			w.Errorf("%d connections", n)
		}
		if _, err := w.Host("a").Dial(w.Context(), "tcp", "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			w.Errorf("dial: %v", err)
		}
		start := time.Now()
		w.write(w.a, "anybody there?")
		w.ends(w.a, syscall.ECONNRESET)
		if d := time.Since(start); d != 2*time.Millisecond {
			w.Errorf("reset after %v", d)
		}
	})
}

func TestClose_WithUnreadDataResets(t *testing.T) {
	bubble(t, func(w *world) {
		w.write(w.a, "question")
		w.write(w.b, "answer")
		w.b.Close()
		w.reads(w.a, "answer", time.Second)
		w.ends(w.a, syscall.ECONNRESET)
	})
	bubble(t, func(w *world) {
		w.write(w.a, "question")
		w.reads(w.b, "question", time.Second)
		w.write(w.b, "answer")
		w.b.Close()
		w.reads(w.a, "answer", time.Second)
		if _, err := w.a.Read(make([]byte, 1)); err != io.EOF {
			w.Errorf("after the end: %v", err)
		}
		w.write(w.a, "too late") // as on TCP, the next one fails
		if _, err := w.a.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			w.Errorf("write: %v", err)
		}
	})
}

func TestCloseWrite_EndsOneDirection(t *testing.T) {
	bubble(t, func(w *world) {
		w.write(w.a, "last words")
		w.must(w.a.(*Conn).CloseWrite())
		if _, err := w.a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			w.Errorf("write: %v", err)
		}
		if b, err := io.ReadAll(w.b); string(b) != "last words" || err != nil {
			w.Errorf("read %q, %v", b, err)
		}
		w.write(w.b, "heard")
		w.reads(w.a, "heard", time.Second)
	})
}

func TestDial_IsRefusedOrWaitsForThePath(t *testing.T) {
	bubble(t, func(w *world) {
		a := w.Host("a")
		for _, addr := range []string{"b:2", "a:1"} {
			if _, err := a.Dial(w.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
				w.Errorf("dial %s: %v", addr, err)
			}
		}
		if _, err := a.Dial(w.Context(), "tcp", "nowhere:1"); !errors.Is(err, syscall.EHOSTUNREACH) {
			w.Errorf("dial nowhere: %v", err)
		}
		w.Host("b").Refuse(true)
		if _, err := a.Dial(w.Context(), "tcp", "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			w.Errorf("dial: %v", err)
		}
		w.Host("b").Refuse(false)
		for _, cut := range [][2]string{{"a", "b"}, {"b", "a"}} {
			w.Cut(cut[0], cut[1])
			ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
			start := time.Now()
			_, err := a.Dial(ctx, "tcp", "b:1")
			cancel()
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != 5*time.Second {
				w.Errorf("dial over a cut path: %v after %v", err, time.Since(start))
			}
			time.AfterFunc(time.Minute, func() { w.Heal(cut[0], cut[1]) })
			c, err := a.Dial(w.Context(), "tcp", "b:1")
			w.must(err)
			c.Close()
		}
	})
}

func TestListen_AddressesAreTakenAndFreed(t *testing.T) {
	Bubble(t, limit, func(t *testing.T) {
		h := New().Host("127.0.0.1")
		first, err := h.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := first.Addr().String()
		if _, err := h.Listen("tcp", addr); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listen twice: %v", err)
		}
		if _, err := h.Listen("tcp", "127.0.0.2:1"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("listen on another host's address: %v", err)
		}
		waiting, err := h.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 2)
		go func() { _, err := first.Accept(); ended <- err }()
		if err := <-ended; err != nil {
			t.Errorf("accept: %v", err)
		}
		go func() { _, err := first.Accept(); ended <- err }()
		synctest.Wait()
		first.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		waiting.Close()
		if _, err := h.Listen("tcp", addr); err != nil {
			t.Error(err)
		}
	})
}

func TestGossip_PacketsArriveInTimeOrNever(t *testing.T) {
	Bubble(t, limit, func(t *testing.T) {
		n := New()
		var ends []*Gossip
		for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
			g, err := n.Host(ip).Gossip(ip + ":7781")
			if err != nil {
				t.Fatal(err)
			}
			if adv, port, err := g.FinalAdvertiseAddr("", 0); adv.String() != ip || port != 7781 || err != nil {
				t.Errorf("advertises %s:%d, %v", adv, port, err)
			}
			ends = append(ends, g)
		}
		a, b := ends[0], ends[1]
		send := func(s string) {
			if _, err := a.WriteTo([]byte(s), "127.0.0.2:7781"); err != nil {
				t.Error(err)
			}
		}
		n.SetLatency("127.0.0.1", "127.0.0.2", time.Millisecond)
		start := time.Now()
		send("one")
		p := <-b.PacketCh()
		if string(p.Buf) != "one" || p.From.String() != "127.0.0.1:7781" || p.Timestamp.Sub(start) != time.Millisecond {
			t.Errorf("got %q from %s after %v", p.Buf, p.From, p.Timestamp.Sub(start))
		}
		send("on its way when the path is cut")
		n.Cut("127.0.0.1", "127.0.0.2")
		send("over a cut path")
		Pass(time.Hour)
		n.Heal("127.0.0.1", "127.0.0.2")
		send("two")
		if p := <-b.PacketCh(); string(p.Buf) != "two" {
			t.Errorf("got %q", p.Buf)
		}
		c, err := a.DialTimeout("127.0.0.2:7781", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if s := <-b.StreamCh(); s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("stream from %s", s.RemoteAddr())
		} else {
			s.Close()
		}
		c.Close()
		// A stream that nobody takes does not keep the end from coming.
		c, err = a.DialTimeout("127.0.0.2:7781", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range ends {
			if err := g.Shutdown(); err != nil {
				t.Error(err)
			}
		}
		send("to nobody")
		c.Close()
	})
}
