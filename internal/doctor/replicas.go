package doctor

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// resource judges one resource as it is.
func resource(f *findings, c *Cluster, r *control.Resource) {
	serving(f, r)
	failover(f, r)
	copies(f, c, r)
	for i := range r.Replicas {
		replica(f, c, r, &r.Replicas[i])
	}
	pauses(f, c, r)
	services(f, c, r)
}

// serving finds resources that nobody can use now.
func serving(f *findings, r *control.Resource) {
	look := fmt.Sprintf("lockstep status %s", r.Name)
	switch {
	case r.Primary == "" && r.Policy.Held:
		f.add(codePrimary, Danger, r.Name, "An operator demoted it, and only an operator promotes it again.", fmt.Sprintf("lockstep promote %s", r.Name), "nobody is primary of %s", r.Name)
	case r.Primary == "":
		f.add(codePrimary, Danger, r.Name, "Nobody can use it. Data is safe on "+list(r.InSync)+".", look, "nobody is primary of %s", r.Name)
	case r.IO.State == control.IOFrozen || r.IO.State == control.IOFailed:
		f.add(codeIO, Danger, r.Name, r.IO.Reason, look, "requests to %s do not go through: they are %s", r.Name, r.IO.State)
	default:
		f.fine(codePrimary, r.Name, "%s is primary of %s", r.Primary, r.Name)
	}
}

// failover finds resources that only an operator brings back.
func failover(f *findings, r *control.Resource) {
	why := "When the primary dies, nobody is promoted until an operator does it."
	switch p := r.Policy; {
	case p.Held && r.Primary != "":
		f.add(codeFailover, Warning, r.Name, why, fmt.Sprintf("lockstep promote %s", r.Name), "%s is held: an operator demoted it", r.Name)
	case p.Held: // no-primary says so
	case p.Paused:
		note := ""
		if p.PausedWhy != "" {
			note = " (" + p.PausedWhy + ")"
		}
		f.add(codeFailover, Warning, r.Name, why, fmt.Sprintf("lockstep resume-failover %s", r.Name), "failover of %s is paused%s", r.Name, note)
	case p.Failover == "manual":
		f.add(codeFailover, Warning, r.Name, why, fmt.Sprintf("lockstep resource set %s --failover auto", r.Name), "failover of %s is manual", r.Name)
	default:
		f.fine(codeFailover, r.Name, "the cluster promotes by itself when the primary of %s is lost", r.Name)
	}
}

// copies counts what holds every acknowledged write.
func copies(f *findings, c *Cluster, r *control.Resource) {
	good := c.heirs(r, nil)
	switch {
	case len(r.Replicas) == 1:
		f.add(codeOneCopy, Danger, r.Name, "When its disk is lost, data is lost. When its node is, nobody serves.", "make the resource anew with two replicas, with --source", "%s has one replica only, on %s", r.Name, r.Replicas[0].Node)
	case len(good) == 1:
		f.add(codeOneCopy, Danger, r.Name, fmt.Sprintf("When the disk of %s is lost now, acknowledged writes are lost.", good[0]), fmt.Sprintf("lockstep status %s tells what the others lack", r.Name),
			"%s alone holds every acknowledged write of %s", good[0], r.Name)
	case len(good) == 0:
		f.add(codeOneCopy, Danger, r.Name, "Nobody that answers may serve it.", fmt.Sprintf("lockstep status %s", r.Name), "no replica that answers is known to hold every acknowledged write of %s", r.Name)
	default:
		f.fine(codeOneCopy, r.Name, "%s hold every acknowledged write of %s", list(good), r.Name)
	}
}

// replica judges one replica as it is.
func replica(f *findings, c *Cluster, r *control.Resource, p *control.Replica) {
	on := r.Name + " on " + p.Node
	facts := c.replica(p.Node, r.Name)
	state := p.DiskState
	if facts != nil {
		state = facts.DiskState // its own word is newer
	}
	lookAt := fmt.Sprintf("lockstep status %s", r.Name)
	switch {
	case p.Divergence != nil || state == control.DiskDiverged:
		f.add(codeDiverged, Danger, on, "It holds writes that the recorded history lacks. Both are kept and nothing is merged.", lookAt+"; then: lockstep resolve", "the replica on %s has another history", p.Node)
	case state == control.DiskFailed:
		f.add(codeDisk, Danger, on, "It is not used again until it is replaced.", lookAt, "the disk of the replica on %s failed", p.Node)
	case facts != nil && !facts.Open:
		f.add(codeDisk, Danger, on, facts.Fault, lookAt, "the replica on %s is not open", p.Node)
	case p.Connection == control.ConnDisconnected:
		f.add(codeDisconnected, Warning, on, "What is written meanwhile it lacks.", fmt.Sprintf("lockstep connect %s --peer %s --node %s", r.Name, p.Node, r.Primary), "an operator disconnected the replica on %s", p.Node)
	case p.Resync != nil && p.Resync.Paused:
		f.add(codeNotInSync, Warning, on, "It stays out of sync until somebody lets it go on.", fmt.Sprintf("lockstep resync resume %s", r.Name), "the resync into %s is paused at %.0f %%", p.Node, p.Resync.Percent)
	case p.Resync != nil:
		f.add(codeNotInSync, Warning, on, "Until it is through, it can take over from nobody.", "wait: "+lookAt+" --watch", "the replica on %s is being copied: %.0f %%", p.Node, p.Resync.Percent)
	case !p.InSync:
		f.add(codeNotInSync, Warning, on, "It lacks acknowledged writes, so it can take over from nobody.", lookAt, "the replica on %s is not in sync", p.Node)
	case facts != nil && facts.Unclean:
		f.add(codeNotInSync, Warning, on, "Its host went down without a clean stop, so it may lack what was not flushed.", lookAt, "the replica on %s is unclean", p.Node)
	default:
		f.fine(codeNotInSync, on, "the replica on %s is in sync", p.Node)
	}
	if facts != nil {
		writeCache(f, on, &facts.Data)
	}
}

// writeCache tells what a loss of power takes.
func writeCache(f *findings, on string, d *control.Disk) {
	switch {
	case d.InMemory:
		f.add(codeMemory, Danger, on, "A loss of power takes all of it.", "lay it on a disk", "%s lies in memory (%s)", d.Path, d.Device)
	case d.WriteCache == control.CacheVolatile:
		f.add(codeWriteCache, Note, on, "A loss of power takes what was not flushed, as with any disk of that kind. The replica is then unclean and copied from another one. Only if all hosts lose power at once do unflushed writes get lost.",
			"", "%s, which holds %s, has a volatile write cache", d.Device, d.Path)
	case d.WriteCache == "":
		why := d.Unknown
		if why == "" {
			why = "The kernel does not tell."
		}
		f.add(codeWriteCache, Note, on, why, "", "it is not known whether the disk below %s has a volatile write cache", d.Path)
	default:
		f.fine(codeWriteCache, on, "the disk below %s has no volatile write cache, as far as its kernel knows", d.Path)
	}
}

// disks finds what lies on one disk and should not, and disks that may run full.
func disks(f *findings, c *Cluster) {
	for i := range c.Status.Resources {
		sharedDisk(f, c, &c.Status.Resources[i])
	}
	for _, n := range c.Nodes {
		if n.Facts == nil {
			continue
		}
		for i := range n.Facts.Replicas {
			r := &n.Facts.Replicas[i]
			if overlap(r.Data.Disks, n.Facts.DataDir.Disks) {
				f.add(codeDataDir, Note, r.Resource+" on "+n.Name, "When that disk fails or runs full, the node loses its replica and its vote together.",
					"", "%s keeps its ledger on the disk that holds its replica of %s: %s", n.Name, r.Resource, list(r.Data.Disks))
			}
		}
		space(f, n.Facts)
	}
}

// sharedDisk finds replicas of r on one disk of one host.
func sharedDisk(f *findings, c *Cluster, r *control.Resource) {
	for i, a := range r.Replicas {
		for _, b := range r.Replicas[i+1:] {
			fa, fb := c.facts(a.Node), c.facts(b.Node)
			ra, rb := c.replica(a.Node, r.Name), c.replica(b.Node, r.Name)
			if ra == nil || rb == nil || fa.Boot != fb.Boot || !overlap(ra.Data.Disks, rb.Data.Disks) {
				continue
			}
			f.add(codeDisks, Danger, r.Name, "When that disk fails, both copies are lost.", "lay one of them on another disk, on another host", "the replicas of %s on %s and %s lie on one disk: %s", r.Name, a.Node, b.Node, list(ra.Data.Disks))
		}
	}
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// space finds file systems that cannot hold what sparse backings may still take.
func space(f *findings, n *control.Facts) {
	type volume struct {
		device     string
		miss, free int64
		total      int64
		names      []string
	}
	var all []volume
	for i := range n.Replicas {
		d := &n.Replicas[i].Data
		if d.TotalBytes == 0 {
			continue // a block device
		}
		at := slices.IndexFunc(all, func(v volume) bool { return v.device == d.Device && v.total == d.TotalBytes })
		if at < 0 {
			all = append(all, volume{device: d.Device, free: d.FreeBytes, total: d.TotalBytes})
			at = len(all) - 1
		}
		all[at].miss += d.MissBytes
		all[at].names = append(all[at].names, n.Replicas[i].Resource)
	}
	for _, v := range all {
		if v.miss <= v.free {
			f.fine(codeSpace, n.Node, "the file system below %s on %s has room for all that it may still take", list(v.names), n.Node)
			continue
		}
		s := Warning
		if v.free < v.total/50 {
			s = Danger
		}
		f.add(codeSpace, s, n.Node, "When it is full, a write fails, and the replica counts as failed until it is replaced.", "make the file system larger, or move a backing",
			"%s of %s may still take %d MiB, and their file system has %d MiB left", list(v.names), n.Node, v.miss>>20, v.free>>20)
	}
}
