package sim

import (
	"fmt"
	"slices"
)

// cutSpan says that a cell could hold what it was found to hold from one moment to another, both
// included.
type cutSpan struct {
	from, to histSeq
	cell     *histCell
}

// ConsistentCut reports whether a replica holds a state that the device once had, or could have been
// found in: contents is a stale copy that an operator is about to force. There must be one moment at
// which every sector could hold what it holds: not before the write of it began, and not after a write
// that follows it had certainly taken effect. Between its begin and its effect a write may be in or
// out, each sector of it by itself. Unlike Forced it changes nothing. The error is a *Violation.
//
// A write that failed may be in until its error, although reads after that show that it never took
// effect: the members are made equal before the error is answered, or one that cannot be is dropped,
// and what it holds of the write nobody takes back. As it left before the error, it holds nothing that
// began after it.
//
// It does not know of losses: a replica that lost its unflushed writes holds no such state, and the
// caller does not ask.
func (h *History) ConsistentCut(from string, contents func(sector int64) uint64) error {
	var spans []cutSpan
	cells := 0
	for _, c := range h.cells {
		for first := c.first; first < c.end; {
			v, s := contents(first), first+1
			for s < c.end && contents(s) == v {
				s++
			}
			if c.written || v != c.sources[0].value {
				run := *c
				run.first, run.end = first, s
				n := len(spans)
				if spans = run.couldHold(h, v, spans); len(spans) == n {
					return &Violation{Op: noOp, Sector: first, Text: fmt.Sprintf(
						"%s holds %d in sector %d%s", from, v, first, h.neverHeld(&run, v))}
				}
				cells++
			}
			first = s
		}
	}
	return h.common(from, spans, cells, contents)
}

// couldHold appends the times at which c could hold v, apart from each other and in order.
func (c *histCell) couldHold(h *History, v uint64, spans []cutSpan) []cutSpan {
	own := len(spans)
	for k := range c.ended {
		spans = c.ended[k].couldHold(h, v, c, spans)
	}
	spans = c.era.couldHold(h, v, c, spans)
	slices.SortFunc(spans[own:], func(a, b cutSpan) int { return int(a.from) - int(b.from) })
	kept := spans[:own]
	for _, s := range spans[own:] {
		if n := len(kept); n > own && s.from <= kept[n-1].to {
			kept[n-1].to = max(kept[n-1].to, s.to)
		} else {
			kept = append(kept, s)
		}
	}
	return kept
}

func (e *era) couldHold(h *History, v uint64, c *histCell, spans []cutSpan) []cutSpan {
	for k := range e.sources {
		x := &e.sources[k]
		if x.value != v {
			continue
		}
		s := cutSpan{from: e.start, to: seqNever, cell: c}
		if x.op != noOp {
			s.from = max(e.start, h.ops[x.op].begin)
		}
		if e.over > 0 {
			s.to = e.over - 1
		}
		for i := range e.sources {
			if y := &e.sources[i]; y != x && x.precedes(y) {
				s.to = min(s.to, max(y.seen, h.undone(x)))
			}
		}
		if s.from <= s.to {
			spans = append(spans, s)
		}
	}
	return spans
}

// undone returns the error of x, if it failed and nobody ever saw it; seqBefore otherwise.
func (h *History) undone(x *histSource) histSeq {
	if x.op == noOp || x.seen != seqNever || h.ops[x.op].state != opMayHave {
		return seqBefore
	}
	return h.ops[x.op].end
}

// common finds a moment that lies in a span of every cell. Spans of one cell are apart, so a moment in
// as many spans as there are cells is one; if there is any, then a span begins at one of them.
func (h *History) common(from string, spans []cutSpan, cells int, contents func(int64) uint64) error {
	if cells == 0 {
		return nil
	}
	starts, ends := make([]histSeq, len(spans)), make([]histSeq, len(spans))
	for i, s := range spans {
		starts[i], ends[i] = s.from, s.to
	}
	slices.Sort(starts)
	slices.Sort(ends)
	best, most, over := histSeq(0), 0, 0
	for i, at := range starts {
		for ends[over] < at {
			over++
		}
		if open := i + 1 - over; open > most {
			best, most = at, open
		}
	}
	if most == cells {
		return nil
	}
	return h.noCut(from, spans, best, contents)
}

// noCut names two sectors that no moment has in common. If zeros of several writes hide such a pair, it
// names one that does not fit the moment best, at which most others do.
func (h *History) noCut(from string, spans []cutSpan, best histSeq, contents func(int64) uint64) error {
	ended, begun, odd := -1, -1, -1 // spans: the cell over first, the cell begun last, a cell without best
	for first := 0; first < len(spans); {
		last, fits := first, false
		for i := first; i < len(spans) && spans[i].cell == spans[first].cell; i++ {
			last, fits = i, fits || spans[i].from <= best && best <= spans[i].to
		}
		if ended < 0 || spans[last].to < spans[ended].to {
			ended = last
		}
		if begun < 0 || spans[first].from > spans[begun].from {
			begun = first
		}
		if !fits {
			odd = first
		}
		first = last + 1
	}
	a, b, o := spans[ended], spans[begun], spans[odd].cell.first
	text := fmt.Sprintf("sector %d = %d is no content of %v (%s), when most others could hold what they do",
		o, contents(o), h.momentText(best), h.whose(best))
	if a.to < b.from {
		o = a.cell.first
		text = fmt.Sprintf("sector %d = %d was over at %v (%s), before sector %d = %d began at %v (%s)",
			o, contents(o), h.momentText(a.to), h.whose(a.to),
			b.cell.first, contents(b.cell.first), h.momentText(b.from), h.whose(b.from))
	}
	return &Violation{Op: noOp, Sector: o, Text: fmt.Sprintf("%s holds a state that the device never had: %s", from, text)}
}

// momentText returns the time of seq.
func (h *History) momentText(seq histSeq) any {
	for _, r := range h.restarts {
		if r.seq == seq {
			return r.at
		}
	}
	if o := &h.ops[h.events[seq]]; o.begin != seq {
		return o.ended
	}
	return h.ops[h.events[seq]].beganAt
}

// whose says what happened at seq.
func (h *History) whose(seq histSeq) string {
	for _, r := range h.restarts {
		if r.seq == seq {
			return r.what
		}
	}
	op := h.events[seq]
	if h.ops[op].begin == seq {
		return fmt.Sprintf("begin of op %d", op)
	}
	return fmt.Sprintf("end of op %d", op)
}

// neverHeld says where a value may come from that a sector was never to hold.
func (h *History) neverHeld(c *histCell, v uint64) string {
	for _, e := range append(slices.Clip(c.ended), c.era) {
		for _, x := range e.sources {
			if x.value == v {
				return fmt.Sprintf(", %s, at no time together with the rest of its history", h.origin(&x))
			}
		}
	}
	return h.stranger(c, c.first, v)
}
