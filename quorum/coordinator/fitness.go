package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
)

// fitness says whether a replica may be promoted, and if not, the first reason found.
type fitness uint8

const (
	fit fitness = iota
	outside
	recordedFailed
	notHeard
	anotherInstance
	anotherProcess
	leftBehind
	turnedOff
	leaving
	behind
	failed
	notUpToDate
	anotherHistory
	itIsLost
	mayLackWrites
	fitnessEnd
)

var fitnessNames = [fitnessEnd]string{"fit", "not in the in-sync set", "recorded as failed", "silent",
	"another replica than the ledger names", "another process than its node registered",
	"left behind by this incarnation of the ledger", "turned off, or about to be", "about to stop",
	"behind in the ledger", "failed, as it says itself", "not UpToDate", "of another history",
	"the one that is lost", "unclean, and another member may have what it lacks"}

func (f fitness) String() string {
	if f < fitnessEnd {
		return fitnessNames[f]
	}
	return fmt.Sprintf("fitness(%d)", uint8(f))
}

// fitness judges replica i by the record and by its node's newest report (rule 9). The node that
// is promoted judges itself once more, by what it is then.
func (c *Coordinator) fitness(r *quorum.Resource, w *watch, i int, n need) fitness {
	rep := &r.Replicas[i]
	h := w.of(rep.Node)
	switch {
	case !rep.InSet:
		return outside
	case rep.Failed:
		return recordedFailed
	case !c.fresh(h):
		return notHeard
	case rep.Instance == 0 || h.Incumbent.Node != rep.Node,
		h.Incumbent.Instance != rep.Instance && !planted.On(planted.JoinOfAnyInstance):
		return anotherInstance
	case h.Incumbent == r.Primary && (n == needSilent || n == needStuck || n == needRestarted):
		return itIsLost
	}
	if f := c.nodeFitness(&h.Report); f != fit {
		return f
	}
	switch {
	case h.Leaving:
		return leaving
	case h.Version < r.Version:
		return behind // what it says of itself may be older than the record
	case h.Failed || h.DiskState == DiskFailed:
		return failed
	case h.DiskState != DiskUpToDate || !h.InSet:
		return notUpToDate
	case h.Generation != 0 && !slices.Contains(r.Lineage, h.Generation):
		return anotherHistory
	case unclean(&h.Report) && c.mayHaveMore(r, w, i):
		return mayLackWrites
	}
	return fit
}

// nodeFitness judges the node by the catalogue.
func (c *Coordinator) nodeFitness(rep *Report) fitness {
	n := c.state.Node(rep.Node)
	f := c.state.Fence(rep.Node)
	switch {
	case n == nil || n.Gone:
		return leftBehind
	case n.Process != 0 && (n.Process != rep.Incumbent.Process || n.Boot != rep.Incumbent.Boot):
		return anotherProcess
	case f != nil && (f.Phase == quorum.FenceAsked || f.Phase == quorum.FenceProven && !planted.On(planted.OldFenceProof)):
		return turnedOff
	}
	return fit
}

// unclean reports whether the replica may lack what was acknowledged and not flushed.
func unclean(rep *Report) bool { return rep.Unclean && !planted.On(planted.UncleanPreferred) }

// mayHaveMore reports whether any other member may hold acknowledged writes that the unclean
// replica i lacks. Each one may, unless it has itself said recently that it is unclean or failed,
// or the record says so: of the silent ones nothing is known, so they count as clean (rule 9). A disk
// that hangs has not failed for good: what it took is there when it goes on.
func (c *Coordinator) mayHaveMore(r *quorum.Resource, w *watch, i int) bool {
	for j := range r.Replicas {
		other := &r.Replicas[j]
		if j == i || !other.InSet || other.Failed {
			continue
		}
		h := w.of(other.Node)
		if !c.fresh(h) {
			if planted.On(planted.SilenceIsUnclean) {
				continue
			}
			return true
		}
		failed := (h.Failed || h.DiskState == DiskFailed) && (!h.Hangs || planted.On(planted.HangIsFailure))
		if !h.Unclean && !failed || h.Incumbent.Instance != other.Instance {
			return true
		}
	}
	return false
}

// best returns the index of the replica to promote, -1 if none is fit.
func (c *Coordinator) best(r *quorum.Resource, w *watch, n need) int {
	best := -1
	for i := range r.Replicas {
		if c.fitness(r, w, i, n) == fit && (best < 0 || better(r, w, i, best)) {
			best = i
		}
	}
	return best
}

// unsettled reports whether a newer report of some member is under way: what it said last is older
// than the record, or of an earlier process. It is worth a moment, since it may be the better one.
func (c *Coordinator) unsettled(r *quorum.Resource, w *watch, n need) bool {
	for i := range r.Replicas {
		switch c.fitness(r, w, i, n) {
		case behind, anotherProcess:
			return true
		case notHeard, itIsLost:
			p := c.state.Node(r.Replicas[i].Node)
			if n == needRestarted && p.Name == r.Primary.Node && p.Process != r.Primary.Process && !c.state.ProvenDown(p.Name, p.Boot) {
				return true // it has registered, and says nothing yet
			}
		}
	}
	return false
}

// better reports whether fit replica i goes before fit replica j, whose name comes first.
func better(r *quorum.Resource, w *watch, i, j int) bool {
	a, b := w.of(r.Replicas[i].Node), w.of(r.Replicas[j].Node)
	return cmp.Or(
		first(!unclean(&a.Report), !unclean(&b.Report)),
		first(a.Node != w.tried, b.Node != w.tried),
		first(r.Replicas[i].ServicesFailed == "", r.Replicas[j].ServicesFailed == ""),
		cmp.Compare(r.Replicas[i].Priority, r.Replicas[j].Priority),
		cmp.Compare(a.Epoch, b.Epoch),
		// Its clients and services are there; but who has just given the role up had a reason.
		first(a.Node == r.Primary.Node, b.Node == r.Primary.Node),
		first(!r.Primary.None() || a.Node != r.LastPrimary.Node, !r.Primary.None() || b.Node != r.LastPrimary.Node),
	) > 0
}

// first compares as numbers do: what is true comes first.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Explain says what this leader makes of a resource: who is needed, and what keeps each replica
// from the role. It is for status and logs; on a node that does not lead it says so.
func (c *Coordinator) Explain(resource string) string {
	if !c.leading || c.state == nil {
		return "this node does not lead the ledger"
	}
	i := slices.IndexFunc(c.state.Resources, func(r quorum.Resource) bool { return r.Name == resource })
	if i < 0 {
		return "there is no resource " + resource
	}
	r, w := &c.state.Resources[i], &c.res[i]
	if operators(r) {
		return "an operator has it in hand: it is held, paused, deleted, or promoted by hand alone"
	}
	n := c.need(r, w)
	if n == needNone {
		return n.String()
	}
	var each []string
	for j := range r.Replicas {
		each = append(each, fmt.Sprintf("%s is %s", r.Replicas[j].Node, c.fitness(r, w, j, n)))
	}
	text := n.String() + "; " + strings.Join(each, ", ")
	if best := c.best(r, w, n); best >= 0 && c.proofMissing(r, w.of(r.Replicas[best].Node)) {
		text += "; it waits for a proof that " + r.Primary.Node + " is down"
	}
	return text
}
