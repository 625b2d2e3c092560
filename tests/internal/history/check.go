package history

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// register is the history of one block.
type register struct {
	block  int64
	writes []touch // of both kinds, in the order of their begin
	reads  []touch // that were answered, in the order of their begin
}

// touch is what one operation did to one block.
type touch struct {
	value Value
	op    *op
}

// registers sorts the operations by block. What never was read or written has no register. The
// caller holds mu for as long as it uses them.
func (h *History) registers() []register {
	all := make([]register, h.blocks)
	for i := range h.ops {
		o := &h.ops[i]
		for k := range o.count {
			r := &all[o.block+k]
			r.block = o.block + k
			switch {
			case o.kind == Write || o.kind == Zero:
				r.writes = append(r.writes, touch{o.value, o})
			case o.end != never:
				r.reads = append(r.reads, touch{o.values[k], o})
			}
		}
	}
	return slices.DeleteFunc(all, func(r register) bool { return len(r.reads) == 0 })
}

// mixed reports whether a read has met a write of its block on the way, and returned bytes of before and of after
// it. NBD promises no order to requests that are under way together, not even for each byte alone. What is read
// when all is over, or while nobody writes, is never mixed.
func (r *register) mixed(rd touch) bool {
	return rd.value == Torn && rd.op.kind == Read && slices.ContainsFunc(r.writes, func(w touch) bool {
		if w.op.end == never && w.op.where != rd.op.where {
			return false // nobody knows how long it was under way; but at one server only
		}
		return w.op.begin < rd.op.end && rd.op.begin < w.op.end
	})
}

// cluster is a write and the reads that saw it.
type cluster struct {
	value     Value
	firstEnd  moment // by which the value was there; never: nobody knows that it ever was
	lastBegin moment // until which it had to be there
}

// conflicts reports whether each comes before the other.
func (c cluster) conflicts(d cluster) bool {
	return c.firstEnd < d.lastBegin && d.firstEnd < c.lastBegin
}

// Direct judges the history with the first end and the last begin of each value. It is exact for
// all values but zeros.
func (h *History) Direct() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var bad []error
	for _, r := range h.registers() {
		if err := r.direct(); err != nil {
			bad = append(bad, err)
		}
	}
	return summarise(bad)
}

func (r *register) direct() error {
	byValue := make(map[Value]int, len(r.writes)) // index in clusters, of values that are no zeros
	var clusters []cluster
	for _, w := range r.writes {
		if w.op.kind == Write {
			byValue[w.value] = len(clusters)
		}
		// A write of zeros counts as a cluster without reads here: it ends what was before it.
		clusters = append(clusters, cluster{w.value, w.op.end, w.op.begin})
	}
	for _, rd := range r.reads {
		switch {
		case rd.value == 0 || r.mixed(rd):
			continue
		case rd.op.odd != nil && (rd.value == Torn || rd.value == Foreign):
			return r.violation(fmt.Sprintf("bytes that nobody wrote there: %v", rd.op.odd), rd.value)
		}
		i, ok := byValue[rd.value]
		if !ok {
			return r.violation(fmt.Sprintf("value %d was read, which nobody wrote there", rd.value), rd.value)
		}
		c := &clusters[i]
		if rd.op.end < r.writes[i].op.begin {
			return r.violation(fmt.Sprintf("value %d was read before it was written", rd.value), rd.value)
		}
		c.firstEnd = min(c.firstEnd, rd.op.end)
		c.lastBegin = max(c.lastBegin, rd.op.begin)
	}
	clusters = slices.DeleteFunc(clusters, func(c cluster) bool { return c.firstEnd == never })
	if a, b, found := conflict(clusters); found {
		return r.violation(fmt.Sprintf("values %d and %d each had to be there before the other", a.value, b.value), a.value, b.value)
	}
	return r.directZeros(clusters)
}

// conflict looks for two clusters that come before each other.
//
// Sorted by first end, those that begin to be there before the last begin of b are a prefix. One of
// them conflicts with b if its last begin is after b's first end; the largest last begin of the prefix
// says so, and the second largest where the largest is b's own.
func conflict(clusters []cluster) (a, b cluster, found bool) {
	sorted := slices.SortedFunc(slices.Values(clusters), func(a, b cluster) int { return cmp.Compare(a.firstEnd, b.firstEnd) })
	best := make([][2]int, len(sorted)) // of the prefix that ends here: the two largest last begins
	for i := range sorted {
		top := [2]int{i, i}
		if i > 0 {
			top = best[i-1]
			switch {
			case sorted[i].lastBegin > sorted[top[0]].lastBegin:
				top = [2]int{i, top[0]}
			case top[0] == top[1] || sorted[i].lastBegin > sorted[top[1]].lastBegin:
				top[1] = i
			}
		}
		best[i] = top
	}
	for i, b := range sorted {
		n, _ := slices.BinarySearchFunc(sorted, b.lastBegin, func(c cluster, m moment) int { return cmp.Compare(c.firstEnd, m) })
		if n == 0 {
			continue
		}
		for _, k := range best[n-1] {
			if k != i && sorted[k].conflicts(b) {
				return sorted[k], b, true
			}
		}
	}
	return a, b, false
}

// directZeros asks for each read of zeros whether one of the writes of zeros can be what it saw.
func (r *register) directZeros(clusters []cluster) error {
	sources := []cluster{{0, before, before}} // what the device held at the beginning
	for _, w := range r.writes {
		if w.op.kind == Zero {
			sources = append(sources, cluster{0, w.op.end, w.op.begin})
		}
	}
	clusters = slices.DeleteFunc(clusters, func(c cluster) bool { return c.value == 0 })
	for _, rd := range r.reads {
		if rd.value != 0 {
			continue
		}
		possible := slices.ContainsFunc(sources, func(s cluster) bool {
			if rd.op.end < s.lastBegin {
				return false
			}
			both := cluster{0, min(s.firstEnd, rd.op.end), max(s.lastBegin, rd.op.begin)}
			return !slices.ContainsFunc(clusters, both.conflicts)
		})
		if !possible {
			return r.violation(fmt.Sprintf("zeros were read at %s, sent at %v, when a write was there", rd.op.where, rd.op.began.Round(time.Microsecond)), 0)
		}
	}
	return nil
}

// shown bounds the operations that a violation lists.
const shown = 40

// violation lists the history of a block around the values in question; without any, all of it.
func (r *register) violation(what string, values ...Value) error {
	all := slices.Concat(r.writes, r.reads)
	slices.SortFunc(all, func(a, b touch) int { return cmp.Compare(a.op.begin, b.op.begin) })
	first, last := len(all), 0
	for i, t := range all {
		if len(values) == 0 || slices.Contains(values, t.value) {
			first, last = min(first, i), max(last, i)
		}
	}
	list := all[max(0, min(first, last)-4):min(len(all), last+5)]
	if len(list) > shown {
		// The middle says the least: what the values meant shows where they came and where they went.
		list = slices.Concat(list[:shown/2], list[len(list)-shown/2:])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "block %d: %s", r.block, what)
	for _, t := range list {
		fmt.Fprintf(&b, "\n  value %d: %s", t.value, t.op.text())
	}
	return errors.New(b.String())
}

// summarise joins the first few of many faults.
func summarise(bad []error) error {
	if more := len(bad) - 5; more > 0 {
		bad = append(bad[:5:5], fmt.Errorf("and %d more", more))
	}
	return errors.Join(bad...)
}
