package membership

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/memnet"
)

const (
	latency = time.Millisecond // of the network in a bubble, one way
	limit   = time.Hour        // of the fake clock: gossip for so long takes minutes

	// A node that is not heard of is suspected after one probe of it, which comes in its turn, and
	// given up when the suspicion was confirmed or has lasted for its longest time: 1 s.
	noticed = 4 * time.Second

	// A probe or an exchange that waits for another node's answer when memberlist is shut down goes on
	// to wait, for the timeout of a stream at most.
	afterlife = 3*time.Second + 10*latency
)

// bubble is nodes that gossip on a network in memory and on a fake clock. A goroutine that is left
// at the end fails the test.
type bubble struct {
	*testing.T
	*memnet.Network
	addrs map[string]string // by node
	nodes map[string]*node
}

// node is one that runs, and what it was hinted at.
type node struct {
	*Membership
	stop func()

	mu    sync.Mutex
	alive map[string]bool // newest hint, by node
	hints int
}

// seen returns the newest hint of each other node.
func (n *node) seen() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.alive)
}

// inBubble runs f with nodes of these names, which all know each other's address and are started
// in the same moment. It ends them afterwards.
func inBubble(t *testing.T, names []string, f func(w *bubble)) {
	t.Helper()
	memnet.Bubble(t, limit, func(t *testing.T) {
		w := &bubble{T: t, Network: memnet.New(), addrs: map[string]string{}, nodes: map[string]*node{}}
		for i, name := range names {
			w.addrs[name] = fmt.Sprintf("127.0.0.%d:7781", i+1)
			for j := range i {
				w.SetLatency(w.host(name), w.host(names[j]), latency)
			}
		}
		for _, name := range names {
			w.start(name)
		}
		memnet.Pass(noticed)
		w.seeEachOther()
		f(w)
		for _, n := range w.nodes {
			n.stop()
		}
		memnet.Pass(afterlife)
	})
}

func (w *bubble) host(name string) string {
	return netip.MustParseAddrPort(w.addrs[name]).Addr().String()
}

// start runs a node, and reads its hints all the time.
func (w *bubble) start(name string) {
	w.Helper()
	g, err := w.Host(w.host(name)).Gossip(w.addrs[name])
	if err != nil {
		w.Fatal(err)
	}
	cfg := config(name)
	cfg.Preset, cfg.RetryEvery, cfg.Transport = LAN, 0, g
	for other, addr := range w.addrs {
		if other != name {
			cfg.Join = append(cfg.Join, addr)
		}
	}
	m, err := New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	n := &node{Membership: m, alive: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended, read := make(chan error, 1), make(chan struct{})
	go func() { ended <- m.Run(ctx) }()
	go func() {
		defer close(read)
		for {
			select {
			case h := <-m.Hints():
				n.mu.Lock()
				n.alive[h.Node] = h.Alive
				n.hints++
				n.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	n.stop = func() {
		cancel()
		<-read
		if err := <-ended; err != nil {
			w.Errorf("%s: %v", name, err)
		}
	}
	w.nodes[name] = n
}

// seeEachOther checks that each node's newest hint of each other one is that it is there.
func (w *bubble) seeEachOther() {
	w.Helper()
	for name, n := range w.nodes {
		want := map[string]bool{}
		for other := range w.nodes {
			if other != name {
				want[other] = true
			}
		}
		if got := n.seen(); !maps.Equal(got, want) || n.list.NumMembers() != len(w.nodes) {
			w.Errorf("%s sees %v, %d members", name, got, n.list.NumMembers())
		}
	}
}

// isolate cuts a node off from all others, or takes it back.
func (w *bubble) isolate(name string, cut bool) {
	for other := range w.addrs {
		if other == name {
			continue
		}
		if cut {
			w.Split(w.host(name), w.host(other))
		} else {
			w.Join(w.host(name), w.host(other))
		}
	}
}

// hinted returns how many hints all nodes had.
func (w *bubble) hinted() (sum int) {
	for _, n := range w.nodes {
		n.mu.Lock()
		sum += n.hints
		n.mu.Unlock()
	}
	return sum
}

func TestBubble_NodesThatStartAtOnceSeeEachOther(t *testing.T) {
	for range 2 {
		inBubble(t, []string{"a", "b", "w"}, func(w *bubble) {
			before := w.hinted()
			memnet.Pass(10 * time.Second)
			if n := w.hinted() - before; n != 0 {
				w.Errorf("%d hints while nothing happened", n)
			}
			w.seeEachOther()
		})
	}
}

func TestBubble_SilentNodeIsHintedAfterTheTimeoutAndOnlyThen(t *testing.T) {
	inBubble(t, []string{"a", "b", "w"}, func(w *bubble) {
		for range 10 {
			before := w.hinted()
			w.isolate("b", true)
			memnet.Pass(250 * time.Millisecond) // a probe has other ways to be answered for 300 ms
			w.isolate("b", false)
			memnet.Pass(noticed)
			if n := w.hinted() - before; n != 0 {
				w.Errorf("%d hints after a silence of 60 ms", n)
			}
		}
		before := w.hinted()
		w.isolate("b", true)
		memnet.Pass(300*time.Millisecond - 1) // the shortest suspicion
		if n := w.hinted() - before; n != 0 {
			w.Errorf("%d hints after 300 ms", n)
		}
		memnet.Pass(noticed)
		for name, n := range w.nodes {
			if got := n.seen(); got["b"] || name == "b" && (got["a"] || got["w"]) {
				w.Errorf("%s still sees %v", name, got)
			}
		}
		if !w.nodes["a"].seen()["w"] || !w.nodes["w"].seen()["a"] {
			w.Error("a and w have lost each other")
		}
		memnet.Pass(10 * time.Second)
		w.isolate("b", false)
		memnet.Pass(noticed)
		w.seeEachOther()
	})
}

func TestBubble_NodeThatOthersHearIsNotHinted(t *testing.T) {
	for _, cut := range [][2]string{{"a", "b"}, {"b", "a"}} {
		inBubble(t, []string{"a", "b", "w"}, func(w *bubble) {
			before := w.hinted()
			w.Cut(w.host(cut[0]), w.host(cut[1]))
			memnet.Pass(10 * time.Second)
			if n := w.hinted() - before; n != 0 {
				w.Errorf("%d hints, though w hears both", n)
			}
		})
	}
}

func TestBubble_DeadNodeIsHintedAndComesBackAsAnotherProcess(t *testing.T) {
	inBubble(t, []string{"a", "b"}, func(w *bubble) {
		for range 10 {
			w.Host(w.host("b")).Crash()
			memnet.Pass(noticed)
			if w.nodes["a"].seen()["b"] {
				w.Error("a sees a dead node")
			}
			w.nodes["b"].stop()
			w.start("b")
			memnet.Pass(noticed)
			w.seeEachOther()
		}
	})
}

func TestBubble_100Flaps_EndsWithAllSeenAndLeaksNothing(t *testing.T) {
	inBubble(t, []string{"a", "b", "w"}, func(w *bubble) {
		rng := rand.New(rand.NewPCG(9, 10))
		for range 100 {
			w.isolate("b", true)
			memnet.Pass(time.Duration(rng.Int64N(int64(noticed / 2))))
			w.isolate("b", false)
			memnet.Pass(time.Duration(rng.Int64N(int64(noticed / 4))))
		}
		memnet.Pass(noticed)
		w.seeEachOther()
	})
}

func TestBubble_GoodbyeIsHintedAtOnceAndBoundedWhenNobodyHears(t *testing.T) {
	inBubble(t, []string{"a", "b", "w"}, func(w *bubble) {
		w.nodes["b"].stop()
		delete(w.nodes, "b")
		memnet.Pass(500 * time.Millisecond)
		for name, n := range w.nodes {
			if n.seen()["b"] {
				w.Errorf("%s has not heard the goodbye", name)
			}
		}
		w.isolate("a", true)
		start := time.Now()
		w.nodes["a"].stop()
		delete(w.nodes, "a")
		if d := time.Since(start); d > time.Second {
			w.Errorf("the end of a node that nobody hears took %v", d)
		}
	})
}
