package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// faultKind is one kind of trouble.
type faultKind uint8

const (
	faultKill       faultKind = iota // the daemon of A is killed, and started again
	faultCrash                       // host A loses power, and comes back
	faultCut                         // A and B hear nothing of each other
	faultCutOneWay                   // B hears nothing of A
	faultCutData                     // their replicas hear nothing of each other
	faultCutLedger                   // their voters hear nothing of each other
	faultIsolate                     // A hears nothing and is heard by nobody
	faultSilent                      // A hears everything and is heard by nobody
	faultDeaf                        // A hears nothing and is heard by everybody
	faultReset                       // the connection between the replicas A and B breaks
	faultFlap                        // again and again
	faultPause                       // the daemon of A stands still
	faultHang                        // the disk of A completes nothing
	faultSlow                        // the disk of A is slow
	faultFull                        // the disk of A is full
	faultNoRoom                      // the metadata of A cannot grow
	faultFailSync                    // an fdatasync of A fails
	faultFailIO                      // a read or write of A fails
	faultLoseType                    // frames of one type to A vanish
	faultCorrupt                     // a frame to A arrives changed
	faultClog                        // frames between A and B take long
	faultStall                       // what a client sent is held up while it connects anew
	faultSwitch                      // an operator moves the role to A
	faultPromote                     // an operator promotes A in haste
	faultDemote                      // an operator demotes whoever is primary, and promotes later
	faultForce                       // an operator forces A
	faultDisconnect                  // an operator disconnects A and B for a while
	faultInvalidate                  // an operator invalidates A
	faultHoldResync                  // an operator pauses resync
	faultReplace                     // the disk of A is replaced by an empty one
	faultRestore                     // the disk of A is put back to an earlier copy
	faultVerify                      // a verify runs
	faultLease                       // the policy's lease changes
	faultAlone                       // an operator confirms that the peer of A is down
	faultKindEnd
)

var faultNames = [...]string{"kill", "crash", "cut", "cut-one-way", "cut-data", "cut-ledger", "isolate", "silent", "deaf", "reset",
	"flap", "pause", "hang", "slow", "full", "no-room", "fail-sync", "fail-io", "lose-type", "corrupt", "clog", "stall-client", "switchover",
	"promote", "demote", "force", "disconnect", "invalidate", "hold-resync", "replace", "restore", "verify", "lease", "alone"}

func (k faultKind) String() string {
	if int(k) < len(faultNames) {
		return faultNames[k]
	}
	return fmt.Sprintf("fault(%d)", uint8(k))
}

// Fault is one entry of a plan.
type Fault struct {
	At   time.Duration
	Kind faultKind
	A, B int           // hosts
	For  time.Duration // until it is mended
	Arg  int
}

func (f Fault) String() string {
	return fmt.Sprintf("%8.3fs %-12s A=%d B=%d for %v arg %d", f.At.Seconds(), f.Kind, f.A, f.B, f.For, f.Arg)
}

// drawPlan draws the faults of a run.
func drawPlan(rng *rand.Rand, c Config) []Fault {
	names, data := c.Shape.names()
	var plan []Fault
	for range c.FaultCount {
		f := Fault{
			At: time.Duration(rng.Int64N(int64(c.Length))), Kind: c.Faults[rng.IntN(len(c.Faults))],
			A: rng.IntN(len(names)), Arg: rng.IntN(1 << 20),
		}
		f.B = (f.A + 1 + rng.IntN(len(names)-1)) % len(names)
		if f.Kind.ofData() {
			f.A = rng.IntN(data)
			f.B = (f.A + 1 + rng.IntN(data-1)) % data
		}
		// Mostly short troubles, some that outlast every timeout.
		f.For = time.Duration(10+rng.IntN(400)) * time.Millisecond
		if rng.IntN(3) == 0 {
			f.For = time.Duration(500+rng.IntN(3500)) * time.Millisecond
		}
		plan = append(plan, f)
		if rng.IntN(3) == 0 { // troubles that come together
			g := f
			g.At += time.Duration(rng.IntN(60)) * time.Millisecond
			g.Kind = c.Faults[rng.IntN(len(c.Faults))]
			if rng.IntN(2) == 0 && (!g.Kind.ofData() || f.Kind.ofData() || f.A < data && f.B < data) {
				g.A, g.B = f.B, f.A
			}
			if g.Kind.ofData() && (g.A >= data || g.B >= data) {
				g.A, g.B = 0, 1
			}
			plan = append(plan, g)
		}
	}
	slices.SortStableFunc(plan, func(a, b Fault) int { return int(a.At - b.At) })
	return plan
}

// drawBlackout draws a time in which nobody hears of anybody, so that nobody can take over: what the
// policies of a primary without a quorum are for.
func drawBlackout(rng *rand.Rand, c Config) (plan []Fault) {
	names, _ := c.Shape.names()
	at, length := time.Duration(rng.Int64N(int64(c.Length))), time.Duration(1000+rng.IntN(3000))*time.Millisecond
	for i := range names {
		plan = append(plan, Fault{At: at, Kind: faultIsolate, A: i, B: (i + 1) % len(names), For: length, Arg: 1})
	}
	return plan
}

// ofData reports whether a fault is about hosts with replicas.
func (k faultKind) ofData() bool {
	switch k {
	case faultKill, faultCrash, faultCut, faultCutOneWay, faultCutLedger, faultIsolate, faultSilent, faultDeaf, faultPause:
		return false
	}
	return true
}

// inflict lets a fault happen now, and schedules its end.
func (w *World) inflict(f Fault) {
	if w.healing {
		return
	}
	a, b := w.hosts[f.A], w.hosts[f.B]
	w.note(a, kindFault, "%s (peer %s, for %v)", f.Kind, b.name, f.For)
	mend := func(do func()) {
		w.after(f.For, func() {
			if !w.healing {
				do()
			}
		})
	}
	switch f.Kind {
	case faultKill:
		w.stats.Kills++
		a.kill()
		mend(a.start)
	case faultCrash:
		w.crashHost(a)
		mend(a.powerOn)
	case faultCut, faultCutOneWay, faultCutData, faultCutLedger, faultIsolate, faultSilent, faultDeaf:
		w.cutBy(f, true)
		mend(func() { w.cutBy(f, false) })
	case faultReset:
		w.link(f.A, f.B).breakLink("reset")
	case faultFlap:
		for i := range 6 {
			w.after(time.Duration(i)*f.For/6, func() { w.link(f.A, f.B).breakLink("reset") })
		}
	case faultPause:
		if p := a.proc; p != nil && !p.paused {
			p.paused = true
			d := f.For
			if f.Arg%4 == 0 {
				d *= 4
			}
			w.after(d, p.resume)
		}
	case faultStall:
		w.stallClient(f)
	default:
		if f.Kind < faultSwitch {
			w.hurtDisk(f, a, mend)
		} else {
			w.operate(f, a, b, mend)
		}
	}
}

// crashHost takes the power of a host away. Unless the mix says so, not where a loss would be legal:
// runs without one are checked more strictly.
func (w *World) crashHost(h *Host) {
	if h.data && !w.Config.LoseAll && w.truth != nil {
		spare := false
		for i := range w.truth.Replicas {
			r := &w.truth.Replicas[i]
			o := w.hostNamed(r.Node)
			if o != h && r.InSet && !r.Failed && !o.lossy && o.up && o.sound() {
				spare = true
			}
		}
		if !spare {
			return
		}
	}
	h.crash()
}

// cutBy puts the cuts of a fault in place, or takes them away.
func (w *World) cutBy(f Fault, on bool) {
	all := func(from, to int) {
		w.setCut(dataTraffic, from, to, on)
		w.setCut(ledgerTraffic, from, to, on)
	}
	switch f.Kind {
	case faultCut:
		all(f.A, f.B)
		all(f.B, f.A)
	case faultCutOneWay:
		all(f.A, f.B)
	case faultCutData:
		w.setCut(dataTraffic, f.A, f.B, on)
		w.setCut(dataTraffic, f.B, f.A, on)
	case faultCutLedger:
		w.setCut(ledgerTraffic, f.A, f.B, on)
		w.setCut(ledgerTraffic, f.B, f.A, on)
	default:
		for i := range w.hosts {
			if i != f.A && f.Kind != faultDeaf {
				all(f.A, i)
			}
			if i != f.A && f.Kind != faultSilent {
				all(i, f.A)
			}
		}
		if f.Arg%2 == 0 {
			w.setCut(clientTraffic, f.A, f.A, on)
		}
	}
}

// hurtDisk inflicts the faults of disks and frames.
func (w *World) hurtDisk(f Fault, a *Host, mend func(func())) {
	l := w.link(f.A, f.B)
	end := l.end(a)
	if (f.Kind == faultFailSync || f.Kind == faultFailIO) && !w.Config.LoseAll && !w.spared(a) {
		return // the last good copy: what follows would be legal, whatever it is
	}
	switch f.Kind {
	case faultHang:
		w.hurt[f.A] = true
		a.faults.hang = true
		mend(a.unhang)
	case faultSlow:
		a.faults.slow = time.Duration(1+f.Arg%100) * time.Millisecond
		mend(func() { a.faults.slow = 0 })
	case faultFull:
		w.hurt[f.A] = true
		a.faults.full = true
		mend(func() { a.faults.full = false })
	case faultNoRoom:
		a.meta.NoRoom(true)
		mend(func() { a.meta.NoRoom(false) })
	case faultFailSync:
		w.hurt[f.A] = true
		a.faults.failSync = 1
	case faultFailIO:
		w.hurt[f.A] = true
		a.faults.failIO = 1
	case faultLoseType: // not of data or of reports: a connection delivers those, or breaks
		types := []wire.Type{wire.Ack, wire.FlushAck, wire.BeaconAck, wire.Beacon, wire.JoinReady, wire.JoinPrepare, wire.ResyncReady,
			wire.HashReply, wire.Failed, wire.Follow, wire.Lead, wire.HandoverDone, wire.Handover, wire.Settled}
		l.lose[end] = types[f.Arg%len(types)]
		mend(func() { l.lose[end] = 0 })
	case faultCorrupt:
		l.corrupt[end] = 1
	case faultClog:
		l.clog = time.Duration(1+f.Arg%300) * time.Millisecond
		mend(func() { l.clog = 0 })
	}
}

func (h *Host) unhang() {
	if !h.faults.hang {
		return
	}
	h.faults.hang = false
	if h.proc != nil {
		h.proc.unhang()
	}
}

// stallClient holds up what a client has sent on its connection, and the client connects anew
// (history 25).
func (w *World) stallClient(f Fault) {
	c := w.clients[f.Arg%len(w.clients)]
	n := c.conn
	if n == nil || n.gone || !n.admitted {
		return
	}
	n.stalled = w.now + f.For
	w.after(time.Duration(5+f.Arg%60)*time.Millisecond, func() {
		switch {
		case n.gone || c.conn != n:
		case c.id == 0:
			n.lost()
		default:
			n.gone = true
			c.wake(time.Millisecond)
		}
	})
}

// heal ends every fault but those of the hosts in broken.
func (w *World) heal(broken []*Host) {
	w.healing = true
	for k := range trafficKinds {
		for a := range w.hosts {
			for b := range w.hosts {
				w.setCut(k, a, b, false)
			}
		}
	}
	for _, l := range w.sortedLinks() {
		l.lose, l.corrupt, l.clog, l.off = [2]wire.Type{}, [2]int{}, 0, false
	}
	for _, h := range w.hosts {
		if h.data {
			h.unhang()
			h.faults = diskFaults{}
			h.meta.NoRoom(false)
		}
		if slices.Contains(broken, h) {
			h.crash()
			continue
		}
		h.powerOn()
		h.start()
		if p := h.proc; p != nil {
			p.resume()
			if p.core != nil {
				p.step(&replication.Event{Kind: replication.EvResume})
			}
		}
	}
}
