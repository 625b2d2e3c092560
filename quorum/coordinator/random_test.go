package coordinator

import (
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
	"pgregory.net/rapid"
)

// TestRandom_NoDecisionBreaksARule lets random things happen to three data nodes and a witness and
// judges each proposal by what the leader was told, not by what it made of it. At the end all is
// mended, and somebody has to serve.
func TestRandom_NoDecisionBreaksARule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom([]quorum.FencingMode{quorum.FencingLease, quorum.FencingLease, quorum.FencingStonith}).Draw(rt, "fencing")
		g := newRig(t, quorum.Policy{Fencing: mode}, "A", "B", "C")
		o := &oracle{rt: rt, g: g, told: map[string]told{}}
		g.TB = failer{t, rt}
		g.check, g.sent = o.check, o.note
		for range rapid.IntRange(1, 25).Draw(rt, "events") {
			o.happen()
			g.run(time.Duration(rapid.IntRange(1, 90).Draw(rt, "wait")) * step)
		}
		o.mend()
		g.run(120 * second)
		o.somebodyServes()
	})
}

// failer fails the run of rapid, so that it shrinks.
type failer struct {
	testing.TB
	rt *rapid.T
}

func (f failer) Fatalf(format string, args ...any) { f.rt.Fatalf(format, args...) }

type told struct {
	at  time.Duration
	rep Report
}

// oracle knows what the present leader was told.
type oracle struct {
	rt     *rapid.T
	g      *rig
	told   map[string]told // by node
	epochs uint64          // highest that was told
}

func (o *oracle) note(rep Report) {
	o.told[rep.Node] = told{o.g.now, rep}
	o.epochs = max(o.epochs, rep.Epoch)
}

// recent returns what node said within the time in which it counts.
func (o *oracle) recent(node string) *Report {
	if s, ok := o.told[node]; ok && o.g.now-s.at <= DefaultConfig().ReportStale {
		return &s.rep
	}
	return nil
}

func (o *oracle) fail(format string, args ...any) {
	o.rt.Helper()
	o.rt.Fatalf("at %v: %s\nrecord %+v\nfences %+v", o.g.now, fmt.Sprintf(format, args...), o.g.r0(), o.g.s.Fences)
}

// check judges a proposal as it is made. The leader's State is the rig's: it is shown at once.
func (o *oracle) check(a Action) {
	if a.Kind != ActPropose {
		return
	}
	if q := a.Command.FenceRequested; q != nil {
		o.checkFence(q)
	}
	if p := a.Command.Promote; p != nil {
		o.checkPromote(p)
	}
	if f := a.Command.FenceConfirmed; f != nil && o.g.host(o.g.s.Fence(f.Target).Executor).fences != FenceOK {
		o.fail("a fence that nobody saw succeed is confirmed: %+v", f)
	}
}

func (o *oracle) checkPromote(p *quorum.Promote) {
	r, c := o.g.r0(), p.Candidate
	rep := r.Replica(c.Node)
	said := o.recent(c.Node)
	switch {
	case r.Hold || r.Paused || r.Policy.Failover == quorum.FailoverManual:
		o.fail("promotion of %s while an operator is at work", c)
	case rep == nil || !rep.InSet || rep.Failed || rep.Instance != c.Instance:
		o.fail("%s is no member, or failed", c)
	case said == nil || said.Incumbent != c || said.DiskState != DiskUpToDate || said.Failed:
		o.fail("%s did not say that it is fit: %+v", c, said)
	case p.NewEpoch <= r.Epoch || p.NewEpoch <= o.epochs:
		o.fail("epoch %d, a replica has stored %d", p.NewEpoch, o.epochs)
	case p.Unclean != said.Unclean:
		o.fail("unclean %t, it said %t", p.Unclean, said.Unclean)
	}
	if said.Unclean {
		for _, other := range r.Replicas {
			if !other.InSet || other.Failed || other.Node == c.Node {
				continue
			}
			if s := o.recent(other.Node); s == nil || !s.Unclean && (s.Hangs || !s.Failed && s.DiskState != DiskFailed) {
				o.fail("%s is unclean, and %s may have what it lacks: %+v", c, other.Node, s)
			}
		}
	}
	o.checkTakeOver(r, p)
}

func (o *oracle) checkTakeOver(r *quorum.Resource, p *quorum.Promote) {
	if r.Primary.None() {
		return
	}
	over := o.g.s.PrimaryOver(r)
	if r.Policy.Fencing != quorum.FencingLease && p.Candidate.Node != r.Primary.Node && !over {
		o.fail("%s follows %s without a proof", p.Candidate, r.Primary)
	}
	own := o.recent(r.Primary.Node)
	if over || own != nil && (own.Incumbent != r.Primary || own.Role != RolePrimary || own.CannotDrop) {
		return
	}
	for _, h := range o.g.hosts {
		s := o.recent(h.name)
		if s != nil && h.name != r.Primary.Node && s.HeardPrimary >= 0 && s.HeardPrimary < DefaultConfig().SuspectAfter {
			o.fail("%s follows %s, which %s heard %v ago", p.Candidate, r.Primary, h.name, s.HeardPrimary)
		}
	}
	if s, ok := o.told[r.Primary.Node]; ok && s.rep.Incumbent == r.Primary && o.g.now-s.at < DefaultConfig().SuspectAfter/2 {
		o.fail("%s follows %s, which reported %v ago", p.Candidate, r.Primary, o.g.now-s.at)
	}
}

func (o *oracle) checkFence(q *quorum.FenceRequested) {
	r := o.g.r0()
	if q.Target == q.Executor || q.Target != r.Primary.Node || q.Boot != r.Primary.Boot || r.Policy.Fencing != quorum.FencingStonith {
		o.fail("%+v", q)
	}
	for _, f := range o.g.s.Fences {
		if f.Phase == quorum.FenceAsked && (f.Target == q.Executor || f.Executor == q.Target) {
			o.fail("%+v while %s is to turn %s off", q, f.Executor, f.Target)
		}
	}
	if s := o.recent(q.Executor); s == nil || s.CannotFence {
		o.fail("%+v: it cannot", q)
	}
}

func (o *oracle) some(names ...string) *host {
	return o.g.host(rapid.SampledFrom(names).Draw(o.rt, "host"))
}

// happen does one thing to the cluster.
func (o *oracle) happen() {
	g, rt := o.g, o.rt
	all := []string{"A", "B", "C", "W"}
	switch rapid.IntRange(0, 15).Draw(rt, "what") {
	case 0, 1:
		g.crash(o.some("A", "B", "C").name)
	case 2, 3:
		o.restart(o.some(all...).name, rapid.Bool().Draw(rt, "boot"))
	case 4, 5:
		if a, b := o.some(all...).name, o.some(all...).name; a != b {
			g.cut[link(a, b)] = !g.cut[link(a, b)]
		}
	case 6:
		g.isolate(o.some(all...).name)
	case 7:
		g.cut = map[string]bool{}
	case 8:
		h := o.some("A", "B", "C")
		h.refuses, h.stuck = rapid.Bool().Draw(rt, "refuses"), rapid.Bool().Draw(rt, "stuck")
	case 9:
		h := o.some("A", "B", "C")
		h.unclean, h.leaving = rapid.Bool().Draw(rt, "unclean"), rapid.Bool().Draw(rt, "leaving")
		h.disk = rapid.SampledFrom([]string{DiskUpToDate, DiskUpToDate, "Outdated", DiskFailed, ""}).Draw(rt, "disk")
		h.hangs = rapid.Bool().Draw(rt, "hangs")
		h.failed = h.hangs
	case 10:
		o.some("A", "B", "C").epoch += rapid.Uint64Range(0, 3).Draw(rt, "epoch")
	case 11:
		o.lead(o.some(all...))
	case 12:
		h := o.some(all...)
		g.step(g.host(g.leader), Event{Kind: EvHint, Node: h.name, On: rapid.Bool().Draw(rt, "up")})
	case 13:
		h := o.some(all...)
		h.fences = rapid.SampledFrom([]FenceResult{0, FenceOK, FenceError, FenceTimedOut}).Draw(rt, "fences")
		h.noFence = rapid.Bool().Draw(rt, "cannot fence")
	case 14:
		o.change()
	default:
		o.some("A", "B", "C").lags = rapid.IntRange(0, 1).Draw(rt, "lags")
	}
}

func (o *oracle) restart(node string, boot bool) {
	if node == o.g.leader {
		o.told, o.epochs = map[string]told{}, 0
	}
	o.g.restart(node, boot)
}

func (o *oracle) lead(h *host) {
	if h.up && h.name != o.g.leader {
		o.told, o.epochs = map[string]told{}, 0
		o.g.lead(h.name)
	}
}

// change is what a primary or an operator asks of the ledger.
func (o *oracle) change() {
	g, rt := o.g, o.rt
	r := g.r0()
	cmd := quorum.On(r)
	n := o.some("A", "B", "C").name
	switch rapid.IntRange(0, 5).Draw(rt, "change") {
	case 0:
		cmd.StepDown = &quorum.StepDown{Incumbent: r.Primary, Failed: rapid.Bool().Draw(rt, "failed")}
	case 1:
		cmd.DropReplica = &quorum.DropReplica{Incumbent: r.Primary, Nodes: []string{n}, Generation: g.newID()}
	case 2:
		cmd.JoinReplica = &quorum.JoinReplica{Incumbent: r.Primary, Node: n, Instance: id(n)}
	case 3:
		cmd.Hold = &quorum.Hold{On: rapid.Bool().Draw(rt, "hold")}
	case 4:
		cmd.PauseFailover = &quorum.PauseFailover{On: rapid.Bool().Draw(rt, "pause")}
	default:
		cmd.SetPriority = &quorum.SetPriority{Node: n, Priority: rapid.IntRange(-1, 1).Draw(rt, "priority")}
	}
	next, _ := quorum.Apply(g.s, cmd)
	g.adopt(next)
}

// mend makes all of it work again.
func (o *oracle) mend() {
	g := o.g
	g.cut = map[string]bool{}
	for _, h := range g.hosts {
		if h.name != "W" {
			h.disk = DiskUpToDate
		}
		h.failed, h.leaving, h.refuses, h.stuck, h.noFence, h.lags = false, false, false, false, false, 0
		h.fences = FenceOK
		if !h.up {
			o.restart(h.name, true)
		}
	}
	for _, f := range []func(c *quorum.Command){
		func(c *quorum.Command) { c.Hold = &quorum.Hold{} },
		func(c *quorum.Command) { c.PauseFailover = &quorum.PauseFailover{} },
	} {
		g.on(f)
	}
}

// somebodyServes fails if nobody does although a member could. Whoever was shot meanwhile is
// started again first.
func (o *oracle) somebodyServes() {
	g := o.g
	for range 3 {
		for _, h := range g.hosts {
			if !h.up {
				o.restart(h.name, true)
			}
		}
		g.run(70 * second)
	}
	could := false
	for _, p := range g.r0().Replicas {
		could = could || p.InSet && !p.Failed
	}
	if p := g.primary(); could && (p == nil || p.refuses) {
		o.fail("nobody serves: %s", g.host(g.leader).c.Explain("r0"))
	}
}
