package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/coordinator"
	"github.com/lockstep-ha/lockstep/quorum/voter"
	"github.com/lockstep-ha/lockstep/replication"
)

// ledgerDisk is the ledger file of one host. A Save is one transaction: a crash keeps it or not.
type ledgerDisk struct {
	mem *voter.Memory
}

func (d *ledgerDisk) crash(*rand.Rand) {}

// ledgerSide is the part of a process that concerns the ledger.
type ledgerSide struct {
	voter  *voter.Voter
	router *voter.Router
	heard  [maxHosts]time.Duration // a ping of that host was answered last
	state  *quorum.State           // newest that the voter showed
	newest *quorum.Resource        // newest record that this process knows, from wherever

	owed      time.Duration // the ledger owes the core an answer since; 0: it does not
	errs      bool          // the core rightly answers with errors
	hold      bool          // the next StepDown is an operator's demote
	starting  *voter.Proposal
	registers *voter.Proposal
	busy      bool // in voter.Ready
	coordination
}

const (
	ledgerTicks = 3 // core ticks for each tick of the voter: 60 ms
	linkTimeout = 400 * time.Millisecond
)

// openLedger opens the ledger file and takes part.
func (p *Proc) openLedger() {
	w := p.w
	p.router = voter.NewRouter(p.h.name, simLinks{p})
	for i := range p.heard {
		p.heard[i] = w.now
	}
	v, err := voter.New(voter.Config{Cluster: "c", Node: p.h.name, Members: w.members(),
		SnapshotEntries: 40, OnState: p.onState}, p.h.ledger.mem, p.router, w.net.Uint64)
	if err != nil {
		w.fail("the ledger of %s does not open: %v", p.h.name, err)
		return
	}
	p.voter = v
	p.openCoordinator()
}

func (w *World) members() []voter.Member {
	var out []voter.Member
	for _, h := range w.hosts {
		out = append(out, voter.Member{Name: h.name, Witness: !h.data})
	}
	return out
}

// ledgerTick lets time pass for the voter and for what this process wants of the ledger.
func (p *Proc) ledgerTick() {
	if p.voter == nil {
		return
	}
	if p.ticks%ledgerTicks == 0 {
		p.ping()
		p.voter.Tick()
		p.ready()
		p.register()
	}
	if !p.dead {
		p.coordinate()
	}
}

// ready carries out what the voter wants. Answers are given in it, which may propose again.
func (p *Proc) ready() {
	if p.busy || p.dead || p.w.failure != nil {
		return
	}
	p.busy = true
	err := p.voter.Ready()
	p.busy = false
	if err != nil {
		p.w.note(p.h, kindLedger, "the ledger stops: %v", err)
	}
}

// simLinks is a process's links to the voters of the other hosts.
type simLinks struct{ p *Proc }

func (l simLinks) Names() []string {
	var out []string
	for _, h := range l.p.w.hosts {
		if h != l.p.h {
			out = append(out, h.name)
		}
	}
	slices.Sort(out)
	return out
}

// Up goes by pings, so it is wrong for a while.
func (l simLinks) Up(node string) bool {
	return l.p.w.now-l.p.heard[l.p.w.hostNamed(node).index] < linkTimeout
}

func (l simLinks) Send(node string, frame []byte) bool {
	p, w := l.p, l.p.w
	to := w.hostNamed(node)
	if w.isCut(ledgerTraffic, p.h.index, to.index) {
		return w.chance(1, 2) // it is in a buffer, and lost
	}
	w.after(w.latency(), func() {
		if to.proc == nil || w.isCut(ledgerTraffic, p.h.index, to.index) {
			return
		}
		q := to.proc
		q.run(func() { q.fromVoter(p.h.name, frame) })
	})
	return true
}

// ping finds out which links work.
func (p *Proc) ping() {
	w := p.w
	for _, h := range w.hosts {
		if h == p.h || h.proc == nil || h.proc.paused {
			continue
		}
		if !w.isCut(ledgerTraffic, p.h.index, h.index) && !w.isCut(ledgerTraffic, h.index, p.h.index) {
			p.heard[h.index] = w.now
		}
	}
}

// fromVoter takes a frame of another host.
func (p *Proc) fromVoter(peer string, b []byte) {
	f, err := voter.ParseFrame(b)
	if err != nil {
		p.w.fail("%s gets a ledger frame that does not parse: %v", p.h.name, err)
		return
	}
	if p.router.Arrived(peer, f) {
		p.voter.Receive(peer, f)
		p.ready()
	}
}

// onState is told each new state by the voter, which may not be called from here.
func (p *Proc) onState(s *quorum.State) {
	p.state = s
	p.into(0, func() { p.decide(coordinator.Event{Kind: coordinator.EvState, State: s}) })
	rec := s.Find(resourceName)
	if rec == nil {
		return
	}
	p.w.applied(s, rec)
	if p.core != nil {
		p.into(p.w.between(0, p.w.Config.LedgerLag), func() { p.learn(rec) })
	}
}

// ledgerRecord returns the record in this process's copy of the ledger.
func (p *Proc) ledgerRecord() *quorum.Resource {
	if p.voter == nil || p.voter.State() == nil {
		return nil
	}
	return p.voter.State().Find(resourceName)
}

// self is what this process would be recorded as, were it primary.
func (p *Proc) self() quorum.Incumbent {
	return quorum.Incumbent{Node: p.h.name, Instance: p.h.instance, Boot: p.h.bootID(), Process: p.id}
}

// learn tells the core a record.
func (p *Proc) learn(rec *quorum.Resource) {
	if p.newest == nil || rec.Version > p.newest.Version {
		p.newest = rec
	}
	p.step(&replication.Event{Kind: replication.EvLedger, Record: record.Project(p.state, rec, p.self(), p.peers)})
}

// propose carries a core's wish to the ledger. With an impatient proposer the wait is short, and then
// the outcome is unknown, while the proposal may yet be applied.
func (p *Proc) propose(token uint64, ask replication.Proposal) {
	w := p.w
	by := record.Proposer{Resource: resourceName, ResourceID: resourceID, Self: p.self(), Peers: p.peers, Newest: p.newest, Hold: p.hold}
	cmd := by.Command(ask, w.net.Uint64()|1)
	w.note(p.h, kindLedger, "proposes %s", cmd.String())
	done := false
	if p.owed == 0 {
		p.owed = w.now
	}
	answer := func(o replication.Outcome, res quorum.Result) {
		if done {
			return
		}
		done = true
		p.into(w.between(0, time.Millisecond), func() {
			if res.Resource != nil {
				p.learn(res.Resource)
			}
			if o == replication.OutcomeApplied || o == replication.OutcomeRefused {
				p.owed = 0
			}
			p.step(&replication.Event{Kind: replication.EvProposalDone, Token: token, Outcome: o, Err: res.Err()})
		})
	}
	_, err := p.voter.Propose(cmd, func(res quorum.Result, err error) {
		switch {
		case err != nil:
			answer(replication.OutcomeUnknown, quorum.Result{})
		case res.Code == quorum.Applied:
			answer(replication.OutcomeApplied, res)
		default:
			answer(replication.OutcomeRefused, res)
		}
	})
	if err != nil {
		answer(replication.OutcomeNotDone, quorum.Result{})
		return
	}
	p.into(0, p.ready)
	if w.Config.ImpatientP {
		p.into(w.between(time.Millisecond, 500*time.Millisecond), func() {
			if !done { // the proposal itself stays under way
				answer(replication.OutcomeUnknown, quorum.Result{})
			}
		})
	}
}

// command proposes something for an operator or the coordinator; done may be nil.
func (p *Proc) command(c quorum.Command, done func(quorum.Result, error)) *voter.Proposal {
	prop, err := p.voter.Propose(c, func(res quorum.Result, err error) {
		p.w.note(p.h, kindLedger, "%s: %v %v", c.String(), res.Err(), err)
		if done != nil {
			p.into(0, func() { done(res, err) })
		}
	})
	if err != nil {
		return nil
	}
	p.into(0, p.ready)
	return prop
}

// register tells the ledger which process runs here, and which replica.
func (p *Proc) register() {
	s := p.state
	if s == nil {
		return
	}
	n := s.Node(p.h.name)
	if n != nil && !n.Gone && (n.Boot != p.h.bootID() || n.Process != p.id) && p.starting == nil {
		c := quorum.Command{Version: s.Version, NodeStarted: &quorum.NodeStarted{Node: p.h.name, Boot: p.h.bootID(), Process: p.id}}
		p.starting = p.command(c, func(quorum.Result, error) { p.starting = nil })
	}
	rec := p.ledgerRecord()
	if rec == nil || p.core == nil || p.registers != nil {
		return
	}
	if r := rec.Replica(p.h.name); r != nil && r.Instance != p.h.instance && (!r.InSet || rec.Epoch == 0) {
		c := quorum.On(rec)
		c.RegisterReplica = &quorum.RegisterReplica{Node: p.h.name, Instance: p.h.instance}
		p.registers = p.command(c, func(quorum.Result, error) { p.registers = nil })
	}
}
