package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
	"github.com/lockstep-ha/lockstep/replication"
)

// Bounds of virtual time.
const (
	startTime = 5 * time.Second   // until a new cluster serves
	calmTime  = 120 * time.Second // until a healed one is as it should be
)

// Plan is everything that a run depends on.
type Plan struct {
	Seed   uint64
	Config Config
	Faults []Fault
}

// Draw draws the plan of a seed.
func Draw(seed uint64) Plan {
	rng := rand.New(rand.NewPCG(seed, 3))
	c := drawConfig(rng)
	plan := drawPlan(rng, c)
	more := rand.New(rand.NewPCG(seed, 4)) // apart, so that the rest of a run is as it was
	c.drawPolicy(more)
	if c.IOError || c.Deadline > 0 {
		plan = append(plan, drawBlackout(more, c)...)
	}
	return Plan{Seed: seed, Config: c, Faults: plan}
}

// Run carries a plan out and returns the world as it ended. World.Failure tells what was found.
func Run(plan Plan, verbose bool) (w *World) {
	w = newWorld(plan, verbose)
	defer func() {
		if r := recover(); r != nil {
			w.failure = &Failure{At: w.now, Text: fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	restore := w.seedRaft()
	defer restore()
	w.found()
	w.begin(plan)
	w.finish()
	return w
}

// Failure returns what the run found, nil if nothing.
func (w *World) Failure() *Failure { return w.failure }

// Log returns the event log.
func (w *World) Log() *EventLog { return w.log }

// Stats returns what the run did.
func (w *World) Stats() Stats { return w.stats }

func newWorld(plan Plan, verbose bool) *World {
	names, data := plan.Config.Shape.names()
	w := &World{
		Seed: plan.Seed, Config: plan.Config, now: time.Second,
		net: rand.New(rand.NewPCG(plan.Seed, 1)), load: rand.New(rand.NewPCG(plan.Seed, 2)),
		links: map[[2]int]*link{}, history: NewHistory(DeviceSize), log: NewEventLog(names, verbose),
		resyncs: map[string]resyncBegun{}, ops: map[uint64]*valueInfo{}, rots: map[uint64]*Host{},
	}
	for i, n := range names {
		w.hosts = append(w.hosts, &Host{w: w, index: i, name: n, data: i < data, rate: 1, ledger: &ledgerDisk{mem: voter.NewMemory()}})
	}
	if w.Config.Drift { // at the margin of 10 percent between any two
		for i, h := range w.hosts {
			h.rate = []float64{0.955, 1.045, 1, 0.98}[(i+int(plan.Seed))%4]
		}
	}
	for a := range data {
		for b := a + 1; b < data; b++ {
			w.links[[2]int{a, b}] = &link{w: w, hosts: [2]*Host{w.hosts[a], w.hosts[b]}}
		}
	}
	return w
}

// found makes the ledger, and replicas that hold zeros, and starts everything.
func (w *World) found() {
	var seats []voter.Seat
	for _, h := range w.hosts {
		seats = append(seats, voter.Seat{Node: quorum.Node{Name: h.name, Addr: h.name + ":1", Witness: !h.data}, Storage: h.ledger.mem})
	}
	if err := voter.FoundOn("c", seats, w.net.Uint64); err != nil {
		w.fail("found the ledger: %v", err)
		return
	}
	for _, h := range w.hosts {
		if h.data {
			h.newReplica(store.UpToDate, w.peersOf(h))
		}
		h.powerOn()
	}
	for _, l := range w.sortedLinks() {
		w.after(time.Duration(w.net.IntN(20))*time.Millisecond, l.connect)
	}
	w.after(300*time.Millisecond, w.create)
}

// create proposes the resource until it is there.
func (w *World) create() {
	for _, h := range w.hosts {
		p := h.proc
		if p == nil || p.voter.State() == nil {
			continue
		}
		s := p.voter.State()
		if s.Find(resourceName) != nil {
			return
		}
		if !p.voter.Quorate() {
			continue
		}
		c := quorum.Command{Resource: resourceName, ResourceID: resourceID, Version: s.Version}
		create := &quorum.CreateResource{SizeBytes: DeviceSize}
		if w.Config.Stonith {
			create.Policy.Fencing = quorum.FencingStonith
		}
		if w.Config.IOError {
			create.Policy.OnNoQuorum = quorum.NoQuorumError
		}
		create.Policy.FreezeDeadline = quorum.Duration(w.Config.Deadline)
		for _, o := range w.hosts {
			if o.data {
				create.Replicas = append(create.Replicas, quorum.NewReplica{Node: o.name, DataPath: "/d"})
			}
		}
		c.CreateResource = create
		p.command(c, nil)
		break
	}
	w.after(100*time.Millisecond, w.create)
}

// serving returns the process that serves, nil if none does.
func (w *World) serving() *Proc {
	for _, h := range w.hosts {
		if p := h.proc; p != nil && p.core != nil && p.core.Serving() {
			return p
		}
	}
	return nil
}

// begin waits until the cluster serves, then lets clients and faults loose.
func (w *World) begin(plan Plan) {
	for limit := w.now + startTime; w.serving() == nil && w.failure == nil; {
		if w.now > limit {
			w.fail("a new cluster does not serve within %v: %s", startTime, w.describe())
			return
		}
		w.runUntil(w.now + 50*time.Millisecond)
	}
	for i := range w.Config.Clients {
		c := &client{w: w, index: i}
		if w.Config.Kernel {
			c.id = replication.ClientID(1000 + i)
		}
		w.clients = append(w.clients, c)
		c.wake(time.Duration(i) * time.Millisecond)
	}
	start := w.now
	for _, f := range plan.Faults {
		w.after(f.At, func() { w.inflict(f) })
	}
	w.end = start + w.Config.Length
	w.runUntil(w.end)
}

// finish heals what is to be healed, and judges whether the cluster comes to be as it should, and
// whether what it holds is what the clients were told.
func (w *World) finish() {
	if w.failure != nil {
		return
	}
	broken := w.chooseBroken()
	w.heal(broken)
	w.note(nil, kindFault, "everything is healed but %v", hostNames(broken))
	for _, c := range w.clients {
		c.stop = true
	}
	for limit := w.now + calmTime; w.failure == nil; {
		w.runUntil(w.now + 200*time.Millisecond)
		why := w.unrest(broken)
		if why == "" {
			break
		}
		if w.allFailed() {
			w.note(nil, kindFault, "the disk of every member has failed: there is nothing left to serve")
			return
		}
		if w.now > limit {
			w.fail("not at rest %v after everything was healed: %s\n%s", calmTime, why, w.describe())
			return
		}
		broken = w.stillBroken(broken)
		w.care(broken)
	}
	if w.failure == nil {
		w.judgeEnd(broken)
	}
}

// chooseBroken returns the hosts that stay down: a minority, and not one that holds the only copy.
func (w *World) chooseBroken() []*Host {
	if w.Config.Shape == Pair || w.net.IntN(2) == 0 {
		return nil
	}
	h := w.hosts[w.net.IntN(len(w.hosts))]
	if h.data && !w.spared(h) {
		return nil
	}
	return []*Host{h}
}

// stillBroken lets a host come back that was to stay down, when what was under way has left no other
// member that is clean.
func (w *World) stillBroken(broken []*Host) []*Host {
	for _, h := range broken {
		if r := w.truth.Replica(h.name); r != nil && r.InSet && !w.spared(h) {
			w.note(h, kindFault, "is repaired: no other member is there and clean")
			h.powerOn()
			return nil
		}
	}
	return broken
}

func hostNames(list []*Host) []string {
	out := []string{}
	for _, h := range list {
		out = append(out, h.name)
	}
	return out
}

// unrest says what is not yet as it should be, "" if all is.
func (w *World) unrest(broken []*Host) string {
	p := w.serving()
	if p == nil || p.core.Fitness(p.h.clock()).Failed {
		return "nobody serves"
	}
	if p.core.Erring() || !p.core.TakesClients() {
		return "the primary does not go on"
	}
	for _, c := range w.clients {
		if len(c.out) > 0 {
			return fmt.Sprintf("client %d waits for an answer", c.index)
		}
	}
	for i, name := range p.peers {
		h := w.hostNamed(name)
		if slices.Contains(broken, h) {
			continue
		}
		if r := w.truth.Replica(name); r == nil || !r.InSet || r.Failed {
			return name + " is not in the set"
		}
		if !w.linked(p, h) || !p.core.Settled(replication.Peer(i)) {
			return name + " is not settled"
		}
	}
	for _, h := range w.hosts {
		if q := h.proc; q != nil && (len(q.io) > 0 || len(q.saves) > 0) {
			return "I/O is under way on " + h.name
		}
	}
	return ""
}

// allFailed reports whether no member has a disk that works: then nobody can serve, and should not.
func (w *World) allFailed() bool {
	for i := range w.truth.Replicas {
		r := &w.truth.Replicas[i]
		if h := w.hostNamed(r.Node); r.InSet && !r.Failed && r.Instance == h.instance && (!h.failing() || h.hungOnly()) {
			return false
		}
	}
	return true
}

// care is what an attentive operator does in a cluster that is well again: he lifts holds, restarts
// daemons whose disk hung, replaces disks that failed, and gives copies up that diverged.
func (w *World) care(broken []*Host) {
	w.restartHung(broken)
	p := w.serving()
	if p == nil {
		w.careForRole(broken)
		return
	}
	for _, h := range w.hosts {
		q := h.proc
		if !h.data || q == nil || q.core == nil || q == p || slices.Contains(broken, h) {
			continue
		}
		switch st := q.core.Fitness(h.clock()); {
		case w.replaceable(h, st.Failed && !st.Hangs):
			w.note(h, kindFault, "an operator replaces its disk")
			w.replaceDisk(h)
			h.powerOn()
		case st.State == replication.Diverged && !st.SelfInSet:
			w.note(h, kindFault, "an operator gives its copy up")
			q.step(&replication.Event{Kind: replication.EvDiscard})
		}
	}
}

// restartHung ends processes that gave their disk up because it hung: it works again, and the next
// process finds on it what it took. A member is left to the cluster for a while.
func (w *World) restartHung(broken []*Host) {
	for _, h := range w.hosts {
		r := w.truth.Replica(h.name)
		if r == nil || r.Failed || !h.hungOnly() || h.faults.hang || slices.Contains(broken, h) || r.InSet && w.now < w.end+10*time.Second {
			continue
		}
		w.note(h, kindFault, "an operator restarts its daemon")
		h.kill()
		h.start()
	}
}

// canForce reports whether the replica on h holds one state of the device, if perhaps an old one.
func (w *World) canForce(h *Host) bool {
	st := h.proc.core.Fitness(h.clock()).State
	return st == replication.UpToDate || st == replication.Outdated || st == replication.Diverged
}

// replaceable reports whether a replica has failed, as it says itself or as the ledger says, and has
// left the set.
func (w *World) replaceable(h *Host, says bool) bool {
	r := w.truth.Replica(h.name)
	return r != nil && !r.InSet && (says || r.Failed) && r.Instance == h.instance
}

// careForRole is what he does when nobody serves: he ends a hold, and forces the last copy when a
// member that might be better is gone for good. A cluster that could help itself he leaves alone.
func (w *World) careForRole(broken []*Host) {
	gone := false
	for i := range w.truth.Replicas {
		r := &w.truth.Replicas[i]
		h := w.hostNamed(r.Node)
		gone = gone || r.InSet && (r.Instance != h.instance || !slices.Contains(broken, h) && !h.sound())
	}
	for _, h := range w.hosts {
		if !h.data || h.proc == nil || h.proc.core == nil || slices.Contains(broken, h) {
			continue
		}
		r := w.truth.Replica(h.name)
		switch {
		case w.truth.Hold && w.fit(h):
			w.promote(h, true)
			return
		case gone && !h.failing() && r.Instance == h.instance && w.now > w.end+20*time.Second && w.canForce(h):
			w.force(h)
			for _, o := range w.hosts {
				if !slices.Contains(broken, o) {
					w.after(2*time.Second, o.powerOn)
				}
			}
			return
		}
	}
}

// judgeEnd judges a cluster at rest.
func (w *World) judgeEnd(broken []*Host) {
	p := w.serving()
	whole := bitmap.Extent{Len: DeviceSize}
	for _, name := range p.peers {
		h := w.hostNamed(name)
		if slices.Contains(broken, h) || w.rotted() {
			continue
		}
		if s, differ := FirstDiff(p.h.disk, h.disk, whole); differ {
			w.fail("at rest sector %d of %s holds %d, of %s %d", s, p.h.name, p.h.disk.Sector(s), name, h.disk.Sector(s))
			return
		}
	}
	if w.illegal != "" {
		return
	}
	if w.Seed%16 == 0 {
		w.verifyAll(p, broken)
	}
	w.report(w.history.FinalContent(p.h.name, w.now, p.h.disk.Sector))
	if w.failure == nil {
		w.report(w.history.Check())
	}
}

// verifyAll lets the product compare the replicas itself, which must find nothing.
func (w *World) verifyAll(p *Proc, broken []*Host) {
	for i, name := range p.peers {
		if slices.Contains(broken, w.hostNamed(name)) {
			continue
		}
		p.step(&replication.Event{Kind: replication.EvVerify, Peer: replication.Peer(i)})
		var v *replication.VerifyStatus
		for limit := w.now + calmTime; w.failure == nil && w.now < limit; {
			if v = p.core.Status(p.h.clock()).Verify; v != nil && !v.Running {
				break
			}
			w.runUntil(w.now + 100*time.Millisecond)
		}
		if p.dead {
			return // a fence that was late to succeed
		}
		ended := v != nil && !v.Running && (v.Err != "" || v.Done == v.Total) // a late promotion may end it early
		if !ended || v.Mismatches > 0 {
			w.fail("verify of %s with %s: %+v", p.h.name, name, v)
		}
	}
}

// describe tells how the cluster stands, for a failure.
func (w *World) describe() string {
	text := fmt.Sprintf("record: %+v\n", w.truth)
	for _, h := range w.hosts {
		p := h.proc
		if p == nil {
			text += fmt.Sprintf("%s: up %v, no daemon\n", h.name, h.up)
			continue
		}
		st := p.voter.Status()
		text += fmt.Sprintf("%s: leader %q quorum %v problem %q proposals\n", h.name, st.Leader, st.HasQuorum, st.Problem)
		if p.core != nil {
			text += fmt.Sprintf("   %+v\n", p.core.Status(h.clock()))
			text += p.core.Dump()
		}
	}
	return text
}
