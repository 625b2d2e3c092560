package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

const tellerPort = 7000

// tellers has a service on every data node, at all addresses that the node has, which answers each byte with the
// node's name.
func (r *rig) tellers() {
	r.t.Helper()
	for _, node := range r.DataNodes() {
		var ln net.Listener
		if err := r.Lab.In(node, func() (err error) {
			ln, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", tellerPort))
			return err
		}); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				r.t.Cleanup(func() { conn.Close() })
				go tell(conn, node)
			}
		}()
	}
}

func tell(conn net.Conn, node string) {
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
		if _, err := conn.Write([]byte(node)); err != nil {
			return
		}
	}
}

// heard is what a client has heard from the address, and when: answers of the service, and gratuitous ARP.
type heard struct {
	mu  sync.Mutex
	all []hearing
}

type hearing struct {
	at   time.Time
	what string // "answer n1", "arp 02:..."
}

func (h *heard) add(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, hearing{time.Now(), what})
}

// first returns when what was heard first after begun.
func (h *heard) first(what string, begun time.Time) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.all, func(x hearing) bool { return x.what == what && x.at.After(begun) })
	if i < 0 {
		return time.Time{}, false
	}
	return h.all[i].at, true
}

// listen has a client on a host of its own ask the service at the address, over one connection for as long as that
// is answered, and watch the network.
func (r *rig) listen() *heard {
	r.t.Helper()
	h := &heard{}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	r.t.Cleanup(func() { cancel(); work.Wait() })
	fd := r.packets(100 * time.Millisecond)
	work.Go(func() {
		for ctx.Err() == nil {
			if mac := r.nextARP(fd); mac != nil {
				h.add("arp " + mac.String())
			}
		}
	})
	work.Go(func() {
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for ctx.Err() == nil {
			r.ask(ctx, h)
			<-again.C // not as fast as it can
		}
	})
	return h
}

// ask asks the service over one connection until that breaks or has nothing to say for too long.
func (r *rig) ask(ctx context.Context, h *heard) {
	const patience = 50 * time.Millisecond
	dialing, cancel := context.WithTimeout(ctx, patience) // so that a lost SYN is sent anew
	defer cancel()
	conn, err := r.Lab.Dial(dialing, "client", "tcp", netip.AddrPortFrom(r.vip.Addr(), tellerPort).String())
	if err != nil {
		return
	}
	defer conn.Close()
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	b := make([]byte, 2)
	for ctx.Err() == nil {
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte{1}); err != nil {
			return
		}
		if n, err := conn.Read(b); err != nil || n != len(b) {
			return
		}
		h.add("answer " + string(b))
		<-pause.C
	}
}

// role returns when node said last that it is doing so: "promoted", "serving".
func (r *rig) role(node, what string, begun time.Time) time.Time {
	r.t.Helper()
	var at time.Time
	proc.Eventually(r.t, node+" to say that it is "+what, func() error {
		for _, e := range r.Events(node) {
			if e.Kind == "role" && strings.HasPrefix(e.Text, what) && e.Time.After(begun) {
				at = e.Time
				return nil
			}
		}
		return errors.New("it does not")
	})
	return at
}

// figures are durations of one kind, for the log.
type figures []time.Duration

func (f figures) String() string {
	if len(f) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(f))
	return fmt.Sprintf("median %v, worst %v of %d", s[len(s)/2].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond), len(s))
}

func TestAddress_MovesUnderAClient_ThatIsToldByARPAndAnsweredByTheNext(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.MustCLI("n1", "resource", "set", "r0", "--vip", r.vip.String())
	r.runs("n1")
	r.tellers()
	h := r.listen()
	awaits := func(what string, begun time.Time) (at time.Time) {
		t.Helper()
		proc.Eventually(t, what, func() error {
			var ok bool
			if at, ok = h.first(what, begun); !ok {
				return errors.New("not heard")
			}
			return nil
		})
		return at
	}
	awaits("answer n1", time.Time{})
	var announced, answered, whole figures
	from, to := "n1", "n2"
	for i := range rounds(4, 10) {
		begun := time.Now()
		if i%2 == 0 {
			r.MustCLI(from, "switchover", "r0", "--to", to)
		} else {
			r.Kill(from)
		}
		arp, answer := awaits("arp "+r.mac(to).String(), begun), awaits("answer "+to, begun)
		promoted, serving := r.role(to, "promoted", begun), r.role(to, "serving", begun)
		announced = append(announced, arp.Sub(serving))
		answered = append(answered, answer.Sub(serving))
		whole = append(whole, answer.Sub(begun))
		t.Logf("%s to %s: promoted after %v, serving after %v, announced %v and answered %v after that", from, to,
			promoted.Sub(begun).Round(time.Millisecond), serving.Sub(begun).Round(time.Millisecond), arp.Sub(serving).Round(time.Millisecond), answer.Sub(serving).Round(time.Millisecond))
		if i%2 == 1 {
			r.Start(from)
		}
		r.drops(from)
		r.WaitInSync(to)
		if !r.holds(to) {
			t.Errorf("%s has lost the address", to)
		}
		from, to = to, from
	}
	t.Logf("from serving to the first gratuitous ARP: %v", announced)
	t.Logf("from serving to the first answer: %v", answered)
	t.Logf("from the event to the first answer: %v", whole)
}
