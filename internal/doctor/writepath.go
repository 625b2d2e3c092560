package doctor

// writePaths finds daemons that may wait for themselves when their host is short of memory. Only a node
// with a replica can have a file system on a device that it serves.
func writePaths(f *findings, c *Cluster) {
	const why = "A file system of that host may lie on a device that the daemon serves. When memory runs short, the kernel waits for " +
		"the daemon to write, and the daemon for memory: both stand still until somebody resets the host."
	var off []string
	fine := true
	for _, n := range c.Nodes {
		if n.Facts == nil || len(n.Facts.Replicas) == 0 {
			continue
		}
		w := n.Facts.WritePath
		for _, l := range w.Lacks {
			fine = false
			f.add(codeWritePath, Warning, n.Name, why, l.Next, "the daemon of %s is not protected under memory pressure: %s", n.Name, l.What)
		}
		if w.Unknown != "" {
			fine = false
			f.add(codeWritePath, Note, n.Name, why, "", "it cannot be told whether the daemon of %s is protected under memory pressure: %s", n.Name, w.Unknown)
		}
		if len(w.Off) > 0 {
			off = append(off, n.Name)
		}
	}
	switch {
	case len(off) > 0:
		f.add(codeWritePath, Note, "cluster", "It is right where no file system of that host lies on a device that the daemon serves, as in a lab.",
			"take the settings out of the section [memory] of the node file", "protection under memory pressure is turned off, at least in part, on %s", list(off))
	case fine:
		f.fine(codeWritePath, "cluster", "the daemons stay at work when their hosts are short of memory")
	}
}
