package node

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
)

// request is one that a client waits for.
type request struct {
	sent  time.Time
	reply chan error // capacity 1
	took  time.Duration
}

// ask sends a request on conn, which has no other under way.
func ask(conn *nbdConn, cmd uint16, off int64, data []byte) *request {
	q := &request{sent: time.Now(), reply: make(chan error, 1)}
	go func() {
		err := conn.do(cmd, off, data)
		q.took = time.Since(q.sent)
		q.reply <- err
	}()
	return q
}

// waits fails when the request has been answered, or its connection has ended, by now.
func (q *request) waits(w *bubble, what string) {
	w.Helper()
	memnet.Pass(0)
	select {
	case err := <-q.reply:
		w.Fatalf("the %s was answered after %v: %v", what, q.took, err)
	default:
	}
}

// done waits for the answer, which must be no error and take from least to most.
func (q *request) done(w *bubble, what string, least, most time.Duration) {
	w.Helper()
	if err := <-q.reply; err != nil || q.took < least || q.took > most {
		w.Errorf("the %s took %v, %v; want %v to %v", what, q.took, err, least, most)
	}
}

// pattern returns n bytes that depend on seed.
func pattern(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// sameDisks ends all daemons and compares both backings with model.
func (w *bubble) sameDisks(model []byte) {
	w.Helper()
	w.stop("n1", "n2", "w")
	for _, n := range []string{"n1", "n2"} {
		got, err := os.ReadFile(w.image(n))
		check(w.T, "image", err)
		if !bytes.Equal(got, model) {
			w.Errorf("the backing of %s is not what was written", n)
		}
	}
}

// events returns how many events of a kind node has seen since its start.
func (w *bubble) events(node, kind string) int {
	w.Helper()
	n := 0
	check(w.T, "events", w.client(node).Events(w.Context(), 0, false, func(ev control.Event) error {
		if ev.Kind == kind {
			n++
		}
		return nil
	}))
	return n
}

// settled returns how many connections two nodes keep once all links are up again, those aside
// that gossip makes for a moment.
func (w *bubble) settled(a, b string) int {
	memnet.Pass(3 * time.Second)
	least := w.Conns(w.ip(a), w.ip(b))
	for range 3 {
		memnet.Pass(time.Second)
		least = min(least, w.Conns(w.ip(a), w.ip(b)))
	}
	return least
}

func (w *bubble) split(a, b string) { w.Split(w.ip(a), w.ip(b)) }
func (w *bubble) join(a, b string)  { w.Join(w.ip(a), w.ip(b)) }

// isolate cuts a node off from all others, or takes it back.
func (w *bubble) isolate(node string, cut bool) {
	for other := range w.files {
		switch {
		case other == node:
		case cut:
			w.split(node, other)
		default:
			w.join(node, other)
		}
	}
}

func TestBubble_100Flaps_EndInSyncWithEqualDisks(t *testing.T) {
	inCluster(t, func(w *bubble) {
		before := w.settled("n1", "n2")
		model := make([]byte, bubbleSize)
		conn := w.mustOpen("n1")
		stop := make(chan struct{})
		var writer sync.WaitGroup
		var slowest time.Duration
		writer.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rng.Int64N(int64(20 * time.Millisecond)))):
				}
				data := pattern(i, 512*(1+rng.IntN(32)))
				off := 512 * rng.IntN((bubbleSize-len(data))/512)
				start := time.Now()
				if err := conn.do(cmdWrite, int64(off), data); err != nil {
					w.Errorf("write %d: %v", i, err)
					return
				}
				slowest = max(slowest, time.Since(start))
				copy(model[off:], data)
			}
		})
		rng := rand.New(rand.NewPCG(3, 4))
		for range 100 {
			memnet.Pass(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
			w.Break(w.ip("n1"), w.ip("n2"))
		}
		w.untilInSync("n1", "n1", "n2")
		close(stop)
		writer.Wait()
		w.untilInSync("n1", "n1", "n2")
		r := w.until("n1", "it serves", func(_ control.Status, r control.Resource) bool { return r.IO.State == control.IORunning })
		if r.Epoch != 1 || r.Primary != "n1" {
			w.Errorf("a flap has moved the role: %+v", r)
		}
		if slowest > time.Second {
			w.Errorf("a write waited %v", slowest)
		}
		if after := w.settled("n1", "n2"); after != before {
			w.Errorf("%d connections between n1 and n2, before there were %d", after, before)
		}
		conn.Close()
		w.sameDisks(model)
	})
}

func TestBubble_SteadyWriteTakesOneRoundTripWhateverTheWitnessDoes(t *testing.T) {
	inCluster(t, func(w *bubble) {
		conn := w.mustOpen("n1")
		model := make([]byte, bubbleSize)
		for i := range 100 {
			switch i {
			case 20:
				w.isolate("w", true) // elections begin
			case 60:
				w.isolate("w", false)
			}
			memnet.Pass(100 * time.Millisecond)
			data := pattern(uint64(i), 4096)
			copy(model[i*4096:], data)
			ask(conn, cmdWrite, int64(i*4096), data).done(w, "write", 2*bubbleLatency, 2*bubbleLatency)
		}
		conn.Close()
		w.sameDisks(model)
	})
}

func TestBubble_PeerSilentOnEveryLink_IsDroppedAfterThreeBeaconsAndOnlyThen(t *testing.T) {
	for name, cut := range map[string]func(w *bubble){
		"both ways":         func(w *bubble) { w.split("n1", "n2") },
		"n1 is not heard":   func(w *bubble) { w.Cut(w.ip("n1"), w.ip("n2")) },
		"n2 is not heard":   func(w *bubble) { w.Cut(w.ip("n2"), w.ip("n1")) },
		"n2 lost its power": func(w *bubble) { w.isolate("n2", true) },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				beacon, grace := w.files["n1"].BeaconInterval, w.files["n1"].DropGrace
				silence := 3 * beacon
				model := make([]byte, bubbleSize)
				conn, reader := w.mustOpen("n1"), w.mustOpen("n1")
				writeAt(w.T, conn, model, 0, pattern(0, 8192))

				// A silence that ends in time: the write waits for it, and nobody is dropped.
				cut(w)
				data := pattern(1, 4096)
				copy(model[4096:], data)
				q := ask(conn, cmdWrite, 4096, data)
				memnet.Pass(silence / 2)
				q.waits(w, "write")
				w.isolate("n2", false)
				q.done(w, "write", silence/2, silence)
				w.untilInSync("n1", "n1", "n2")
				if n := w.events("n1", "dropped"); n != 0 {
					w.Errorf("%d drops after a silence that ended in time", n)
				}

				// One that does not.
				memnet.Pass(time.Second)
				cut(w)
				data = pattern(2, 4096)
				copy(model[1<<20:], data)
				q = ask(conn, cmdWrite, 1<<20, data)
				memnet.Pass(silence + beacon/2)
				got := make([]byte, 8192)
				read := ask(reader, cmdRead, 0, got)
				memnet.Pass(beacon / 5)
				q.waits(w, "write")
				read.waits(w, "read without a lease")
				// The last word came up to a beacon before the cut, and was seen up to a beacon later; ticks of
				// 50 and 20 ms look and act.
				q.done(w, "write", silence, silence+grace+2*beacon)
				read.done(w, "read", beacon/5, grace+2*beacon)
				if !bytes.Equal(got, model[:8192]) {
					w.Error("read something else than was written")
				}
				w.untilInSync("n1", "n1")
				writeAt(w.T, conn, model, 2<<20, pattern(3, 100_000))
				memnet.Pass(10 * time.Second)
				w.isolate("n2", false)
				w.untilInSync("n1", "n1", "n2")
				conn.Close()
				reader.Close()
				w.sameDisks(model)
			})
		})
	}
}
