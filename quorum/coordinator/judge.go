package coordinator

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// need says why a resource needs another primary, or the same one again.
//
//	needNone -- anything below --> needX -- Promote applied --> needNone
//
// It is no state: it is judged afresh each time from the record and the reports.
type need uint8

const (
	needNone      need = iota
	needFirst          // it never had a primary
	needVacant         // nobody is recorded
	needFailed         // nobody is recorded: the disk of the last one failed
	needRestarted      // the recorded process is over
	needStuck          // the recorded primary says that it cannot go on
	needIdle           // the recorded process says that it is no primary
	needSilent         // nobody hears the recorded process
	needEnd
)

var needNames = [needEnd]string{"nobody else is needed", "it never had a primary", "nobody is primary",
	"the disk of its primary failed", "the process of its primary is over", "its primary cannot go on",
	"its recorded primary is none", "its primary is silent"}

func (n need) String() string {
	if n < needEnd {
		return needNames[n]
	}
	return fmt.Sprintf("need(%d)", uint8(n))
}

// judge proposes what resource i needs, if anything, and if it is time.
func (c *Coordinator) judge(i int, out []Action) []Action {
	r, w := &c.state.Resources[i], &c.res[i]
	n := needNone
	if !operators(r) {
		n = c.need(r, w)
	}
	switch {
	case n == needNone:
		w.neededAt = -1
		return out
	case w.neededAt < 0:
		w.neededAt = c.now
	}
	if w.pending != 0 || c.now < w.notBefore {
		return out
	}
	best := c.best(r, w, n)
	if best < 0 || c.now-w.neededAt < 2*ReportInterval && c.unsettled(r, w, n) {
		return out
	}
	h := w.of(r.Replicas[best].Node)
	if c.proofMissing(r, h) {
		if n != needSilent && n != needStuck {
			return c.withoutProof(r, w, h, n, out)
		}
		return c.fence(r, w, h, n, out)
	}
	return c.promote(r, w, h, n, out)
}

// withoutProof spares a node that answers: its own replica needs no proof, and a process that has
// just started registers itself, which is one. Only if neither helps is it turned off.
func (c *Coordinator) withoutProof(r *quorum.Resource, w *watch, h *heard, n need, out []Action) []Action {
	for i := range r.Replicas {
		own := r.Replicas[i].Node == r.Primary.Node && r.Primary.Node != w.tried
		if own && c.fitness(r, w, i, n) == fit {
			return c.promote(r, w, w.of(r.Primary.Node), n, out)
		}
	}
	if c.now-w.neededAt < c.cfg.IdleAfter {
		return out
	}
	return c.fence(r, w, h, n, out)
}

// operators reports whether r is in an operator's hands.
func operators(r *quorum.Resource) bool {
	return r.Deleted || r.Hold || r.Paused || r.Policy.Failover == quorum.FailoverManual
}

func (c *Coordinator) need(r *quorum.Resource, w *watch) need {
	switch p := r.Primary; {
	case !p.None():
		return c.needInstead(r, w)
	case r.Epoch == 0:
		if c.cfg.PromoteNew && (r.Source != "" || r.Registered()) && c.now-w.changedAt >= c.cfg.Grace {
			return needFirst
		}
	case lastFailed(r):
		return needFailed
	case c.now-w.changedAt >= c.cfg.Grace, lastLeaves(r, w):
		return needVacant
	}
	return needNone
}

// lastLeaves reports whether the last primary gave its role up because its process stops: then no
// switchover is under way that would name the next one.
func lastLeaves(r *quorum.Resource, w *watch) bool {
	h := w.of(r.LastPrimary.Node)
	return h != nil && h.Leaving && h.Incumbent.Process == r.LastPrimary.Process
}

// lastFailed reports whether the role ended with a failed disk: nobody gave it up for another one,
// so there is nobody to let go first.
func lastFailed(r *quorum.Resource) bool {
	rep := r.Replica(r.LastPrimary.Node)
	return rep != nil && rep.Failed && r.LastEnd == quorum.EndStepDown
}

// needInstead judges a recorded primary.
func (c *Coordinator) needInstead(r *quorum.Resource, w *watch) need {
	h := w.of(r.Primary.Node)
	switch {
	case c.state.PrimaryOver(r):
		return needRestarted
	case h == nil:
		return c.silent(r, w, 0)
	case h.Incumbent.Process != r.Primary.Process || h.Incumbent.Boot != r.Primary.Boot:
		// Another process of its node. If it knows the record and is not in it, it is the later one; a
		// report that an earlier one sent may still be under way.
		if h.Version >= r.Version {
			return needRestarted
		}
		return c.silent(r, w, 0)
	case c.fresh(h) && h.Frozen && h.CannotDrop:
		return needStuck
	case c.fresh(h) && w.idleAt >= 0 && c.now-w.idleAt >= c.cfg.IdleAfter:
		return needIdle
	}
	return c.silent(r, w, h.at)
}

// silent judges a primary that was heard here last at heardAt. Those who report must not have heard
// it either; each of them counts, whether or not it could be a candidate.
func (c *Coordinator) silent(r *quorum.Resource, w *watch, heardAt time.Duration) need {
	patience := c.cfg.SuspectAfter
	for _, d := range c.downs {
		if d == r.Primary.Node {
			patience /= 2
		}
	}
	if c.now-c.listening < c.cfg.ReportStale || c.now-max(heardAt, w.changedAt, c.listening) < patience {
		return needNone
	}
	for i := range w.heard {
		h := &w.heard[i]
		hears := h.HeardPrimary >= 0 && h.HeardPrimary < c.cfg.SuspectAfter
		if hears && c.fresh(h) && h.Node != r.Primary.Node {
			return needNone
		}
	}
	return needSilent
}

// promote proposes the process that h reported.
func (c *Coordinator) promote(r *quorum.Resource, w *watch, h *heard, n need, out []Action) []Action {
	cmd := quorum.On(r)
	cmd.Promote = &quorum.Promote{
		Candidate: h.Incumbent, NewEpoch: newEpoch(r, w), Generation: c.cfg.NewID(),
		TakeOver: !r.Primary.None(), Unclean: unclean(&h.Report),
	}
	w.pending, w.asked, w.candidate = c.nextToken(), r.Version, h.Node
	return append(out, Action{Kind: ActPropose, Token: w.pending, Command: cmd,
		Why: fmt.Sprintf("%s: %s; %s is fit", r.Name, n, h.Node)})
}

// newEpoch returns an epoch above all that are recorded or that a replica has stored (rule 3), one that
// was replaced since, too.
func newEpoch(r *quorum.Resource, w *watch) uint64 { return max(r.Epoch, w.stored) + 1 }

func (c *Coordinator) nextToken() uint64 {
	c.token++
	return c.token
}

// proposalDone notes what became of a proposal, and when the next one may go out.
func (c *Coordinator) proposalDone(ev Event, out []Action) []Action {
	for i := range c.res {
		if w := &c.res[i]; w.pending == ev.Token && ev.Token != 0 {
			w.pending = 0
			w.promoted(ev, c)
			if c.leading {
				return c.judge(i, out)
			}
			return out
		}
	}
	c.fenceProposalDone(ev)
	return out
}

// promoted backs off: a promotion that is followed by another one soon did not help. A refusal
// because the record changed is none: what was asked for is judged again on the newer record.
func (w *watch) promoted(ev Event, c *Coordinator) {
	stale := ev.Outcome == OutcomeRefused && ev.Code == quorum.CodeStale
	switch {
	case stale && w.version != w.asked:
		return
	case stale:
		w.notBefore = c.now + c.cfg.RetryAfter // the newer record is under way
		return
	case ev.Outcome == OutcomeApplied:
		w.tried = w.candidate
	}
	w.notBefore = c.now + c.pause(w.failures)
	w.failures++
}

// pause returns how long to wait after so many failures before.
func (c *Coordinator) pause(failures int) time.Duration {
	d := c.cfg.RetryAfter << min(failures, 16)
	if d <= 0 || d > c.cfg.RetryMost {
		return c.cfg.RetryMost
	}
	return d
}
