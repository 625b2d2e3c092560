package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/quorum"
)

// DeviceSize is the size of the replicated device in bytes: 12 regions of the activity log.
const DeviceSize = 12 * bitmap.RegionSize

// World is one run: hosts, the network between them, clients and operators, and the time.
//
// Nothing in it happens but by an event of the heap, and events of the same moment happen in the
// order in which they were scheduled; so a seed names one run, byte for byte. The three streams of
// randomness are apart: net draws latencies and what crashes leave, load what clients ask for, and
// the faults are drawn before the run begins. Taking a fault out of the plan therefore leaves the
// workload as it was.
type World struct {
	Seed   uint64
	Config Config

	now    time.Duration
	seq    uint64
	events eventHeap
	net    *rand.Rand
	load   *rand.Rand

	hosts   []*Host
	links   map[[2]int]*link // data links, by the indices of the hosts, lower first
	cuts    cuts
	clients []*client
	history *History
	log     *EventLog
	truth   *quorum.Resource // the newest record that any voter applied
	state   *quorum.State    // that it is part of
	ops     map[uint64]*valueInfo
	value   uint64 // last one given to a write
	steps   int
	written int64 // bytes that clients wrote, rounded out to blocks
	resyncs map[string]resyncBegun
	failure *Failure
	stats   Stats
	end     time.Duration // of the faulty phase
	healing bool          // the liveness phase has begun
	illegal string        // a fault happened under which anything may be lost: why
	forced  []forcedEpoch // in order
	rots    map[uint64]*Host
	hashed  []uint64       // memory for what Proc.hashes reads
	hurt    [maxHosts]bool // a fault of the plan may have made the disk of that host fail
}

// Stats counts what a run did, so that a mix that does nothing is noticed.
type Stats struct {
	Events, Acked, Reads, Promotions, Drops, Joins, Crashes, Kills, LossPoints, Forces, Resends int
}

// Failure is what a run found.
type Failure struct {
	At   time.Duration
	Text string
}

func (f *Failure) Error() string { return fmt.Sprintf("at %v: %s", f.At, f.Text) }

// valueInfo is what is known of the write that has a value.
type valueInfo struct {
	began, acked time.Duration // acked 0: not yet
	seqBegan     uint64
	seqAcked     uint64
	ext          bitmap.Extent
}

// event is something that is going to happen.
type event struct {
	at  time.Duration
	seq uint64
	p   *Proc // whose event it is, nil for the world's: see Proc.run
	do  func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// eventHeap is a binary heap with the next event at 0. It is not container/heap, which takes and
// gives an event as an interface, and so allocates each of them twice.
type eventHeap []event

func (h *eventHeap) push(e event) {
	s := append(*h, e)
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&s[up]) {
			break
		}
		s[i], i = s[up], up
	}
	s[i], *h = e, s
}

func (h *eventHeap) pop() event {
	s := *h
	n := len(s) - 1
	first, e := s[0], s[n] // e looks for its place from the top
	for i := 0; ; {
		down := 2*i + 1
		if down+1 < n && s[down+1].before(&s[down]) {
			down++
		}
		if down >= n || !s[down].before(&e) {
			s[i] = e
			break
		}
		s[i], i = s[down], down
	}
	s[n] = event{}
	*h = s[:n]
	return first
}

// after schedules do.
func (w *World) after(d time.Duration, do func()) { w.schedule(d, nil, do) }

func (w *World) schedule(d time.Duration, p *Proc, do func()) {
	w.seq++
	w.events.push(event{at: w.now + max(d, 0), seq: w.seq, p: p, do: do})
}

// between draws a duration.
func (w *World) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(w.net.Int64N(int64(high-low)))
}

// chance draws whether something with probability n in of happens.
func (w *World) chance(n, of int) bool { return w.net.IntN(of) < n }

// maxEvents is far beyond what any run needs.
const maxEvents = 1_000_000

// step lets the next event happen; false when there is none, or something was found.
func (w *World) step() bool {
	if w.failure != nil || len(w.events) == 0 {
		return false
	}
	e := w.events.pop()
	if e.at > w.now {
		w.now = e.at
	}
	if w.stats.Events++; w.stats.Events > maxEvents {
		w.fail("more than %d events: something goes round in circles", maxEvents)
		return false
	}
	if e.p != nil {
		e.p.run(e.do)
	} else {
		e.do()
	}
	w.steps++
	if w.steps%64 == 0 {
		w.checkEqual()
	}
	return w.failure == nil
}

// runUntil lets everything happen up to t.
func (w *World) runUntil(t time.Duration) {
	for w.failure == nil && len(w.events) > 0 && w.events[0].at <= t {
		w.step()
	}
	w.now = max(w.now, t)
}

// fail records the first thing that was found.
func (w *World) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = &Failure{At: w.now, Text: fmt.Sprintf(format, args...)}
		w.log.Addf(w.now, colWorld, kindFailure, "%s", w.failure.Text)
	}
}

// note adds a line to the event log about host h, nil for the world.
func (w *World) note(h *Host, kind uint8, format string, args ...any) {
	if !w.log.Verbose() {
		return
	}
	col := int8(colWorld)
	if h != nil {
		col = int8(h.index)
	}
	w.log.Addf(w.now, col, kind, format, args...)
}

// nextValue returns a value that no write had before. Every fifth one differs from an earlier one
// only in its colliding bit: a hash without a key takes the two for equal (history 31).
func (w *World) nextValue(ext bitmap.Extent) uint64 {
	w.value++
	v := w.value
	if v%5 == 0 && v > 5 {
		v = (v - 3) | collidingBit
	}
	w.ops[v] = &valueInfo{began: w.now, seqBegan: w.seq, ext: ext}
	w.seq++
	return v
}

// collidingBit is what the model's hash does not see when it has no key.
const collidingBit = 1 << 62
