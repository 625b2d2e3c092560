package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestAcceptor_RefusesAndSaysWhy(t *testing.T) {
	good := wire.Hello{Resource: "r0", Node: "a"}
	future := helloBytes(t, good)
	binary.BigEndian.PutUint16(future[6:], 9)
	binary.BigEndian.PutUint16(future[8:], 9)
	body := strings.Replace(string(future[wire.GreetingSize:]), `"protocol":1`, `"protocol":9`, 1)
	future = append(future[:wire.GreetingSize], body...)
	binary.BigEndian.PutUint64(future[16:], xxhash.Sum64String(body))
	binary.BigEndian.PutUint64(future[24:], xxhash.Sum64(future[:24]))
	damaged := helloBytes(t, good)
	damaged[len(damaged)-1] ^= 1

	for name, c := range map[string]struct {
		first []byte
		want  string // in the refusal
		is    error
	}{
		"another node's name": {helloBytes(t, wire.Hello{Resource: "r0", Node: "c"}), `says "c"`, ErrIdentity},
		"unknown resource":    {helloBytes(t, wire.Hello{Resource: "r9", Node: "a"}), `"r9"`, nil},
		"newer version":       {future, "the peer 9 to 9", wire.ErrVersion},
		"damaged":             {damaged, "checksum", wire.ErrChecksum},
		"garbage":             {[]byte(strings.Repeat("garbage ", 10)), "not the start", wire.ErrMagic},
		"accept before hello": {wire.AppendAccept(nil), "accept where hello belongs", ErrHandshake},
	} {
		t.Run(name, func(t *testing.T) {
			acc := NewAcceptor(AcceptorConfig{Self: "b"})
			b := newNode(t, "b")
			l := NewLink(LinkConfig{Resource: "r0", Self: "b", Peer: "a", Handler: b})
			if err := acc.Add(l); err != nil {
				t.Fatal(err)
			}
			run(t, l)
			errs := make(chan error, 1)
			addr := listen(t, func(ctx context.Context, conn net.Conn) { errs <- acc.serve(ctx, conn, "a") })
			p := rawDial(t, addr)
			p.write(c.first)
			if g := p.greeting(); g.Kind != wire.GreetRefuse || !strings.Contains(g.Reason, c.want) {
				t.Errorf("answered %s %q, want %q in it", g.Kind, g.Reason, c.want)
			}
			_ = p.conn.Close()
			err := <-errs
			var r *RefusedError
			if !errors.As(err, &r) || r.Remote || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("serve: %v", err)
			}
			if len(b.events) != 0 {
				t.Errorf("the handler saw %s", (<-b.events).what)
			}
		})
	}
}

func TestLink_RefusesWhoeverItDidNotMeanToDial(t *testing.T) {
	for name, c := range map[string]struct {
		first []byte
		want  string
	}{
		"another node":     {helloBytes(t, wire.Hello{Resource: "r0", Node: "c"}), "not who it says"},
		"another resource": {helloBytes(t, wire.Hello{Resource: "r1", Node: "b"}), `resource "r1"`},
		"garbage":          {[]byte(strings.Repeat("garbage ", 10)), "not the start"},
		"a refusal":        {wire.AppendRefuse(nil, "go away"), "the peer refused the session: go away"},
		"an end":           {nil, "ends too early"},
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan string, 1000)
			addr := listen(t, func(_ context.Context, conn net.Conn) {
				defer conn.Close()
				_, _ = wire.ReadGreeting(conn)
				_, _ = conn.Write(c.first)
				_ = conn.(*net.TCPConn).CloseWrite()
				if g, err := wire.ReadGreeting(conn); err == nil {
					told <- g.Reason
				}
			})
			a := newNode(t, "a")
			l := dialing(t, a, addr, nil)
			st := eventually(t, l, "fails with "+c.want, func(st LinkStats) bool {
				return strings.Contains(st.LastError, c.want)
			})
			if strings.HasPrefix(st.LastError, "this node refused") {
				if why := <-told; !strings.Contains(why, c.want) {
					t.Errorf("the other side was told %q", why)
				}
			}
			if st.Sessions != 0 {
				t.Error("a session came up")
			}
		})
	}
}

func TestAcceptor_SilentStrangersAreBoundedInNumberAndTime(t *testing.T) {
	acc := NewAcceptor(AcceptorConfig{Self: "b", Handshakes: 1, Timeout: time.Hour})
	errs := make(chan error, 2)
	addr := listen(t, func(ctx context.Context, conn net.Conn) { errs <- acc.serve(ctx, conn, "a") })
	first, second := rawDial(t, addr), rawDial(t, addr)
	var r *RefusedError
	if err := <-errs; !errors.As(err, &r) || !strings.Contains(err.Error(), "1 handshakes") {
		t.Errorf("the second: %v", err)
	}
	_, _ = first.conn.Close(), second.conn.Close()
	if err := <-errs; errors.As(err, &r) {
		t.Errorf("the first: %v", err)
	}

	acc = NewAcceptor(AcceptorConfig{Self: "b", Timeout: time.Millisecond})
	addr = listen(t, func(ctx context.Context, conn net.Conn) { errs <- acc.serve(ctx, conn, "a") })
	rawDial(t, addr)
	var timeout net.Error
	if err := <-errs; !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the silent one: %v", err)
	}
}

func TestAcceptor_OneLinkForEachResourceAndPeer(t *testing.T) {
	acc := NewAcceptor(AcceptorConfig{Self: "b"})
	mk := func(resource, peer string) *Link {
		return NewLink(LinkConfig{Resource: resource, Self: "b", Peer: peer, Handler: newNode(t, "b"), Dial: dialTo("")})
	}
	l := mk("r0", "a")
	for _, x := range []*Link{l, mk("r0", "c"), mk("r1", "a")} {
		if err := acc.Add(x); err != nil {
			t.Error(err)
		}
	}
	again := mk("r0", "a")
	if acc.Add(again) == nil {
		t.Error("a second link for r0 and a was added")
	}
	acc.Remove(again) // is not in it
	if acc.Add(again) == nil {
		t.Error("removing a stranger removed the link")
	}
	acc.Remove(l)
	if err := acc.Add(again); err != nil {
		t.Error(err)
	}
}

func TestLink_AcceptAfterRunOrOnTheDialerIsRefused(t *testing.T) {
	for _, self := range []string{"a", "z"} {
		l := NewLink(LinkConfig{Resource: "r0", Self: self, Peer: "m", Handler: newNode(t, self), Dial: dialTo("")})
		if self == "z" {
			run(t, l)()
		}
		errs := make(chan error, 1)
		addr := listen(t, func(_ context.Context, conn net.Conn) {
			errs <- l.Accept(conn, wire.Greeting{Kind: wire.GreetHello}, time.Now().Add(time.Minute))
		})
		p := rawDial(t, addr)
		if g := p.greeting(); g.Kind != wire.GreetRefuse || g.Reason == "" {
			t.Errorf("answered %s", g.Kind)
		}
		_ = p.conn.Close()
		var r *RefusedError
		if err := <-errs; !errors.As(err, &r) {
			t.Errorf("%s: %v", self, err)
		}
	}
}
