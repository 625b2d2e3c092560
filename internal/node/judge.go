package node

import (
	"fmt"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// rolePrimary is the role of a process that is primary, as replication.Status names it.
const rolePrimary = "Primary"

// candidate is everything that a promotion of this process is judged by.
type candidate struct {
	rec    *quorum.Resource // fresh: read after a barrier
	self   quorum.Incumbent
	status replication.Status // of the open replica here
	fault  *fault             // why there is none
	opts   control.PromoteOptions
	others map[string]view // of those nodes with a replica that answered
}

// judge returns nil if c may ask the ledger to be made primary, else why not and what to do. It
// is about fitness (rule 9) and the recorded primary; Apply checks the record once more.
func judge(c candidate) error {
	name := c.rec.Name
	mine := c.rec.Replica(c.self.Node)
	switch {
	case mine == nil:
		return notHere(c.rec, c.self.Node)
	case c.rec.Deleted:
		return refusedf("%s is being deleted", name)
	case c.fault != nil:
		return refusedf("the replica on %s cannot serve: %s", c.self.Node, c.fault.reason).
			WithHint("repair what it names, or promote another node of: %s", set(c.rec))
	}
	if err := judgeData(c, mine); err != nil {
		return err
	}
	return judgeIncumbent(c)
}

// judgeData judges the replica itself.
func judgeData(c candidate, mine *quorum.Replica) error {
	name := c.rec.Name
	switch {
	case c.rec.Source == "" && !c.rec.Registered():
		return refusedf("not every replica of %s is there yet", name).
			WithHint("start the missing nodes, then try again; lockstep status %s shows them", name)
	case mine.Instance != c.self.Instance:
		return refusedf("the replica on %s is another one than the ledger names", c.self.Node)
	case mine.Failed || c.status.State == replication.Failed:
		return refusedf("the disk of %s failed; its replica serves nothing until it is replaced", c.self.Node).
			WithHint("promote another node of: %s", set(c.rec))
	case c.status.State == replication.Diverged:
		return control.Errorf(control.CodeDiverged, "the replica on %s has another history than the other ones of %s", c.self.Node, name).
			WithHint("lockstep status %s shows both; promote a node of: %s, then lockstep resolve %s --keep NODE gives the other one up", name, set(c.rec), name).
			WithSafety(control.SafetyYes)
	case !mine.InSet:
		return refusedf("the replica on %s may lack acknowledged writes of %s; those of %s have all of them", c.self.Node, name, set(c.rec)).
			WithHint("promote one of them, let the resync end, then: lockstep switchover %s --to %s; if none of them is to be had back: lockstep promote %s --on %s --force tells what would be lost",
				name, c.self.Node, name, c.self.Node)
	case c.status.State != replication.UpToDate:
		return refusedf("the replica on %s is %s", c.self.Node, c.status.State).
			WithHint("promote another node of: %s", set(c.rec))
	case c.status.Unclean:
		return judgeUnclean(c)
	}
	return nil
}

// judgeUnclean refuses a replica whose host went down with writes that may not have reached its
// disk, unless every other member has itself said that it is no better. Silence counts as clean, and so
// does a disk that hangs: what it took is there when it goes on.
func judgeUnclean(c candidate) error {
	var better []string
	hint := "promote %s, or start it and try again"
	for i := range c.rec.Replicas {
		r := &c.rec.Replicas[i]
		if !r.InSet || r.Node == c.self.Node || r.Failed {
			continue
		}
		v, answered := c.others[r.Node]
		failed := v.State == replication.Failed.String() && !v.Hangs
		if !answered || !v.Open || !v.Unclean && !failed {
			better = append(better, r.Node)
			if v.Hangs && len(better) == 1 {
				hint = "once the disk of %s works again, restart the daemon there"
			}
		}
	}
	if len(better) == 0 {
		return nil
	}
	return refusedf("the host of %s went down without a clean stop, so its replica may lack writes that were answered but not flushed; %s may have them",
		c.self.Node, strings.Join(better, ", ")).
		WithHint(hint, better[0])
}

// judgeIncumbent judges whether the recorded primary stands in the way.
func judgeIncumbent(c candidate) error {
	p := c.rec.Primary
	name := c.rec.Name
	switch {
	case p.None():
		return nil
	case p.Node == c.self.Node:
		return nil // an earlier process of this node, or this one after it stopped: both are done
	case !c.opts.TakeOver:
		silent := ""
		if _, answered := c.others[p.Node]; !answered {
			silent = " and does not answer"
		}
		return refusedf("%s is primary of %s%s", p.Node, name, silent).
			WithHint("lockstep switchover %s --to %s; if %s is down for certain: lockstep promote %s --on %s --confirm-peer-down",
				name, c.self.Node, p.Node, name, c.self.Node)
	}
	if v, answered := c.others[p.Node]; answered && v.Process == p.Process && v.Role == rolePrimary {
		return refusedf("%s is not down: it answers as primary of %s", p.Node, name).
			WithHint("lockstep switchover %s --to %s", name, c.self.Node)
	}
	return nil
}

// newEpoch returns an epoch above every one that is recorded, or that a replica which answered
// has accepted.
func newEpoch(c candidate) uint64 {
	top := max(c.rec.Epoch, c.status.Epoch)
	for _, v := range c.others {
		top = max(top, v.Epoch)
	}
	return top + 1
}

// judgeTarget returns nil if the primary, whose status is st, may hand its role to the node to.
func judgeTarget(rec *quorum.Resource, self, to string, st replication.Status) error {
	r := rec.Replica(to)
	hint := "wait until lockstep status " + rec.Name + " shows it UpToDate and connected"
	switch {
	case r == nil:
		return control.Errorf(control.CodeNotFound, "%s holds no replica of %s; these do: %s", to, rec.Name, holders(rec)).
			WithSafety(control.SafetyYes)
	case to == self:
		return nil
	case !r.InSet:
		return refusedf("%s lacks writes of %s", to, rec.Name).WithHint("%s", hint)
	}
	for _, p := range st.Peers {
		if p.Node != to {
			continue
		}
		switch {
		case p.Connection != "Connected":
			return refusedf("%s is not connected to %s", to, self).WithHint("%s", hint)
		case p.State != replication.UpToDate || p.Dirty > 0:
			return refusedf("%s is %s and lacks %d bytes", to, p.State, p.Dirty).WithHint("%s", hint)
		}
		return nil
	}
	return refusedf("%s is not connected to %s", to, self).WithHint("%s", hint)
}

// refusedf is a refusal that leaves everything as it was.
func refusedf(format string, args ...any) *control.Error {
	return control.Errorf(control.CodeRefused, format, args...).WithSafety(control.SafetyYes)
}

func notHere(rec *quorum.Resource, self string) error {
	return control.Errorf(control.CodeNotFound, "node %s holds no replica of %s; these do: %s", self, rec.Name, holders(rec)).
		WithHint("add --on or --node with one of them").WithSafety(control.SafetyYes)
}

func notPrimary(rec *quorum.Resource, self string) error {
	if rec.Primary.None() {
		return control.Errorf(control.CodeNotPrimary, "%s has no primary", rec.Name).
			WithHint("lockstep promote %s --on %s", rec.Name, strings.Split(set(rec), ", ")[0]).WithSafety(control.SafetyYes)
	}
	if rec.Primary.Node == self {
		return control.Errorf(control.CodeNotPrimary, "the ledger names %s as primary of %s, but as an earlier process that is gone", self, rec.Name).
			WithHint("lockstep promote %s --on %s", rec.Name, self).WithSafety(control.SafetyYes)
	}
	return control.Errorf(control.CodeNotPrimary, "the primary of %s is %s, not %s", rec.Name, rec.Primary.Node, self).
		WithHint("repeat it with --node %s", rec.Primary.Node).WithSafety(control.SafetyYes)
}

func noResource(name string) error {
	return control.Errorf(control.CodeNotFound, "there is no resource %s", name).
		WithHint("lockstep resource list shows all of them").WithSafety(control.SafetyYes)
}

// set names the members of the in-sync set.
func set(rec *quorum.Resource) string { return strings.Join(rec.Set(), ", ") }

// holders names the nodes with a replica.
func holders(rec *quorum.Resource) string {
	names := make([]string, len(rec.Replicas))
	for i := range rec.Replicas {
		names[i] = rec.Replicas[i].Node
	}
	return strings.Join(names, ", ")
}

// faultOf turns an error of opening into what status shows.
func faultOf(err error) *fault { return &fault{stateOf(err), fmt.Sprint(err)} }
