package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

const (
	step    = 10 * time.Millisecond
	transit = 20 * time.Millisecond // of a proposal until it is applied everywhere
)

// host is a node of a rig, as it is and as it would report.
type host struct {
	name      string
	up        bool // its process runs
	off       bool // it was turned off: its next start is another boot
	process   uint64
	boot      string
	disk      string
	unclean   bool
	failed    bool
	hangs     bool
	leaving   bool
	refuses   bool // it does not become primary, whatever the ledger says
	stuck     bool // as primary: frozen, and its Drop reaches nobody
	noFence   bool
	lags      int // versions by which its ledger copy is behind
	epoch     uint64
	heard     time.Duration // the recorded primary; below 0: never
	fences    FenceResult   // what becomes of fences that it carries out; 0: it never answers
	fenceTime time.Duration
	c         *Coordinator
}

// rig is a small cluster: hosts that report to the coordinator on the leader, a ledger that
// applies what it proposes, and a clock that only run moves.
type rig struct {
	testing.TB
	s      *quorum.State
	now    time.Duration
	hosts  []*host
	leader string
	cut    map[string]bool // "A-B": links, both directions
	queue  []queued
	ids    uint64
	log    []string
	// lost makes proposals get the answer that it returns instead of being applied, if not 0.
	lost func(cmd quorum.Command) Outcome
	// check sees every proposal of the leader as it is made.
	check func(a Action)
	// sent sees every report that arrives at the leader.
	sent func(rep Report)
}

type queued struct {
	at    time.Duration
	from  *host
	by    uint64 // the process on it, which takes what it asked for into its grave
	act   Action
	fence bool
}

func id(node string) uint64 { return uint64(node[0]) }

// newRig is a cluster with resource r0 on the data nodes, the first one primary, led by W.
func newRig(t testing.TB, policy quorum.Policy, data ...string) *rig {
	t.Helper()
	g := &rig{TB: t, leader: "W", cut: map[string]bool{}, ids: 1000}
	var nodes []quorum.Node
	for i, n := range append(slices.Clone(data), "W") {
		nodes = append(nodes, quorum.Node{Name: n, VoterID: uint64(100 + i), Addr: n + ":1", Witness: n == "W"})
		h := &host{name: n, up: true, process: id(n) * 100, boot: "boot-" + n, heard: -1, fences: FenceOK, fenceTime: 100 * time.Millisecond}
		if n != "W" {
			h.disk = DiskUpToDate
		}
		c, err := New(Config{Node: n, NewID: g.newID})
		if err != nil {
			t.Fatal(err)
		}
		h.c = c
		g.hosts = append(g.hosts, h)
	}
	s, err := quorum.Genesis("c", quorum.Incarnation{Counter: 1, ID: 7}, nodes)
	if err != nil {
		t.Fatal(err)
	}
	g.s = s
	create := &quorum.CreateResource{SizeBytes: 1 << 20, Policy: policy}
	for _, n := range data {
		create.Replicas = append(create.Replicas, quorum.NewReplica{Node: n, DataPath: "/" + n})
	}
	g.must(quorum.Command{Resource: "r0", ResourceID: 55, Version: g.s.Version, CreateResource: create})
	for _, h := range g.hosts {
		g.register(h)
	}
	for _, n := range data {
		g.on(func(c *quorum.Command) { c.RegisterReplica = &quorum.RegisterReplica{Node: n, Instance: id(n)} })
	}
	g.promote(data[0])
	g.lead("W")
	return g
}

func (g *rig) newID() uint64 { g.ids++; return g.ids }

func (g *rig) must(cmd quorum.Command) {
	g.Helper()
	next, res := quorum.Apply(g.s, cmd)
	if err := res.Err(); err != nil {
		g.Fatalf("%s: %v", &cmd, err)
	}
	g.adopt(next)
}

// on applies a command that is bound to r0 as it stands.
func (g *rig) on(set func(c *quorum.Command)) {
	g.Helper()
	cmd := quorum.On(g.r0())
	set(&cmd)
	g.must(cmd)
}

func (g *rig) register(h *host) {
	g.Helper()
	g.must(quorum.Command{Version: g.s.Version, NodeStarted: &quorum.NodeStarted{Node: h.name, Boot: h.boot, Process: h.process}})
}

// promote is an operator's.
func (g *rig) promote(node string) {
	g.Helper()
	g.on(func(c *quorum.Command) {
		c.Promote = &quorum.Promote{Candidate: g.host(node).incumbent(), NewEpoch: c.Epoch + 1, Generation: g.newID(),
			TakeOver: !g.r0().Primary.None(), Operator: true}
	})
}

func (g *rig) r0() *quorum.Resource { return g.s.Find("r0") }

func (g *rig) host(name string) *host {
	g.Helper()
	i := slices.IndexFunc(g.hosts, func(h *host) bool { return h.name == name })
	if i < 0 {
		g.Fatalf("no host %s", name)
	}
	return g.hosts[i]
}

func (h *host) incumbent() quorum.Incumbent {
	i := quorum.Incumbent{Node: h.name, Boot: h.boot, Process: h.process}
	if h.name != "W" {
		i.Instance = id(h.name)
	}
	return i
}

func link(a, b string) string { return min(a, b) + "-" + max(a, b) }

func (g *rig) linked(a, b string) bool { return a == b || !g.cut[link(a, b)] }

// adopt shows every process the new State.
func (g *rig) adopt(s *quorum.State) {
	if s == g.s {
		return
	}
	g.s = s
	for _, h := range g.hosts {
		if h.up && h.c != nil {
			g.step(h, Event{Kind: EvState, State: s})
		}
	}
}

// lead makes the coordinator on node the only one that leads.
func (g *rig) lead(node string) {
	g.host(g.leader).c.Step(Event{Kind: EvLead, Now: g.now, On: false}, nil)
	g.leader = node
	g.step(g.host(node), Event{Kind: EvLead, On: true})
}

// step feeds one event to the coordinator on h and queues what it asks for.
func (g *rig) step(h *host, ev Event) {
	ev.Now = g.now
	for _, a := range h.c.Step(ev, nil) {
		q := queued{at: g.now + transit, from: h, by: h.process, act: a, fence: a.Kind == ActFence}
		if q.fence {
			if q.at = g.now + h.fenceTime; h.fences == 0 {
				continue
			}
		} else if g.check != nil {
			g.check(a)
		}
		g.log = append(g.log, fmt.Sprintf("%7v %s: %s", g.now, h.name, a.Why))
		g.queue = append(g.queue, q)
	}
}

// run lets d pass.
func (g *rig) run(d time.Duration) {
	for end := g.now + d; g.now < end; {
		g.now += step
		g.deliver()
		if p := g.primary(); p != nil && !p.refuses {
			p.epoch = g.r0().Epoch
			for _, h := range g.hosts {
				if h.up && h != p && g.linked(h.name, p.name) {
					h.heard = g.now
				}
			}
		}
		for i, h := range g.hosts {
			if g.now%ReportInterval == time.Duration(i)*step {
				g.report(h)
			}
			if h.up && g.now%TickInterval == 0 {
				g.step(h, Event{Kind: EvTick})
			}
		}
	}
}

// deliver applies and answers what is due.
func (g *rig) deliver() {
	for i := 0; i < len(g.queue); i++ {
		q := g.queue[i]
		if q.at > g.now {
			continue
		}
		g.queue = slices.Delete(g.queue, i, i+1)
		i--
		if !q.from.up || q.from.process != q.by {
			continue
		}
		if q.fence {
			g.fire(q)
			continue
		}
		g.propose(q)
	}
}

func (g *rig) propose(q queued) {
	done := Event{Kind: EvProposalDone, Token: q.act.Token, Outcome: OutcomeApplied}
	if g.lost != nil {
		if o := g.lost(q.act.Command); o != 0 {
			done.Outcome = o
			g.step(q.from, done)
			return
		}
	}
	next, res := quorum.Apply(g.s, q.act.Command)
	if res.Code != quorum.Applied {
		done.Outcome, done.Code = OutcomeRefused, res.Code
		g.log = append(g.log, fmt.Sprintf("%7v refused: %s", g.now, res.Reason))
	}
	g.adopt(next)
	g.step(q.from, done)
}

// fire carries a fence out.
func (g *rig) fire(q queued) {
	if q.from.fences == FenceOK {
		g.crash(q.act.Fence.Target)
		g.host(q.act.Fence.Target).off = true
	}
	g.step(q.from, Event{Kind: EvFenceDone, ID: q.act.Fence.ID, Fenced: q.from.fences, Text: "agent\nof " + q.from.name})
}

// primary is the host whose process is recorded and runs.
func (g *rig) primary() *host {
	for _, h := range g.hosts {
		if h.up && h.name == g.r0().Primary.Node && h.process == g.r0().Primary.Process {
			return h
		}
	}
	return nil
}

func (g *rig) says(h *host) Report {
	r := g.r0()
	rep := Report{Node: h.name, Resource: "r0", ResourceID: r.ID, Incumbent: h.incumbent(), HeardPrimary: -1,
		Version: r.Version - uint64(h.lags), CannotFence: h.noFence}
	if h.heard >= 0 {
		rep.HeardPrimary = g.now - h.heard
	}
	p := r.Replica(h.name)
	if p == nil {
		return rep
	}
	rep.Role, rep.DiskState, rep.Unclean, rep.Leaving = RoleSecondary, h.disk, h.unclean, h.leaving
	rep.Failed, rep.Hangs = h.failed, h.hangs
	rep.Epoch, rep.InSet = h.epoch, p.InSet
	if len(r.Lineage) > 0 {
		rep.Generation = r.Lineage[len(r.Lineage)-1]
	}
	if g.primary() == h && !h.refuses {
		rep.Role, rep.Frozen, rep.CannotDrop = RolePrimary, h.stuck, h.stuck
	}
	return rep
}

func (g *rig) report(h *host) {
	l := g.host(g.leader)
	if !h.up || !l.up || !g.linked(h.name, l.name) {
		return
	}
	rep := g.says(h)
	if g.sent != nil {
		g.sent(rep)
	}
	g.step(l, Event{Kind: EvReport, Report: rep})
}

// crash ends the process on node; with its host, a start afterwards is another boot.
func (g *rig) crash(node string) { g.host(node).up = false }

// restart starts a new process on node, which registers itself; boot says that the host was down.
func (g *rig) restart(node string, boot bool) {
	h := g.host(node)
	if h.up {
		g.crash(node)
	}
	h.up, h.leaving, h.heard = true, false, -1
	h.process++
	if boot || h.off {
		h.off = false
		h.boot += "+"
		h.unclean = h.disk != ""
	}
	c, err := New(Config{Node: node, NewID: g.newID})
	if err != nil {
		g.Fatal(err)
	}
	h.c = nil // it reads the ledger below
	cmd := quorum.Command{Version: g.s.Version, NodeStarted: &quorum.NodeStarted{Node: node, Boot: h.boot, Process: h.process}}
	next, _ := quorum.Apply(g.s, cmd)
	g.adopt(next)
	h.c = c
	g.step(h, Event{Kind: EvState, State: g.s})
	if g.leader == node {
		g.step(h, Event{Kind: EvLead, On: true})
	}
}

func (g *rig) isolate(node string) {
	for _, h := range g.hosts {
		if h.name != node {
			g.cut[link(node, h.name)] = true
		}
	}
}

// wantPrimary fails unless node's running process is primary; "" for nobody.
func (g *rig) wantPrimary(node string) {
	g.Helper()
	p, got := g.primary(), ""
	if p != nil {
		got = p.name
	}
	if got != node {
		g.Fatalf("at %v the primary is %q, want %q; record %s; %s\n%s", g.now, got, node, g.r0().Primary,
			g.host(g.leader).c.Explain("r0"), strings.Join(g.log, "\n"))
	}
}

// wantNothing fails if anything was proposed or fired.
func (g *rig) wantNothing() {
	g.Helper()
	if len(g.log) > 0 {
		g.Fatalf("something was done:\n%s", strings.Join(g.log, "\n"))
	}
}

// wantWithin lets time pass until node is primary, at most d, and returns how long it took.
func (g *rig) wantWithin(node string, d time.Duration) time.Duration {
	g.Helper()
	start := g.now
	for g.now-start < d {
		g.run(step)
		if p := g.primary(); p != nil && p.name == node {
			return g.now - start
		}
	}
	g.wantPrimary(node)
	return d
}

func (g *rig) drop(nodes ...string) {
	g.Helper()
	g.on(func(c *quorum.Command) {
		c.DropReplica = &quorum.DropReplica{Incumbent: g.r0().Primary, Nodes: nodes, Generation: g.newID()}
	})
}

func (g *rig) stepDown(d quorum.StepDown) {
	g.Helper()
	g.on(func(c *quorum.Command) { d.Incumbent = g.r0().Primary; c.StepDown = &d })
}

func (g *rig) setPriority(node string, p int) {
	g.Helper()
	g.on(func(c *quorum.Command) { c.SetPriority = &quorum.SetPriority{Node: node, Priority: p} })
}
