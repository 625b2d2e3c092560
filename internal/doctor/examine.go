package doctor

import (
	"fmt"
	"slices"
)

// Examine judges a cluster. What has a code in accept is shown and not counted.
func Examine(c *Cluster, accept ...string) Report {
	var f findings
	for _, look := range []func(*findings, *Cluster){
		silent, ledger, voters, sharedHosts, networks, links, clocks, versions, timings, fences, watchdogs, supervisors, certificates, writePaths,
	} {
		look(&f, c)
	}
	for i := range c.Status.Resources {
		resource(&f, c, &c.Status.Resources[i])
	}
	disks(&f, c)
	losses := c.losses()
	for _, l := range losses {
		f.lost(l)
	}
	r := Report{Asked: c.Status.Node, Losses: losses}
	for _, n := range c.Nodes {
		r.Nodes = append(r.Nodes, n.Name)
	}
	r.Findings, r.Worst = f.finish(accept)
	return r
}

// lost makes a finding of a loss that would stop a resource. A host that runs several nodes is one finding
// of its own already; its losses are not repeated.
func (f *findings) lost(l Loss) {
	if l.Severity == OK || len(l.Lost) > 1 {
		return
	}
	what := fmt.Sprintf("if %s dies now, %s does not go on: %s", list(l.Lost), l.Resource, l.Because)
	if l.GoesOn {
		what = fmt.Sprintf("if %s dies now, %s goes on, but: %s", list(l.Lost), l.Resource, l.Because)
	}
	f.add(codeLoss, l.Severity, l.Resource, "", l.Next, "%s", what)
}

// silent finds nodes that do not answer.
func silent(f *findings, c *Cluster) {
	for _, n := range c.Nodes {
		if n.Facts == nil {
			f.add(codeSilent, Danger, n.Name, "It counts as lost: nothing is known of its replicas, and it is one failure less that the cluster survives.",
				"start it, or mend the network to it", "%s does not answer: %s", n.Name, n.Silent)
		}
	}
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, p := range n.Facts.Peers {
			if p.Problem != "" && c.up(p.Node) {
				f.add(codeUnreachable, Warning, n.Name, "Both answer, so it is the network between them. Their replicas cannot be in sync, or the ledger has lost a way.",
					fmt.Sprintf("see what lies between them; then: lockstep link-check %s --node %s", p.Node, n.Name),
					"%s does not reach %s at %s: %s", n.Name, p.Node, p.Addr, p.Problem)
			}
		}
	}
}

// ledger judges the quorum as it is.
func ledger(f *findings, c *Cluster) {
	l := c.Status.Ledger
	if l.Problem != "" {
		f.add(codeQuorum, Danger, "cluster", "", "", "the ledger of %s has a problem: %s", c.Status.Node, l.Problem)
	}
	if !l.Quorum {
		f.add(codeQuorum, Danger, "cluster", "Data is safe, and a primary that has all its in-sync peers goes on; but nothing can be promoted, dropped or joined.",
			"start the nodes that do not answer", "%s reaches no majority of the voters", c.Status.Node)
		return
	}
	f.fine(codeQuorum, "cluster", "the ledger has a majority; %s leads it", l.Leader)
	for i := range c.Status.Resources {
		r := &c.Status.Resources[i]
		if r.Primary != "" && r.Primary == l.Leader {
			f.add(codeLeader, Note, r.Name, "When that node dies, the ledger elects a leader before anybody is promoted, which takes a moment longer. Nothing is at risk.",
				"", "%s is primary of %s and leads the ledger as well", r.Primary, r.Name)
		}
	}
}

// voters judges how many losses the ledger survives.
func voters(f *findings, c *Cluster) {
	v := c.voters()
	for _, n := range c.Status.Nodes {
		if !n.Voter {
			f.add(codeVoters, Warning, n.Name, "Its loss is one less that counts, and its gain, too.", "lockstep status", "%s has no vote in the ledger", n.Name)
		}
	}
	switch n := len(v); {
	case n == 0: // nothing is known; no-quorum says so
	case n == 1:
		f.add(codeVoters, Warning, "cluster", "When it is lost, nothing is decided any more.", "add nodes: three voters survive the loss of one", "%s is the only voter", v[0])
	case n == 2 && c.alone(v[:1]) != "" && c.alone(v[1:]) != "":
		f.add(codeVoters, Note, "cluster", "The loss of either leaves no majority. The other one goes on when it has proven by a fence that the first is off, and waits if that fails.",
			"add a witness: a third node that only votes", "there are only two voters: %s", list(v))
	case n == 2:
		f.add(codeVoters, Warning, "cluster", "The loss of either leaves no majority: the other one waits for an operator's word.",
			"add a witness, a third node that only votes; or let each node turn the other one off", "there are only two voters: %s", list(v))
	case n%2 == 0:
		f.add(codeVoters, Note, "cluster", "An even number survives no more losses than one less, and half of them is no majority.",
			"", "there are %d voters: %s", n, list(v))
	default:
		f.fine(codeVoters, "cluster", "%d voters: any %d of them may be lost", n, (n-1)/2)
	}
}

// sharedHosts finds nodes that die together.
func sharedHosts(f *findings, c *Cluster) {
	shared := false
	for _, h := range c.hosts() {
		if len(h.nodes) < 2 {
			continue
		}
		shared = true
		why := "They have the same boot id. When the host goes, all of them go at once."
		for i := range c.Status.Resources {
			r := &c.Status.Resources[i]
			if l := c.Lose(r, h.nodes...); !l.GoesOn {
				why += fmt.Sprintf(" %s would not go on: %s.", r.Name, l.Because)
			}
		}
		f.add(codeHost, Danger, "cluster", why, "run each node on a host of its own", "%s run on one host, %s", list(h.nodes), c.facts(h.nodes[0]).Host)
	}
	if !shared && len(c.Nodes) > 1 {
		f.fine(codeHost, "cluster", "each node runs on a host of its own, as far as boot ids tell")
	}
}

// versions compares the programs.
func versions(f *findings, c *Cluster) {
	var all, seen []string
	for _, n := range c.Nodes {
		if n.Facts != nil {
			all = append(all, n.Name+" "+n.Facts.Version)
			if !slices.Contains(seen, n.Facts.Version) {
				seen = append(seen, n.Facts.Version)
			}
		}
	}
	if len(seen) > 1 {
		f.add(codeVersion, Warning, "cluster", "During an upgrade that is as it should be. Afterwards it is not: what the newest one can do, not all can.",
			"bring the nodes to one version, one after another", "the nodes run different versions: %s", list(all))
		return
	}
	if len(seen) == 1 {
		f.fine(codeVersion, "cluster", "all nodes run version %s", seen[0])
	}
}
