package node

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/quorum/pair"
)

// pairGuard lets this node of a pair without a witness go on alone when the other one is proven off
// (DESIGN section 4). It looks, and carries out what package pair decides, in the order that binds: shoot,
// confirm, rewrite, record.
//
// run's goroutine alone touches the Pair. At most one fence or rewriting is under way, so its answer
// always finds room.
type pairGuard struct {
	self    quorum.Incumbent
	ledger  pairLedger
	fate    ledgerFate
	fencer  fencer
	gossip  func(node string) bool                    // membership hears of it
	left    func(st *quorum.State, node string) bool  // it said that its daemon stops
	held    func(st *quorum.State, node string) error // nil: this process may go on without it
	closing func() bool                               // this daemon stops
	proven  func(id uint64, proof string)             // what the fence of that id proved, before it is recorded
	tell    func(kind, text string, attrs ...string)  // the journal
	log     *slog.Logger
	clock   func() time.Duration
	recent  time.Duration // what came over the ledger's link within it was lately

	pair    *pair.Pair
	answers chan pair.Event // capacity 1
	work    sync.WaitGroup

	mu  sync.Mutex
	why string // of Pair.Explain
}

// pairLedger is what pairGuard needs of *ledger.Ledger.
type pairLedger interface {
	ledgerAPI
	Status() ledger.Status
	SinceHeard(node string) time.Duration
}

// pairTimes fits the patience to the timing of the node file: a daemon that is only started again should
// be back before it is taken for lost.
func pairTimes(cfg config.Node) pair.Config {
	c := pair.DefaultConfig()
	c.Silence = max(c.Silence, cfg.PeerTimeout)
	c.Random = func(most time.Duration) time.Duration {
		if most <= 0 {
			return 0
		}
		return rand.N(most)
	}
	return c
}

// newPairGuard makes the guard of this node; b judges its replicas.
func (d *daemon) newPairGuard(self quorum.Incumbent, b *backend) (*pairGuard, error) {
	p, err := pair.New(pairTimes(d.cfg))
	if err != nil {
		return nil, err
	}
	return &pairGuard{
		self: self, ledger: d.ledger, fate: d.ledger, fencer: d.fail.fencer, gossip: d.members.alive, left: d.fail.leaves.left, closing: d.m.closing.Load,
		held: b.mayAllGoAlone, proven: d.fail.proofs.put, log: d.log, clock: d.host.bootTime(), recent: max(500*time.Millisecond, 5*d.cfg.BeaconInterval),
		tell: func(kind, text string, attrs ...string) { b.journal.add("", kind, text, attrs...) },
		pair: p, answers: make(chan pair.Event, 1),
	}, nil
}

// run guards until ctx ends, and returns when nothing that it began is under way any more.
func (g *pairGuard) run(ctx context.Context) {
	defer g.work.Wait()
	tick := beat.NewTicker(pair.LookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.step(ctx, pair.Event{Kind: pair.EvLook})
			tick.Next(g.pace())
		case ev := <-g.answers:
			g.step(ctx, ev)
		}
	}
}

// pace is how long the next look may be away: where three nodes or more vote, none goes on alone.
func (g *pairGuard) pace() time.Duration {
	if st := g.ledger.Status(); st.HasQuorum && len(st.Voters) > 2 {
		return time.Second
	}
	return pair.LookInterval
}

// step gives the Pair one event with a fresh look, and begins what it decides.
func (g *pairGuard) step(ctx context.Context, ev pair.Event) {
	ev.Look, ev.Now = g.look(), g.clock()
	actions := g.pair.Step(ev, nil)
	g.explain(g.pair.Explain())
	for _, a := range actions {
		g.work.Go(func() {
			ev := g.carryOut(ctx, a)
			select {
			case g.answers <- ev:
			case <-ctx.Done():
			}
		})
	}
}

// explain keeps what is to be told to operators.
func (g *pairGuard) explain(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.why = why
}

// reason is what this node does about the loss of the other one; "" if nothing is to be done.
func (g *pairGuard) reason() string {
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// look gathers what this node knows by itself.
func (g *pairGuard) look() pair.Look {
	lst := g.ledger.Status()
	l := pair.Look{Quorum: lst.HasQuorum, Voter: votes(lst, g.self.Node)}
	st := g.ledger.State()
	if st == nil {
		return l
	}
	other := otherVoter(st, g.self.Node)
	if other == nil || l.Quorum {
		return l
	}
	l.Peer, l.Boot = other.Name, other.Boot
	since := g.ledger.SinceHeard(other.Name)
	l.Linked = since >= 0 && since < g.recent
	l.Gossip = g.gossip(other.Name)
	l.Left = g.left(st, other.Name)
	l.CanFence = g.fencer != nil && g.fencer.Can(other.Name)
	mine, theirs := pair.Side{Node: g.self.Node}, pair.Side{Node: other.Name}
	l.Hands = shared(st, &mine, &theirs)
	l.Favoured = pair.Favoured(mine, theirs)
	if g.closing() {
		l.Hands = "this node is stopping"
	}
	if err := g.held(st, other.Name); err != nil {
		l.Held = err.Error()
	}
	return l
}

// otherVoter returns the other data node where the ledger has two voters, nil otherwise.
func otherVoter(st *quorum.State, self string) *quorum.Node {
	var other *quorum.Node
	for i := range st.Nodes {
		switch n := &st.Nodes[i]; {
		case n.Name == self || n.Gone:
		case other != nil || n.Witness:
			return nil
		default:
			other = n
		}
	}
	return other
}

// shared counts of which resources that both hold each side is the recorded primary, and says why an
// operator decides instead of this node: "" if the ledger asks for that of none.
func shared(st *quorum.State, mine, theirs *pair.Side) (hands string) {
	any := false
	for i := range st.Resources {
		r := &st.Resources[i]
		if r.Deleted || r.Replica(mine.Node) == nil || r.Replica(theirs.Node) == nil {
			continue
		}
		any = true
		switch r.Primary.Node {
		case mine.Node:
			mine.Primaries++
		case theirs.Node:
			theirs.Primaries++
		}
		switch {
		case hands != "":
		case r.Policy.Fencing == quorum.FencingManual:
			hands = "the fencing of " + r.Name + " is manual, so an operator says that " + theirs.Node + " is down"
		case r.Paused:
			hands = "failover of " + r.Name + " is paused"
		case r.Policy.Failover == quorum.FailoverManual:
			hands = "failover of " + r.Name + " is manual"
		}
	}
	if !any {
		return "no resource is held by both nodes"
	}
	return hands
}

// carryOut does one thing and returns its answer.
func (g *pairGuard) carryOut(ctx context.Context, a pair.Action) pair.Event {
	if a.Kind == pair.ActShoot {
		proof, err := g.shoot(ctx, a)
		if err != nil {
			g.log.Error("the other node is not proven off", "peer", a.Node, "boot", a.Boot, "err", err)
			g.tell("pair_fence_failed", "It is not proven that "+a.Node+" is off, so nobody goes on alone: "+err.Error(), "peer", a.Node)
			return pair.Event{Kind: pair.EvShot, Text: err.Error()}
		}
		return pair.Event{Kind: pair.EvShot, OK: true, Text: proof}
	}
	if err := g.open(ctx, a); err != nil {
		return pair.Event{Kind: pair.EvOpened, Text: err.Error()}
	}
	return pair.Event{Kind: pair.EvOpened, OK: true}
}

// shoot turns the other node off. Between the decision and the first shot it may have been heard again.
func (g *pairGuard) shoot(ctx context.Context, a pair.Action) (string, error) {
	g.log.Warn("turning the other node of the pair off", "peer", a.Node, "boot", a.Boot, "why", a.Why)
	g.tell("fence", g.self.Node+" turns "+a.Node+" off: "+a.Why+".", "peer", a.Node)
	return g.fencer.Fence(ctx, fencing.Request{
		Target: targetOf(g.ledger.State(), a.Node, a.Boot, a.Why),
		Still: func(context.Context) error {
			if against := g.look().Against(); against != "" {
				return fmt.Errorf("nothing was fired: %s", against)
			}
			return nil
		},
	})
}

// open rewrites the ledger to this node alone, and records the fence in what follows. Once the ledger is
// rewritten, this node goes on, whatever becomes of the record: it is tried until it is there.
func (g *pairGuard) open(ctx context.Context, a pair.Action) error {
	statement := fmt.Sprintf("%s went on alone: %s", g.self.Node, a.Why)
	if err := g.fate.OpenIncarnation(ctx, statement); err != nil {
		g.log.Error("the ledger does not go on alone", "peer", a.Node, "err", err)
		return fateError(err)
	}
	g.tell("alone", statement+"; the ledger goes on with this node alone.", "peer", a.Node)
	g.record(ctx, a)
	return nil
}

// record has the fence that was fired recorded, as one that was asked of this node. The proof is laid
// out first: who carries out what the ledger asks finds it and fires no second time.
func (g *pairGuard) record(ctx context.Context, a pair.Action) {
	var pause backoff
	id := randomID()
	g.proven(id, a.Proof)
	shot := processOf(g.ledger.State(), a.Node)
	for {
		st := g.ledger.State()
		if processOf(st, a.Node) != shot {
			return // it was started again and has registered, which says more than the proof
		}
		if st.ProvenDown(a.Node, a.Boot) {
			return
		}
		if f := st.Fence(a.Node); f != nil && f.Phase == quorum.FenceAsked && f.Boot == a.Boot && f.Executor == g.self.Node {
			g.proven(f.ID, a.Proof)
		} else {
			res, err := attempt(ctx, g.ledger, quorum.Command{Version: st.Version, FenceRequested: &quorum.FenceRequested{
				Target: a.Node, Boot: a.Boot, Executor: g.self.Node, ID: id,
			}})
			if err != nil || res.Code != quorum.Applied {
				g.log.Info("fence not recorded yet", "peer", a.Node, "reason", res.Reason, "err", err)
			}
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// processOf returns the process that node registered last, 0 if none.
func processOf(st *quorum.State, node string) uint64 {
	if n := st.Node(node); n != nil {
		return n.Process
	}
	return 0
}

// proofs are what fences proved that could not be recorded when they were fired, by the id under
// which they are recorded afterwards. There are as many as this process opened incarnations.
type proofs struct {
	mu   sync.Mutex
	text map[uint64]string
}

func (p *proofs) put(id uint64, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text == nil {
		p.text = map[uint64]string{}
	}
	p.text[id] = text
}

func (p *proofs) of(id uint64) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, ok := p.text[id]
	return text, ok
}

// leaves are the processes that said that they are about to stop, by node: the newest one of each.
type leaves struct {
	mu      sync.Mutex
	process map[string]uint64
}

func (l *leaves) note(node string, process uint64, leaving bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.process == nil {
		l.process = map[string]uint64{}
	}
	switch {
	case leaving:
		l.process[node] = process
	case l.process[node] == process:
		delete(l.process, node)
	}
}

// left reports whether the process that node registered last has said so.
func (l *leaves) left(st *quorum.State, node string) bool {
	n := st.Node(node)
	l.mu.Lock()
	defer l.mu.Unlock()
	return n != nil && n.Process != 0 && l.process[node] == n.Process
}
