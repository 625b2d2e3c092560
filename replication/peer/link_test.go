package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestLink_HelloArrivesAndNamesTheSender(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	a.hello.LastID, b.hello.Lineage = 77, []uint64{1, 2}
	_, addr := accepting(t, b, nil)
	dialing(t, a, addr, nil)
	if h := b.next("up").theirs; h.Node != "a" || h.Resource != "r0" || h.LastID != 77 || h.Protocol != wire.Version {
		t.Errorf("b got %+v", h)
	}
	if h := a.next("up").theirs; h.Node != "b" || len(h.Lineage) != 2 {
		t.Errorf("a got %+v", h)
	}
}

func TestLink_ReconnectsAfterTheSessionBreaks(t *testing.T) {
	a, b, sa, _ := pair(t, nil)
	for range 10 {
		sa.Close(errors.New("cut"))
		a.next("down")
		b.next("down")
		sa = a.next("up").s
		b.next("up")
	}
}

func TestLink_NewConnectionReplacesTheSessionAHundredTimes(t *testing.T) {
	b := newNode(t, "b")
	l, addr := accepting(t, b, nil)
	var last *Session
	for i := range 100 {
		rawUp(t, addr) // the older connection stays open: b has not heard of its end
		if i > 0 {
			if e := b.next("down"); e.s != last || !errors.Is(e.err, ErrReplaced) {
				t.Fatalf("round %d: down of session %d: %v", i, e.s.ID(), e.err)
			}
		}
		last = b.next("up").s
	}
	if st := l.Stats(); st.State != Up || st.Sessions != 100 || st.Session != last.ID() {
		t.Errorf("%+v", st)
	}
}

func TestLink_HelloOfAnOlderAttemptDisplacesNothing(t *testing.T) {
	b := newNode(t, "b")
	_, addr := accepting(t, b, nil)
	greet := func(process, attempt uint64) *rawPeer {
		p := rawDial(t, addr)
		p.write(helloBytes(t, wire.Hello{Resource: "r0", Node: "a", Process: process, Attempt: attempt}))
		return p
	}
	p := greet(5, 2)
	p.greeting()
	p.write(wire.AppendAccept(nil))
	b.next("up")
	for _, attempt := range []uint64{1, 2} {
		if g := greet(5, attempt).greeting(); g.Kind != wire.GreetRefuse || !strings.Contains(g.Reason, "comes after 2") {
			t.Errorf("attempt %d: %s %q", attempt, g.Kind, g.Reason)
		}
	}
	p.write(encode(wire.Frame{Type: wire.Flush, Seq: 9}, nil))
	if e := b.next("frame"); e.frame.Seq != 9 {
		t.Errorf("frame %s", &e.frame)
	}
	if g := greet(6, 1).greeting(); g.Kind != wire.GreetHello { // the peer was restarted
		t.Errorf("%s %q", g.Kind, g.Reason)
	}
	b.next("down")
}

func TestLink_FlapsFromBothEndsNeverShowTwoSessions(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	_, addr := accepting(t, b, nil)
	dialing(t, a, addr, func(c *LinkConfig) { c.BackoffMin, c.BackoffMax = 1, 1 })
	for i := range 100 {
		n := a
		if i%2 == 0 {
			n = b
		}
		for e := range n.events { // skips what the other end's cuts have caused meanwhile
			if e.what == "up" {
				e.s.Close(errors.New("flap"))
				break
			}
		}
	}
}

// cutter forwards connections to addr and cuts each after a number of bytes from the dialer.
func cutter(t testing.TB, addr string, after func(i int) int64) string {
	var conns atomic.Int64
	return listen(t, func(ctx context.Context, in net.Conn) {
		n := after(int(conns.Add(1) - 1))
		out, err := net.Dial("tcp", addr)
		if err != nil {
			_ = in.Close()
			return
		}
		cut := func() { _, _ = in.Close(), out.Close() }
		stop := context.AfterFunc(ctx, cut)
		defer stop()
		var wg sync.WaitGroup
		wg.Go(func() {
			if n < 0 {
				_, _ = io.Copy(out, in)
			} else {
				_, _ = io.CopyN(out, in, n)
			}
			cut()
		})
		wg.Go(func() {
			_, _ = io.Copy(in, out)
			cut()
		})
		wg.Wait()
	})
}

func TestLink_ConnectionCutAtEveryByteOfTheHandshakeRecovers(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	h := a.hello
	h.Resource, h.Node = "r0", "a"
	h.Attempt = 1 << 20 // as long as any that the test will see
	handshake := len(helloBytes(t, h)) + wire.GreetingSize
	_, addr := accepting(t, b, nil)
	proxy := cutter(t, addr, func(i int) int64 {
		if i <= handshake {
			return int64(i)
		}
		return -1
	})
	l := dialing(t, a, proxy, func(c *LinkConfig) { c.BackoffMin, c.BackoffMax = 1, 1 })
	// A connection cut within the last bytes may count as up on either side; one that is not cut
	// carries a frame.
	for {
		s := a.next("up").s
		s.Send(writeFrame(9, 3), payload([]byte("abc")))
		s.Flush()
		if st := l.Stats(); st.Session == s.ID() && st.Sessions+st.Failures > uint64(handshake)+1 {
			break
		}
		a.next("down")
	}
	for e := range b.events {
		if e.what == "frame" && string(e.data) == "abc" {
			break
		}
	}
}

func TestLink_RefusalIsKnownOnBothSides(t *testing.T) {
	for _, refuser := range []string{"a", "b"} {
		t.Run(refuser+" refuses", func(t *testing.T) {
			a, b := newNode(t, "a"), newNode(t, "b")
			check := func(h wire.Hello) error { return errors.New("cluster " + h.Cluster + " is not ours") }
			if refuser == "a" {
				a.check = check
			} else {
				b.check = check
			}
			lb, addr := accepting(t, b, nil)
			la := dialing(t, a, addr, nil)
			for _, l := range []*Link{la, lb} {
				st := eventually(t, l, "refused", func(st LinkStats) bool {
					return strings.Contains(st.LastError, "cluster c1 is not ours")
				})
				local := strings.HasPrefix(st.LastError, "this node refused")
				if local != (l.cfg.Self == refuser) || st.Sessions != 0 {
					t.Errorf("%s: %q, %d sessions", l.cfg.Self, st.LastError, st.Sessions)
				}
			}
		})
	}
}

func TestLink_DisconnectEndsTheSessionUntilConnect(t *testing.T) {
	for _, dialer := range []bool{true, false} {
		a, b := newNode(t, "a"), newNode(t, "b")
		lb, addr := accepting(t, b, nil)
		la := dialing(t, a, addr, nil)
		a.next("up")
		b.next("up")
		l, n := lb, b
		if dialer {
			l, n = la, a
		}
		l.SetEnabled(false)
		if e := n.next("down"); !errors.Is(e.err, ErrDisabled) {
			t.Errorf("down: %v", e.err)
		}
		if !dialer {
			p := rawDial(t, addr)
			p.write(helloBytes(t, wire.Hello{Resource: "r0", Node: "a"}))
			if g := p.greeting(); g.Kind != wire.GreetRefuse || !strings.Contains(g.Reason, "disconnected") {
				t.Errorf("%s: %q", g.Kind, g.Reason)
			}
		}
		st := eventually(t, l, "disabled", func(st LinkStats) bool { return st.State == Disabled })
		if st.Session != 0 || st.Queued != 0 {
			t.Errorf("%+v", st)
		}
		l.SetEnabled(true)
		n.next("up")
	}
}

func TestLink_StartsDisabledWhenToldTo(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "b")
	_, addr := accepting(t, b, nil)
	la := dialing(t, a, addr, func(c *LinkConfig) { c.Disabled = true })
	if la.Stats().State != Disabled {
		t.Errorf("state %s", la.Stats().State)
	}
	la.SetEnabled(true)
	a.next("up")
}

func TestLink_ReplacedOnlyAfterDownHasReturned(t *testing.T) {
	b := newNode(t, "b")
	inFrames, gate := make(chan struct{}), make(chan struct{})
	b.frames = func(_ *Session, batch []Received) {
		close(inFrames)
		<-gate
	}
	_, addr := accepting(t, b, nil)
	first := rawUp(t, addr)
	first.write(encode(wire.Frame{Type: wire.Flush}, nil))
	b.next("up")
	<-inFrames
	second, third := rawDial(t, addr), rawDial(t, addr)
	h := helloBytes(t, wire.Hello{Resource: "r0", Node: "a"})
	second.write(h)
	third.write(h)
	if _, err := first.conn.Read(make([]byte, 1)); err == nil { // ends when one of them has taken over
		t.Error("the older session goes on")
	}
	if len(b.events) != 0 {
		t.Errorf("%s before Down", (<-b.events).what)
	}
	close(gate)
	if e := b.next("down"); !errors.Is(e.err, ErrReplaced) {
		t.Errorf("down: %v", e.err)
	}
}

func TestLink_CancelDuringDialAndHandshakeEndsRun(t *testing.T) {
	silent := listen(t, func(ctx context.Context, c net.Conn) {
		<-ctx.Done()
		_ = c.Close()
	})
	for _, wait := range []State{Waiting, Handshake} {
		dialed := make(chan struct{}, 1)
		l := NewLink(LinkConfig{Resource: "r0", Self: "a", Peer: "b", Handler: newNode(t, "a"),
			Dial: func(ctx context.Context) (net.Conn, error) {
				dialed <- struct{}{}
				if wait == Handshake {
					return dialTo(silent)(ctx)
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		stop := run(t, l)
		<-dialed
		eventually(t, l, wait.String(), func(st LinkStats) bool { return st.State == wait })
		stop()
	}
}

func TestBackoff_GrowsToItsLimitAndStartsOverAfterASteadySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		l := NewLink(LinkConfig{Resource: "r0", Self: "a", Peer: "b", Handler: newNode(t, "a"),
			Dial: func(context.Context) (net.Conn, error) {
				if at = append(at, time.Now()); len(at) == 12 {
					cancel()
				}
				return nil, errors.New("unreachable")
			}})
		start := time.Now()
		if err := l.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if !at[0].Equal(start) {
			t.Errorf("the first attempt waited %v", at[0].Sub(start))
		}
		full := DefaultBackoffMin
		for i := 1; i < len(at); i++ {
			if got := at[i].Sub(at[i-1]); got < full/2 || got > full {
				t.Errorf("wait %d: %v, want %v to %v", i, got, full/2, full)
			}
			full = min(2*full, DefaultBackoffMax)
		}
		if st := l.Stats(); st.Failures != 12 || !strings.Contains(st.LastError, "unreachable") {
			t.Errorf("%+v", st)
		}
	})
	b := newBackoff(time.Second, time.Minute)
	for i, c := range []struct {
		lived    time.Duration
		least    time.Duration
		most     time.Duration
		whatever string
	}{
		{steady, 0, 0, "after a steady session at once"},
		{1, 0, 1, "after the first short one at once"},
		{1, time.Second / 2, time.Second, "after the second the least wait"},
		{1, time.Second, 2 * time.Second, "then more"},
		{0, 2 * time.Second, 4 * time.Second, "then more"},
		{steady, 0, 0, "and over again"},
		{0, time.Second / 2, time.Second, "but a failed attempt waits"},
	} {
		b.ended(c.lived)
		if w := b.wait(); w < c.least || w > c.most {
			t.Errorf("%d: waits %v, but %s", i, w, c.whatever)
		}
	}
}

func TestLinkConfig_ValidateListsAllFaults(t *testing.T) {
	err := LinkConfig{Self: "a", Peer: "a", BackoffMin: 2, BackoffMax: 1, UserTimeout: -1, Compression: 9}.Validate()
	for _, want := range []string{"resource", "own peer", "handler", "backoff", "negative", "compression-9"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in: %v", want, err)
		}
	}
}

func TestCounters_HaveOneForEachReason(t *testing.T) {
	if len(wire.Reasons()) != len(refusals{}) {
		t.Errorf("%d reasons, %d counters", len(wire.Reasons()), len(refusals{}))
	}
}
