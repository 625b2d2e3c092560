package sim

import (
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// noOp stands where no operation of a client does: for what a sector held when its history began.
const noOp OpID = -1

// histCell is the history of consecutive sectors, all with the same.
type histCell struct {
	first, end int64 // sectors, half open
	written    bool  // a write to it has begun; before that it reads as its one source
	era
	ended []era // earlier ones; never changed, so cells share them
}

// era is the history of a cell from one restart to the next.
type era struct {
	start, over histSeq      // over: 0 while it goes on
	sources     []histSource // in the order of their begin; at the start, what it may have held
	reads       []cellRead
}

// histSource is a write and the reads that certainly saw it: a cluster.
type histSource struct {
	value uint64
	op    OpID    // noOp: what the cell held, or may have held, when the era began
	limit histSeq // if it took effect, then before; seqNever: it may at any time
	seen  histSeq // the first end of an operation that saw it done; seqNever: none did
	held  histSeq // the last begin of one that saw it
	// early: it began before the era, and what the cell held at the start may have overwritten it.
	// Being acknowledged then does not say that it took effect in this era.
	early bool
}

// cellRead is a read that ended.
type cellRead struct {
	op    OpID
	value uint64
}

func baseSource(v uint64) histSource {
	return histSource{value: v, op: noOp, limit: seqBefore, seen: seqBefore, held: seqBefore}
}

// by returns the moment by which x took effect if it ever did.
func (x *histSource) by() histSeq { return min(x.seen, x.limit) }

// precedes reports whether x, if it took effect, comes before y.
func (x *histSource) precedes(y *histSource) bool { return x.by() < y.held }

func (h *History) newCell() *histCell {
	if len(h.slab) == 0 {
		h.slab = make([]histCell, 32)
	}
	c := &h.slab[0]
	h.slab = h.slab[1:]
	return c
}

// find returns the index of the cell that holds a sector.
func (h *History) find(sector int64) int {
	lo, hi := 0, len(h.cells)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; h.cells[mid].first <= sector {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// cover returns the cells of e, after splitting those that reach beyond it.
func (h *History) cover(e bitmap.Extent) (i, end int) {
	first, last := e.Off/SectorSize, e.End()/SectorSize
	if first == last {
		return 0, 0
	}
	i = h.find(first)
	if h.cells[i].first < first {
		h.split(i, first)
		i++
	}
	for end = i; end < len(h.cells) && h.cells[end].first < last; end++ {
		if h.cells[end].end > last {
			h.split(end, last)
		}
	}
	return i, end
}

// split makes two cells of cell i; the second begins at sector at.
func (h *History) split(i int, at int64) {
	c, d := h.cells[i], h.newCell()
	*d = *c
	c.end, d.first = at, at
	d.sources = append(make([]histSource, 0, len(c.sources)+8), c.sources...)
	// Shared, and only ever appended to: the first to do so moves away.
	c.reads, d.reads = slices.Clip(c.reads), slices.Clip(c.reads)
	c.ended, d.ended = slices.Clip(c.ended), slices.Clip(c.ended)
	h.cells = slices.Insert(h.cells, i+1, d)
}

// eachSource calls f for every source that op is in the present eras.
func (h *History) eachSource(op OpID, f func(*histCell, *histSource)) {
	i, end := h.cover(h.ops[op].ext)
	for _, c := range h.cells[i:end] {
		for k := len(c.sources) - 1; k >= 0; k-- {
			if c.sources[k].op == op {
				f(c, &c.sources[k])
				break
			}
		}
	}
}

func (c *histCell) remove(x *histSource) {
	c.sources = slices.DeleteFunc(c.sources, func(y histSource) bool { return y.op == x.op })
}

// judgeRead judges each cell of a read that has just ended.
func (h *History) judgeRead(op OpID, from string, values []uint64) error {
	e := h.ops[op].ext
	if int64(len(values)) != e.Len/SectorSize {
		panic("sim: a read with the wrong number of values")
	}
	for len(values) > 0 {
		sector := e.End()/SectorSize - int64(len(values))
		n := 1
		for n < len(values) && values[n] == values[0] {
			n++
		}
		if err := h.judgeRun(op, from, sector, sector+int64(n), values[0]); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// judgeRun judges the sectors [first, last), all read as v.
func (h *History) judgeRun(op OpID, from string, first, last int64, v uint64) error {
	for i := h.find(first); first < last; i++ {
		c := h.cells[i]
		if !c.written { // and so it has nothing to remember
			if v != c.sources[0].value {
				return h.explain(op, from, c, first, v)
			}
			first = c.end
			continue
		}
		if c.first < first {
			h.split(i, first)
			continue
		}
		if c.end > last {
			h.split(i, last)
		}
		if err := h.judge(op, from, c, v); err != nil {
			return err
		}
		first = c.end
	}
	return nil
}

// judge judges one read of a whole cell, and records what it shows.
func (h *History) judge(op OpID, from string, c *histCell, v uint64) error {
	begin := h.ops[op].begin
	// A read that was under way at a restart may show what was before. Which of the two it was does
	// not matter, so it is not recorded.
	for k := len(c.ended) - 1; k >= 0 && c.ended[k].over > begin; k-- {
		if _, n := c.ended[k].possible(v, max(begin, c.ended[k].start)); n > 0 {
			return nil
		}
	}
	begin = max(begin, c.start)
	k, n := c.possible(v, begin)
	if n == 0 {
		return h.explain(op, from, c, c.first, v)
	}
	if c.written {
		c.reads = append(c.reads, cellRead{op, v})
	}
	if n > 1 {
		return nil
	}
	x := &c.sources[k]
	x.seen = min(x.by(), h.ops[op].end)
	x.held = max(x.held, begin)
	if x.op == noOp && c.written {
		kept := *x
		c.sources = slices.DeleteFunc(c.sources, func(y histSource) bool { return y.op == noOp && y.value != kept.value })
	}
	return nil
}

// possible returns how many sources a read of v that began at begin can have, and the last of them.
func (e *era) possible(v uint64, begin histSeq) (index, count int) {
	for k := range e.sources {
		if x := &e.sources[k]; x.value == v && e.between(x, begin) == nil {
			index, count = k, count+1
		}
	}
	return index, count
}

// between returns a source that comes before and after x, if a read that began at begin saw x; nil if
// none does: only then may the read have seen it. That x began after some source was there was no
// news until now: it becomes some, when x was given up, and had its effect by then or never.
func (e *era) between(x *histSource, begin histSeq) *histSource {
	by, held := x.by(), max(x.held, begin)
	for k := range e.sources {
		if u := &e.sources[k]; u.seen < held && by < u.held && u != x {
			return u
		}
	}
	return nil
}

// promised reports whether a source is there, and stable, for sure.
func (h *History) promised(x *histSource) bool {
	if x.op == noOp || x.seen == seqNever {
		return false
	}
	o := &h.ops[x.op]
	return o.state == opDone && (o.fua || o.end < h.flushed)
}

// followed reports whether x comes before a write that was promised stable: no crash brings it back.
func (h *History) followed(c *histCell, x *histSource) bool {
	for k := range c.sources {
		if p := &c.sources[k]; p != x && x.precedes(p) && h.promised(p) {
			return true
		}
	}
	return false
}

// lose begins a new era of c at a loss point.
func (h *History) lose(c *histCell) {
	var kept, carried []*histSource
	for k := range c.sources {
		switch x := &c.sources[k]; {
		case h.followed(c, x):
		case h.mayLand(x):
			carried = append(carried, x)
		default:
			kept = append(kept, x)
		}
	}
	if len(kept) == 0 { // a history that is wrong, and that only Check can tell
		for k := range c.sources {
			kept = append(kept, &c.sources[k])
		}
	}
	h.renew(c, kept, carried)
}

// force begins a new era of c, which holds v.
func (h *History) force(c *histCell, v uint64) {
	var kept, carried []*histSource
	for k := range c.sources {
		x := &c.sources[k]
		if h.mayLand(x) {
			carried = append(carried, x)
		}
		if x.value == v {
			kept = append(kept, x)
		}
	}
	if len(kept) == 0 { // older than the era
		kept = []*histSource{{value: v, op: noOp, limit: seqNever, seen: seqNever}}
	}
	h.renew(c, kept, carried)
}

// renew ends the era of c. In the next one it may hold what one of kept wrote, and carried may still
// land: as for later reads, taking effect before a loss and surviving it is the same as taking effect
// right after it.
func (h *History) renew(c *histCell, kept, carried []*histSource) {
	start := h.restarts[len(h.restarts)-1].seq
	next := make([]histSource, 0, len(kept)+len(carried)+8)
	for _, x := range kept {
		if !slices.ContainsFunc(next, func(y histSource) bool { return y.value == x.value }) {
			next = append(next, baseSource(x.value))
		}
	}
	for _, x := range carried {
		beneath := slices.ContainsFunc(kept, func(y *histSource) bool {
			return !y.precedes(x) || y.op == noOp && x.early && x.seen == seqNever
		})
		y := histSource{value: x.value, op: x.op, limit: seqNever, seen: seqNever, held: start, early: beneath}
		next = append(next, y)
	}
	past := c.era
	past.over = start
	c.ended = append(c.ended, past)
	c.era = era{start: start, sources: next}
}

// mayLand reports whether x may take effect from now on.
func (h *History) mayLand(x *histSource) bool {
	if x.op == noOp {
		return false
	}
	s := h.ops[x.op].state
	return s == opOpen || s == opMayLand
}
