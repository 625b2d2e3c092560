package doctor

import (
	"fmt"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// networks finds peers that are reached by one way only.
func networks(f *findings, c *Cluster) {
	var single []string
	paths, local := 0, 0
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, p := range n.Facts.Peers {
			switch {
			case p.Problem != "":
				continue
			case p.Loopback:
				local++
				continue
			case p.Members > 1 || hostOf(p.Addr) != hostOf(p.Gossip):
				paths++
				continue
			}
			via := p.Interface
			if via == "" {
				via = "an unknown interface"
			}
			single = append(single, fmt.Sprintf("%s to %s by %s", n.Name, p.Node, via))
		}
	}
	switch {
	case len(single) > 0:
		f.add(codeNetwork, Warning, "cluster", "A cable, a port or a switch that fails takes replication and gossip at once. Data stays right; in-sync replicas are dropped, and a primary that is cut off stands still.",
			"join two links to a bond, or give gossip a network of its own", "there is one network path: %s", list(single))
	case paths > 0:
		f.fine(codeNetwork, "cluster", "nodes reach each other by a bond, or by two networks")
	case local > 0:
		f.fine(codeNetwork, "cluster", "nodes reach each other within one host; there is no network to fail")
	}
}

// hostOf returns the host of host:port.
func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// links compares round trips with the leases.
func links(f *findings, c *Cluster) {
	slow := false
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, p := range n.Facts.Peers {
			if p.Problem != "" || n.Facts.Timing.Lease == 0 || 3*p.RTT <= n.Facts.Timing.Lease-n.Facts.Timing.BeaconInterval {
				continue
			}
			slow = true
			f.add(codeLink, Warning, n.Name, "Beacons hardly come back within the lease, so the primary freezes now and then.",
				fmt.Sprintf("measure it: lockstep link-check %s --node %s", p.Node, n.Name),
				"the way from %s to %s takes %v there and back, and the lease is %v", n.Name, p.Node, round(p.RTT), n.Facts.Timing.Lease)
		}
	}
	if !slow {
		f.fine(codeLink, "cluster", "round trips between nodes are short beside the lease")
	}
}

// Clocks that differ by more are noted, and warned of. Leases never compare clocks; people and logs do.
const (
	clockNote = 250 * time.Millisecond
	clockWarn = 2 * time.Second
)

func clocks(f *findings, c *Cluster) {
	var worst time.Duration
	who := ""
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for _, p := range n.Facts.Peers {
			if off := p.ClockAhead.Abs() - p.ClockError; p.Problem == "" && off > worst {
				worst = off
				ahead, behind := p.Node, n.Name
				if p.ClockAhead < 0 {
					ahead, behind = behind, ahead
				}
				who = fmt.Sprintf("the clock of %s is ahead of that of %s by about %v", ahead, behind, round(p.ClockAhead.Abs()))
			}
		}
	}
	why := "Leases do not rest on it: they count time and never compare clocks. But logs and events of the nodes cannot be put in order, and certificates may look expired."
	switch {
	case worst > clockWarn:
		f.add(codeClock, Warning, "cluster", why, "run chrony or systemd-timesyncd on each host", "%s", who)
	case worst > clockNote:
		f.add(codeClock, Note, "cluster", why, "run chrony or systemd-timesyncd on each host", "%s", who)
	default:
		f.fine(codeClock, "cluster", "the clocks of the nodes agree")
	}
}

// timings compares what the node files say of leases.
func timings(f *findings, c *Cluster) {
	var first *Node
	for i := range c.Nodes {
		n := &c.Nodes[i]
		switch {
		case n.Facts == nil:
		case first == nil:
			first = n
		case n.Facts.Timing != first.Facts.Timing:
			f.add(codeTiming, Warning, n.Name, "Each node sends beacons as its own file says, and the others judge them by theirs.",
				"give all node files the same timing", "%s has a beacon interval of %v and a lease of %v, %s has %v and %v", n.Name,
				n.Facts.Timing.BeaconInterval, n.Facts.Timing.Lease, first.Name, first.Facts.Timing.BeaconInterval, first.Facts.Timing.Lease)
		}
	}
}

// fences judges whether nodes can be turned off, as far as policies want it or a pause of a host does.
func fences(f *findings, c *Cluster) {
	var without []string
	for _, n := range c.Status.Nodes {
		if !n.Witness && c.fencer(n.Name, nil) == "" {
			without = append(without, n.Name)
		}
	}
	wanted := false
	for i := range c.Status.Resources {
		r := &c.Status.Resources[i]
		if r.Policy.Fencing != "stonith" {
			continue
		}
		for _, p := range holders(r) {
			if c.fencer(p, nil) == "" {
				wanted = true
				f.add(codeFence, Danger, r.Name, "Its policy lets nobody take over before the old primary is proven off, so nobody ever does when that node is the one.",
					fmt.Sprintf("configure a fence for %s, or: lockstep resource set %s --fencing lease", p, r.Name), "no fence can turn %s off, and the policy of %s is stonith", p, r.Name)
			}
		}
	}
	switch {
	case wanted:
	case len(without) > 0:
		f.add(codeFence, Note, "cluster", "With the policy lease none is needed for the data: an old primary stops by itself when its lease has run out. What a lease does not cover is a host that is paused as a whole.",
			"configure a fence in the node files if hosts can be paused", "no fence is configured that could turn %s off", list(without))
	default:
		f.fine(codeFence, "cluster", "each data node can be turned off by another one")
	}
}

// pauses judges whether a paused host could answer with old data.
func pauses(f *findings, c *Cluster, r *control.Resource) {
	if r.Policy.Fencing == "stonith" || r.Policy.ReadsConfirm {
		f.fine(codePause, r.Name, "a pause of a whole host is covered: %s", covers(r))
		return
	}
	var virtual, unknown []string
	for _, p := range holders(r) {
		if facts := c.facts(p); facts != nil {
			switch facts.Virtual {
			case control.VirtualYes:
				virtual = append(virtual, p)
			case "":
				unknown = append(unknown, p)
			}
		}
	}
	why := "A hypervisor can stop a whole machine, its clock included, between the check of the lease and the answer. When it goes on it may answer one read with old data. Writes are safe."
	next := fmt.Sprintf("lockstep resource set %s --reads confirm, or --fencing stonith with a fence", r.Name)
	switch {
	case len(virtual) > 0:
		f.add(codePause, Warning, r.Name, why, next, "%s of %s can be paused by a hypervisor, which a lease does not cover", list(virtual), r.Name)
	case len(unknown) > 0:
		f.add(codePause, Note, r.Name, why, next, "it cannot be told whether %s of %s can be paused by a hypervisor", list(unknown), r.Name)
	default:
		f.fine(codePause, r.Name, "no host of %s runs below a hypervisor", r.Name)
	}
}

func covers(r *control.Resource) string {
	if r.Policy.ReadsConfirm {
		return "each read asks a peer first"
	}
	return "the old primary is turned off before another one serves"
}

// watchdogs finds nodes that nothing resets when they hang.
func watchdogs(f *findings, c *Cluster) {
	var without []string
	for _, n := range c.Nodes {
		if n.Facts != nil && n.Facts.Watchdog == "" {
			without = append(without, n.Name)
		}
	}
	if len(without) == 0 {
		f.fine(codeWatchdog, "cluster", "a watchdog looks after each node")
		return
	}
	f.add(codeWatchdog, Note, "cluster", "A daemon that hangs stays so until somebody looks. The others go on without it, and its lease runs out.",
		"set WatchdogSec= in the unit of the daemon, or a watchdog in the node file", "no watchdog looks after %s", list(without))
}

// supervisors finds daemons that nobody starts again.
func supervisors(f *findings, c *Cluster) {
	var without []string
	for _, n := range c.Nodes {
		if n.Facts != nil && n.Facts.Supervisor == "" {
			without = append(without, n.Name)
		}
	}
	if len(without) == 0 {
		f.fine(codeSupervisor, "cluster", "each daemon is started again when it ends")
		return
	}
	f.add(codeSupervisor, Note, "cluster", "A daemon that ends stays away until somebody starts it, and until then there is one copy less.",
		"run it as a systemd service with Restart=always", "nobody is known to start the daemon again on %s", list(without))
}
