package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// Loss says what becomes of one resource when nodes die now, all at once.
type Loss struct {
	Lost     []string `json:"lost"`
	Resource string   `json:"resource"`
	GoesOn   bool     `json:"goes_on"` // without anybody's doing
	Severity Severity `json:"severity"`
	Primary  string   `json:"primary"` // who serves then; empty: nobody
	// Copies counts the replicas that answer then and hold every acknowledged write.
	Copies  int    `json:"copies"`
	Because string `json:"because"`
	Next    string `json:"next,omitempty"` // what to do about it now
}

// Lose tells what becomes of r when the nodes in lost die now. It goes by the rules that the coordinator
// goes by; see the package comment.
func (c *Cluster) Lose(r *control.Resource, lost ...string) Loss {
	l := Loss{Lost: lost, Resource: r.Name, Severity: Warning}
	heirs := c.heirs(r, lost)
	l.Copies = len(heirs)
	switch {
	case r.Primary == "":
		l.Severity = Danger
		l.Because = "nobody is primary of it even now"
		l.Next = fmt.Sprintf("lockstep status %s", r.Name)
	case slices.Contains(lost, r.Primary):
		c.losePrimary(&l, r, heirs)
	default:
		c.loseOthers(&l, r, heirs)
	}
	return l
}

// heirs returns the replicas that answer, are not lost, and hold every acknowledged write and may serve, the
// one that would be promoted first. Unclean ones count only if nobody clean is left and no member is
// silent: silence counts as clean (rule 9).
func (c *Cluster) heirs(r *control.Resource, lost []string) []string {
	var clean, unclean []control.Replica
	silent := false
	for _, p := range r.Replicas {
		if !p.InSync {
			continue
		}
		f := c.replica(p.Node, r.Name)
		switch {
		case slices.Contains(lost, p.Node), f == nil:
			silent = true
		case !f.Open || f.DiskState != control.DiskUpToDate:
		case f.Unclean:
			unclean = append(unclean, p)
		default:
			clean = append(clean, p)
		}
	}
	fit := clean
	if len(fit) == 0 && !silent {
		fit = unclean
	}
	slices.SortStableFunc(fit, func(a, b control.Replica) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Node, b.Node))
	})
	var out []string
	for _, p := range fit {
		out = append(out, p.Node)
	}
	return out
}

func (c *Cluster) losePrimary(l *Loss, r *control.Resource, heirs []string) {
	quorate, left, all := c.majority(l.Lost)
	old, alone := r.Primary, c.alone(l.Lost)
	survives := slices.ContainsFunc(r.InSync, func(n string) bool { return !slices.Contains(l.Lost, n) })
	switch {
	case !survives && len(l.Lost) > 1:
		l.Severity = Danger
		l.Because = fmt.Sprintf("every replica that holds all acknowledged writes would be gone at once: %s", list(r.InSync))
		l.Next = "lay a replica on another host"
	case len(heirs) == 0:
		l.Severity = Danger
		l.Because = fmt.Sprintf("no other replica that answers holds every acknowledged write; if the disk of %s is lost as well, so is data", old)
		l.Next = fmt.Sprintf("bring another replica in sync: lockstep status %s", r.Name)
	case !quorate && alone == "":
		l.Because = fmt.Sprintf("%s of %d voters would be left, which is no majority, so nobody could be promoted; data is safe on %s", number(left), all, list(heirs))
		l.Next = noMajorityNext(all)
	case r.Policy.Held:
		l.Because = "an operator has demoted it, so only an operator promotes it"
		l.Next = fmt.Sprintf("lockstep promote %s", r.Name)
	case r.Policy.Paused:
		l.Because = fmt.Sprintf("failover is paused, so nobody is promoted by the cluster; data is safe on %s", list(heirs))
		l.Next = fmt.Sprintf("lockstep resume-failover %s", r.Name)
	case r.Policy.Failover == "manual":
		l.Because = fmt.Sprintf("its policy lets nobody but an operator promote; data is safe on %s", list(heirs))
		l.Next = fmt.Sprintf("lockstep resource set %s --failover auto", r.Name)
	case r.Policy.Fencing == "manual":
		l.Because = fmt.Sprintf("its policy wants an operator to say that %s is down; data is safe on %s", old, list(heirs))
		l.Next = fmt.Sprintf("lockstep resource set %s --fencing lease, or have the operator at hand", r.Name)
	case r.Policy.Fencing == "stonith" && c.fencer(old, l.Lost) == "":
		l.Because = fmt.Sprintf("its policy wants the proof that %s is off, and no node that would be left can turn it off; data is safe on %s", old, list(heirs))
		l.Next = fmt.Sprintf("configure a fence for %s", old)
	default:
		l.GoesOn, l.Severity, l.Primary = true, OK, heirs[0]
		after := fmt.Sprintf("after the lease of %s, %v, has run out", old, round(r.Policy.Lease))
		switch {
		case !quorate:
			after = fmt.Sprintf("after it has turned %s off, and goes on alone", old)
		case r.Policy.Fencing == "stonith":
			after = fmt.Sprintf("after %s has turned %s off", c.fencer(old, l.Lost), old)
		}
		l.Because = fmt.Sprintf("%s is promoted %s%s", heirs[0], after, copiesLeft(heirs))
	}
}

func (c *Cluster) loseOthers(l *Loss, r *control.Resource, heirs []string) {
	quorate, left, all := c.majority(l.Lost)
	member := slices.ContainsFunc(l.Lost, func(n string) bool { return slices.Contains(r.InSync, n) })
	switch {
	case !c.up(r.Primary):
		l.Severity = Danger
		l.Because = fmt.Sprintf("its primary %s does not answer even now", r.Primary)
		l.Next = fmt.Sprintf("lockstep status %s", r.Name)
	case member && !quorate && c.alone(l.Lost) == r.Primary:
		l.GoesOn, l.Severity, l.Primary = true, OK, r.Primary
		l.Because = fmt.Sprintf("%s goes on alone after it has turned %s off%s", r.Primary, list(l.Lost), copiesLeft(heirs))
	case member && !quorate:
		l.Because = fmt.Sprintf("%s of %d voters would be left, which is no majority, so %s could not go on without it: requests would wait; data is safe on %s", number(left), all, r.Primary, list(heirs))
		l.Next = noMajorityNext(all)
	case member:
		l.GoesOn, l.Severity, l.Primary = true, OK, r.Primary
		l.Because = fmt.Sprintf("%s goes on without it%s", r.Primary, copiesLeft(heirs))
	case !quorate:
		l.GoesOn, l.Severity, l.Primary = true, Note, r.Primary
		l.Because = fmt.Sprintf("%s goes on, but %s of %d voters is no majority: another loss would stop it", r.Primary, number(left), all)
		l.Next = noMajorityNext(all)
	default:
		l.GoesOn, l.Severity, l.Primary = true, OK, r.Primary
		l.Because = fmt.Sprintf("%s goes on as it is", r.Primary)
	}
}

// noMajorityNext says what gives more nodes the chance to be a majority.
func noMajorityNext(voters int) string {
	if voters <= 2 {
		return "add a witness, a third node that only votes; or let each node turn the other one off"
	}
	return "start the nodes that do not answer: lockstep status"
}

// copiesLeft warns of the last copy.
func copiesLeft(heirs []string) string {
	if len(heirs) == 1 {
		return fmt.Sprintf(", and %s alone holds the data then", heirs[0])
	}
	return ""
}

// number spells what is plainer in words.
func number(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

// round drops digits that nobody reads.
func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// losses tells of each node alone, and of each host that several nodes share.
func (c *Cluster) losses() []Loss {
	var groups [][]string
	for _, n := range c.Status.Nodes {
		groups = append(groups, []string{n.Name})
	}
	for _, h := range c.hosts() {
		if len(h.nodes) > 1 {
			groups = append(groups, h.nodes)
		}
	}
	var out []Loss
	for _, g := range groups {
		for i := range c.Status.Resources {
			out = append(out, c.Lose(&c.Status.Resources[i], g...))
		}
	}
	return out
}
