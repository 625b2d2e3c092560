package replication

import "github.com/lockstep-ha/lockstep/bitmap"

// lockTable orders operations that overlap (rule 7). Entries stand in order of arrival; an op may
// run when no earlier entry conflicts with it. Readers of the backing device (reads, copies,
// hashes) share, writers exclude.
//
// A linear scan over entries of 24 bytes beats a tree up to a few thousand of them, and the
// window of requests in flight keeps them fewer.
type lockTable struct {
	entries []lockEntry
}

type lockEntry struct {
	off, end int64
	op       int32
	shared   bool
}

func (e *lockEntry) conflicts(o *lockEntry) bool {
	return e.off < o.end && o.off < e.end && !(e.shared && o.shared)
}

// add appends an entry for op and returns the number of earlier entries that it must wait for.
func (t *lockTable) add(op int32, ext bitmap.Extent, shared bool) (blockers int32) {
	n := lockEntry{off: ext.Off, end: ext.End(), op: op, shared: shared}
	for i := range t.entries {
		if t.entries[i].conflicts(&n) {
			blockers++
		}
	}
	t.entries = append(t.entries, n)
	return blockers
}

// remove takes op's entry out and calls unblocked for each later entry that waited for it.
func (t *lockTable) remove(op int32, unblocked func(op int32)) {
	for i := range t.entries {
		if t.entries[i].op != op {
			continue
		}
		gone := t.entries[i]
		t.entries = append(t.entries[:i], t.entries[i+1:]...)
		for j := i; j < len(t.entries); j++ {
			if t.entries[j].conflicts(&gone) {
				unblocked(t.entries[j].op)
			}
		}
		return
	}
	panic("core: lock of an operation that holds none")
}
