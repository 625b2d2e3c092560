package replication

import (
	"flag"
	"testing"
	"time"
)

var worldSeed = flag.Uint64("seed", 0, "run the random world of this seed only")
var worlds = flag.Uint64("worlds", 1500, "number of random worlds")

// TestWorld_RandomFaults_NothingAnsweredIsLost runs many small worlds under every fault that the
// model knows. A failure prints its seed; `go test ./replication -run TestWorld_Random -seed N`
// replays it.
func TestWorld_RandomFaults_NothingAnsweredIsLost(t *testing.T) {
	if *worldSeed != 0 {
		runWorld(t, *worldSeed)
		return
	}
	n := *worlds
	if testing.Short() {
		n = min(n, 200)
	}
	total := map[string]int{}
	for seed := uint64(1); seed <= n; seed++ {
		for k, v := range runWorld(t, seed).events {
			total[k] += v
		}
	}
	for _, must := range []string{"reply", "dropped", "joined", "resync_done", "io_frozen", "io_resumed", "promoted", "killed", "crashed",
		"io_errors", "clients_closed", "reply_early"} {
		if total[must] == 0 {
			t.Errorf("no world reached %q", must)
		}
	}
	t.Logf("%v", total)
}

func runWorld(t testing.TB, seed uint64) *world {
	w := newWorld(t, seed)
	w.promote(w.nodes[0])
	// Each world draws its own mix of faults.
	cut, kill, crash, move, full, deaf := w.rng.IntN(6), w.rng.IntN(3), w.rng.IntN(3), w.rng.IntN(4), w.rng.IntN(2), w.rng.IntN(2)
	for range 3000 {
		switch x := w.rng.IntN(1000); {
		case x < 620:
			w.progress()
		case x < 800:
			n := w.nodes[w.rng.IntN(2)]
			if n.alive && n.core.TakesClients() && len(n.requests) < 24 {
				w.issue(n)
			}
		case x < 960:
			w.tick(time.Duration(w.rng.IntN(20)) * time.Millisecond)
		case x < 960+cut:
			w.link = !w.link
			w.logf("link %v", w.link)
			if !w.link {
				w.breakSession()
			}
		case x < 966+kill:
			w.kill(w.nodes[w.rng.IntN(2)], false)
		case x < 969+crash:
			w.kill(w.nodes[w.rng.IntN(2)], true)
		case x < 976:
			for _, n := range w.nodes {
				if !n.alive {
					w.logf("start %s", n.name)
					n.start()
					break
				}
			}
		case x < 980+move:
			w.events["promoted"]++
			w.promote(w.nodes[w.rng.IntN(2)])
		case x < 990 && move > 0:
			if n := w.nodes[w.rng.IntN(2)]; n.alive && w.rng.IntN(4) == 0 {
				w.logf("stop %s", n.name)
				n.step(&Event{Kind: EvStop})
			}
		case x < 991 && deaf > 0:
			// Cut off from everything: the case that leases are for.
			n := w.nodes[w.rng.IntN(2)]
			n.deaf = !n.deaf
			w.link = !n.deaf
			if n.deaf {
				w.breakSession()
				w.promote(w.nodes[1-n.i])
			}
			w.logf("%s deaf: %v", n.name, n.deaf)
		case x < 993 && full > 0:
			n := w.nodes[w.rng.IntN(2)]
			n.full, n.noRoom = !n.full, w.rng.IntN(2) == 0
			w.logf("%s full: %v, no room for pages: %v", n.name, n.full, n.noRoom)
		case x < 999 && (w.ioError || w.deadline > 0) && w.rec.primary >= 0:
			// Neither peer nor quorum, and then both again in the same epoch.
			n := w.nodes[w.rec.primary]
			n.deaf = !n.deaf
			w.link = !n.deaf
			if n.deaf {
				w.breakSession()
			}
			w.logf("%s alone: %v", n.name, n.deaf)
		}
	}
	w.heal()
	w.checkEqual("at rest")
	n := w.nodes[w.rec.primary]
	for b := range w.blocks {
		w.checkRead(n, b, n.cache[b], &wreq{seen: w.clock()})
	}
	return w
}

// kill ends a process. A host crash may only take a node whose unflushed writes another fit
// member holds: losing both is outside what replication promises.
func (w *world) kill(n *wnode, crash bool) {
	o := w.nodes[1-n.i]
	if !n.alive {
		return
	}
	if crash && (len(w.asks) > 0 || !o.alive || !w.rec.in[o.i] || o.stored.Unclean || o.stored.State != UpToDate) {
		return
	}
	w.logf("kill %s, host crash %v", n.name, crash)
	if crash {
		w.events["crashed"]++
	} else {
		w.events["killed"]++
	}
	n.stop(crash)
}
