package sim

import (
	"fmt"
	"strings"
	"time"
)

// explain says why no source can be what a read saw. It is called once, at the end of a run.
func (h *History) explain(op OpID, from string, c *histCell, sector int64, v uint64) *Violation {
	var b strings.Builder
	o := &h.ops[op]
	if o.kind == opContent {
		fmt.Fprintf(&b, "%s holds %d in sector %d at the end, at %v", from, v, sector, o.beganAt)
	} else {
		fmt.Fprintf(&b, "%s answered a read of sector %d with %d (op %d, %v to %v)", from, sector, v, op, o.beganAt, o.ended)
	}
	begin := max(o.begin, c.start)
	var source *histSource
	for k := range c.sources {
		if x := &c.sources[k]; x.value == v {
			source = x // the last one is the least wrong
		}
	}
	if source == nil {
		b.WriteString(h.stranger(c, sector, v))
	} else {
		b.WriteString(h.superseded(c, source, c.between(source, begin), o))
	}
	return &Violation{Op: op, Sector: sector, Text: b.String()}
}

// superseded says how u stands between x and the read.
func (h *History) superseded(c *histCell, x, u *histSource, read *clientOp) string {
	var b strings.Builder
	began := fmt.Sprintf("before this began at %v", read.beganAt)
	if u.seen >= max(read.begin, c.start) {
		op := h.events[x.held]
		began = fmt.Sprintf("before op %d began at %v", op, h.ops[op].beganAt)
	}
	fmt.Fprintf(&b, ", %s, but %s %s %s", h.origin(x), h.nameOf(u), h.eventText(u, u.seen), began)
	if x.op == noOp {
		return b.String()
	}
	later := h.events[u.held]
	fmt.Fprintf(&b, "; %d %s before op %d", x.value, h.eventText(x, x.by()), later)
	if later != u.op {
		fmt.Fprintf(&b, ", which read %d,", u.value)
	}
	fmt.Fprintf(&b, " began at %v", h.ops[later].beganAt)
	return b.String()
}

// stranger says where a value may come from that nothing in the present era wrote to the sector.
func (h *History) stranger(c *histCell, sector int64, v uint64) string {
	for k := len(c.ended) - 1; k >= 0; k-- {
		for _, x := range c.ended[k].sources {
			if x.value == v {
				return fmt.Sprintf(", %s: that was lost, or followed by a write promised stable, before %s; "+
					"since then the sector may hold %s", h.origin(&x), h.lastRestart(), h.holds(c))
			}
		}
	}
	if v == 0 {
		return fmt.Sprintf(": nothing zeroed it, it may hold %s", h.holds(c))
	}
	for i := range h.ops {
		switch o := &h.ops[i]; {
		case o.kind != OpWrite || o.value != v:
		case o.ext.Off/SectorSize <= sector && sector < o.ext.End()/SectorSize:
			return fmt.Sprintf(": op %d wrote it at %v and was answered at %v as certainly not done", i, o.beganAt, o.ended)
		default:
			return fmt.Sprintf(": op %d wrote it elsewhere, to %v", i, o.ext)
		}
	}
	return fmt.Sprintf(": nobody ever wrote it; the sector may hold %s", h.holds(c))
}

// readOfVoid says that a write was read that was then answered as certainly not done.
func (h *History) readOfVoid(c *histCell, x *histSource) *Violation {
	o := &h.ops[x.op]
	return &Violation{Op: x.op, Sector: c.first, Text: fmt.Sprintf(
		"op %d = %d was answered at %v as certainly not done, but in sector %d it %s",
		x.op, x.value, o.ended, c.first, h.eventText(x, x.seen))}
}

// holds lists the values that a sector may hold by what wrote it.
func (h *History) holds(c *histCell) string {
	var b strings.Builder
	for k := range c.sources {
		if k > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d", c.sources[k].value)
	}
	return b.String()
}

// origin says where a value comes from.
func (h *History) origin(x *histSource) string {
	if x.op == noOp {
		if len(h.restarts) == 0 {
			return "which it held at the start"
		}
		return "which it could hold after " + h.lastRestart()
	}
	return fmt.Sprintf("written by op %d at %v", x.op, h.ops[x.op].beganAt)
}

func (h *History) nameOf(x *histSource) string {
	if x.op == noOp {
		return fmt.Sprintf("%d, %s,", x.value, h.origin(x))
	}
	return fmt.Sprintf("op %d = %d", x.op, x.value)
}

// eventText says what happened to x at seq.
func (h *History) eventText(x *histSource, seq histSeq) string {
	if seq < 0 {
		return "was there from the beginning"
	}
	op := h.events[seq]
	o := &h.ops[op]
	switch {
	case op != x.op:
		return fmt.Sprintf("was read by op %d until %v", op, o.ended)
	case o.state == opDone:
		return fmt.Sprintf("was acknowledged at %v", o.ended)
	}
	return fmt.Sprintf("was given up at %v", o.ended)
}

func (h *History) lastRestart() string {
	if len(h.restarts) == 0 {
		return "the start"
	}
	r := h.restarts[len(h.restarts)-1]
	return fmt.Sprintf("%s at %v", r.what, r.at)
}

// Describe says what an operation was and what became of it.
func (h *History) Describe(op OpID) string {
	o := &h.ops[op]
	text := fmt.Sprintf("op %d: %v", op, o.kind)
	if o.kind == OpWrite {
		text += fmt.Sprintf(" %d", o.value)
	}
	if o.fua {
		text += " fua"
	}
	if o.kind != OpFlush {
		text += fmt.Sprintf(" %v", o.ext)
	}
	return text + fmt.Sprintf(", %v to %s", o.beganAt, o.fate())
}

// fate says when and how o ended.
func (o *clientOp) fate() string {
	var how string
	switch o.state {
	case opOpen:
		return "the end, still open"
	case opDone:
		how = "done"
	case opVoid:
		how = "certainly not done"
	case opMayHave:
		how = "unknown, over"
	case opMayLand:
		how = "unknown, may yet land"
	}
	return fmt.Sprintf("%v, %s", o.ended.Round(time.Microsecond), how)
}
