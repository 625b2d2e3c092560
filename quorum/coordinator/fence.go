package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
)

// fenceWatch is what the leader remembers about fencing one node.
type fenceWatch struct {
	target    string
	id        uint64 // of the newest fence seen
	phase     quorum.FencePhase
	seenAt    time.Duration // since when it is in that phase, as far as is known here
	executor  string        // of it
	failures  int
	pending   uint64 // token of the proposal that is out; 0: none
	notBefore time.Duration
}

// order is a fence that this node carries out, whoever leads.
type order struct {
	fence     quorum.Fence
	result    FenceResult // 0: the agent is at work
	text      string
	pending   uint64 // token of the proposal that is out; 0: none
	notBefore time.Duration
}

// OrdersFor returns the fences that node has to carry out by s: those that were requested of it
// and have no result. Nobody but the named executor may fire, or a request that was answered or
// taken back could be carried out by a node that has not heard of it.
func OrdersFor(s *quorum.State, node string) []quorum.Fence {
	var out []quorum.Fence
	for _, f := range s.Fences {
		mine := f.Executor == node || planted.On(planted.AnyExecutorFires) && f.Target != node
		if mine && f.Phase == quorum.FenceAsked {
			out = append(out, f)
		}
	}
	return out
}

// proofMissing reports whether the promotion of h's process has to wait for a proof that the
// recorded primary is down. On its own node the candidate itself is the proof.
func (c *Coordinator) proofMissing(r *quorum.Resource, h *heard) bool {
	mode := r.Policy.Fencing
	return (mode == quorum.FencingStonith || mode == quorum.FencingManual) &&
		!r.Primary.None() && r.Primary.Node != h.Node && !c.state.PrimaryOver(r)
}

// fence asks for the recorded primary of r to be turned off, so that h may follow it, unless that
// is under way, was tried just now, or is an operator's business.
func (c *Coordinator) fence(r *quorum.Resource, w *watch, h *heard, n need, out []Action) []Action {
	if r.Policy.Fencing != quorum.FencingStonith {
		return out
	}
	target := r.Primary.Node
	fw := c.fenceOf(target)
	if f := c.state.Fence(target); f != nil && f.Phase == quorum.FenceAsked || fw.pending != 0 || c.now < fw.notBefore {
		return out
	}
	executor, pair := c.executor(r, w, h, fw)
	if executor == "" || pair && c.now-w.neededAt < c.cfg.FenceDelay {
		return out
	}
	fw.pending = c.nextToken()
	cmd := quorum.Command{Version: c.state.Version, FenceRequested: &quorum.FenceRequested{
		Target: target, Boot: r.Primary.Boot, Executor: executor, ID: c.cfg.NewID()}}
	return append(out, Action{Kind: ActPropose, Token: fw.pending, Command: cmd,
		Why: fmt.Sprintf("%s: %s; %s is turned off before %s follows it", r.Name, n, target, h.Node)})
}

// executor chooses who fires at the recorded primary of r: somebody who reports and can, not the
// one that failed at it last if there is another one, a node without a replica first, then the
// candidate. pair says that it holds a replica: such a node waits before it shoots. "" if nobody may.
func (c *Coordinator) executor(r *quorum.Resource, w *watch, candidate *heard, fw *fenceWatch) (node string, pair bool) {
	target := r.Primary.Node
	best := -1
	for i := range c.state.Fences {
		if f := &c.state.Fences[i]; f.Executor == target && f.Phase == quorum.FenceAsked {
			return "", false // it may be about to fire itself: never both at once
		}
	}
	for i := range w.heard {
		h := &w.heard[i]
		f := c.state.Fence(h.Node)
		if h.Node == target || h.CannotFence || !c.fresh(h) || f != nil && f.Phase != quorum.FenceMissed {
			continue
		}
		if n := c.state.Node(h.Node); n == nil || n.Gone {
			continue
		}
		rank := 0
		if fw.phase == quorum.FenceMissed && h.Node == fw.executor {
			rank -= 4
		}
		switch {
		case r.Replica(h.Node) == nil:
			rank += 2
		case h.Node == candidate.Node:
			rank++
		}
		rank += 5 // above "nobody"
		if rank > best || rank == best && h.Node < node {
			best, node, pair = rank, h.Node, r.Replica(h.Node) != nil
		}
	}
	return node, pair
}

// fenceOf returns what is remembered about fencing target.
func (c *Coordinator) fenceOf(target string) *fenceWatch {
	i := slices.IndexFunc(c.fences, func(f fenceWatch) bool { return f.target == target })
	if i < 0 {
		c.fences = append(c.fences, fenceWatch{target: target})
		i = len(c.fences) - 1
	}
	return &c.fences[i]
}

// followFences notes how the recorded fences went on: a failed one is not asked for again at once.
func (c *Coordinator) followFences() {
	c.fences = slices.DeleteFunc(c.fences, func(f fenceWatch) bool { return c.state.Node(f.target) == nil })
	for i := range c.state.Fences {
		f := &c.state.Fences[i]
		w := c.fenceOf(f.Target)
		if w.id == f.ID && w.phase == f.Phase {
			continue
		}
		w.id, w.phase, w.executor, w.seenAt = f.ID, f.Phase, f.Executor, c.now
		switch f.Phase {
		case quorum.FenceMissed:
			w.notBefore = c.now + c.pause(w.failures)
			w.failures++
		case quorum.FenceProven:
			w.failures = 0
		}
	}
}

// expire gives up a fence whose executor says nothing. It proves nothing, though the node may be
// off by now: whoever answers late finds the request closed.
func (c *Coordinator) expire(out []Action) []Action {
	for i := range c.state.Fences {
		f := &c.state.Fences[i]
		if f.Phase != quorum.FenceAsked {
			continue
		}
		w := c.fenceOf(f.Target)
		if w.id != f.ID {
			w.id, w.phase, w.executor, w.seenAt = f.ID, f.Phase, f.Executor, c.now
		}
		if w.pending != 0 || c.now < w.notBefore || c.now-w.seenAt < c.cfg.FenceTimeout {
			continue
		}
		w.pending = c.nextToken()
		why := fmt.Sprintf("%s did not say within %v whether %s is off", f.Executor, c.cfg.FenceTimeout, f.Target)
		out = append(out, Action{Kind: ActPropose, Token: w.pending, Why: why,
			Command: result(c.state, f, FenceTimedOut, why)})
	}
	return out
}

// result returns the command that records what became of f. A fence that timed out has failed:
// the node may be off, and it may be serving.
func result(s *quorum.State, f *quorum.Fence, r FenceResult, text string) quorum.Command {
	cmd := quorum.Command{Version: s.Version}
	if r == FenceOK || r == FenceTimedOut && planted.On(planted.FenceTimeoutIsSuccess) {
		cmd.FenceConfirmed = &quorum.FenceConfirmed{Target: f.Target, Boot: f.Boot, ID: f.ID, Proof: text}
	} else {
		cmd.FenceFailed = &quorum.FenceFailed{Target: f.Target, Boot: f.Boot, ID: f.ID, Text: text}
	}
	return cmd
}

// takeOrders fires what the State newly orders of this node, and forgets what it orders no longer.
func (c *Coordinator) takeOrders(out []Action) []Action {
	if len(c.state.Fences) == 0 && len(c.orders) == 0 {
		return out
	}
	wanted := OrdersFor(c.state, c.cfg.Node)
	has := func(id uint64) func(quorum.Fence) bool { return func(f quorum.Fence) bool { return f.ID == id } }
	c.orders = slices.DeleteFunc(c.orders, func(o order) bool {
		return o.result != 0 && !slices.ContainsFunc(wanted, has(o.fence.ID))
	})
	for _, f := range wanted {
		if slices.ContainsFunc(c.orders, func(o order) bool { return o.fence.ID == f.ID }) {
			continue
		}
		c.orders = append(c.orders, order{fence: f})
		out = append(out, Action{Kind: ActFence, Fence: f, Why: "the ledger asks this node to turn " + f.Target + " off"})
	}
	return out
}

// fenceDone keeps the agent's result until it is recorded.
func (c *Coordinator) fenceDone(ev Event, out []Action) []Action {
	i := slices.IndexFunc(c.orders, func(o order) bool { return o.fence.ID == ev.ID && o.result == 0 })
	if i < 0 {
		panic(fmt.Sprintf("coordinator: result of fence %x, which is not under way: %+v", ev.ID, c.orders))
	}
	o := &c.orders[i]
	o.result, o.text = ev.Fenced, quorum.Printable(ev.Text, quorum.MaxText)
	if o.text == "" {
		o.text = "the agent said nothing more"
	}
	out = c.report(out)
	return c.takeOrders(out)
}

// report proposes the results that are not recorded yet, and waits for each answer.
func (c *Coordinator) report(out []Action) []Action {
	for i := range c.orders {
		o := &c.orders[i]
		if o.result == 0 || o.pending != 0 || c.now < o.notBefore {
			continue
		}
		if f := c.state.Fence(o.fence.Target); f == nil || f.ID != o.fence.ID || f.Phase != quorum.FenceAsked {
			continue // taken back meanwhile; takeOrders forgets it
		}
		o.pending = c.nextToken()
		out = append(out, Action{Kind: ActPropose, Token: o.pending, Command: result(c.state, &o.fence, o.result, o.text),
			Why: "the result of turning " + o.fence.Target + " off"})
	}
	return out
}

// fenceProposalDone notes the answer to a proposal about a fence. What was refused because the
// catalogue changed goes out again with the newer one.
func (c *Coordinator) fenceProposalDone(ev Event) {
	if ev.Token == 0 {
		return
	}
	for i := range c.orders {
		if o := &c.orders[i]; o.pending == ev.Token {
			o.pending, o.notBefore = 0, c.now+c.cfg.RetryAfter/4
		}
	}
	for i := range c.fences {
		if w := &c.fences[i]; w.pending == ev.Token {
			w.pending, w.notBefore = 0, c.now+c.cfg.RetryAfter/4
		}
	}
}
