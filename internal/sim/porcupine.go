package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Check judges the whole history with porcupine, cell by cell and era by era, and takes nothing from
// what Done found out on the way but the list of what began and ended. The error is a *Violation.
//
// What goes into the check, and why no more:
//
//   - The sectors of a cell were touched by the same operations and read as the same values, so one
//     stands for all.
//   - An era in which nothing was read is right.
//   - A write of unknown outcome whose value nobody read is left out. If there is an order with it,
//     then the one that leaves it out is right too, for no read needs it; and the other way round it
//     can be put last. That holds for a value of several writes as well, as long as nobody read it.
//   - A write of unknown outcome that alone wrote its value and was read took effect before the first
//     of those reads ended, so it returns there. Writes that share their value, zeros above all, stay
//     open to the end, or, if they had their effect by some time or never, are a "maybe": a step
//     after which the register may hold one more value.
//   - What a cell held at the beginning is one value. One that was read, and that no write explains,
//     it must be; failing that each that was read is tried; failing that any will do.
//
// Cells are small, ten to a hundred operations with a few open at a time, and only where operations
// overlap is there an order to search for. So the search is short and has no time limit: what it says
// is exact. A stretch in which more than mostOpen writes stay open, or more than mostAtOnce operations
// are under way at once, is left to what Done found out: the search would be exponential in them.
func (h *History) Check() error {
	k := histChecker{h: h}
	for _, c := range h.cells {
		for i := range c.ended {
			if err := k.check(c, &c.ended[i]); err != nil {
				return err
			}
		}
		if err := k.check(c, &c.era); err != nil {
			return err
		}
	}
	return nil
}

// registerState is what a sector may hold. States and operations go into interfaces; pointers to what
// is there already cost no allocation.
type registerState struct {
	value int    // index of a value
	maybe uint64 // bits of the shared values that it may hold instead
}

// registerOp is an operation on one sector.
type registerOp struct {
	kind  registerKind
	bit   uint64         // of the value, if it is shared and in doubt; else 0
	after *registerState // the sector holds the value, for certain

	call, end histSeq
}

type registerKind uint8

const (
	registerRead registerKind = iota
	registerWrite
	registerMaybe // a write, or nothing
)

// step returns what the sector holds after op, nil if op cannot have come now.
func (s *registerState) step(op *registerOp) *registerState {
	switch {
	case op.kind == registerMaybe && s.value != op.after.value:
		return &registerState{s.value, s.maybe | op.bit}
	case op.kind == registerMaybe:
		return s
	case op.kind == registerRead && s.value != op.after.value && s.maybe&op.bit == 0:
		return nil
	}
	return op.after
}

// registerModel is one sector that holds first.
func registerModel(first *registerState) porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return first },
		Equal: func(a, b any) bool { return *a.(*registerState) == *b.(*registerState) },
		Step: func(state, input, _ any) (bool, any) {
			after := state.(*registerState).step(input.(*registerOp))
			return after != nil, after
		},
	}
}

// histChecker holds the memory of one Check.
type histChecker struct {
	h       *History
	values  []eraValue
	places  []int           // in values: of the sources of an era, then of its reads
	states  []registerState // of the values; these do not move while ops point there
	ops     []registerOp
	stretch []porcupine.Operation
	bits    int // given to values
	edges   []int64
}

// ordered reports whether there is an order for k.ops in a sector that holds what it says.
//
// Most operations overlap no other one. Their place in the order is known, and after such a write the
// sector holds one value, whatever came before: a search, where one is needed, goes no further.
func (k *histChecker) ordered(holds *registerState) bool {
	slices.SortFunc(k.ops, func(a, b registerOp) int { return cmp.Compare(a.call, b.call) })
	begin := 0 // of what is not judged yet
	for i := 0; i < len(k.ops); {
		op, over, next := &k.ops[i], k.ops[i].end, i+1
		for ; next < len(k.ops) && k.ops[next].call <= over; next++ {
			over = max(over, k.ops[next].end)
		}
		switch alone := next == i+1; {
		case alone && op.kind == registerWrite:
			if !k.search(holds, k.ops[begin:i]) {
				return false
			}
			holds, begin = op.after, next
		case alone && begin == i:
			if holds = holds.step(op); holds == nil {
				return false
			}
			begin = next
		}
		i = next
	}
	return k.search(holds, k.ops[begin:])
}

// search reports whether there is an order for ops, or the search for one is not to be tried. Mostly
// it is the one in which they began; porcupine is asked for another.
func (k *histChecker) search(holds *registerState, ops []registerOp) bool {
	if inOrder(holds, ops) || k.crowded(ops) {
		return true
	}
	k.stretch = k.stretch[:0]
	for i := range ops {
		o := &ops[i]
		k.stretch = append(k.stretch, porcupine.Operation{Input: o, Call: int64(o.call), Return: int64(o.end)})
	}
	return porcupine.CheckOperations(registerModel(holds), k.stretch)
}

func inOrder(holds *registerState, ops []registerOp) bool {
	for i := range ops {
		if holds = holds.step(&ops[i]); holds == nil {
			return false
		}
	}
	return true
}

const (
	mostOpen   = 6
	mostAtOnce = 9
)

func (k *histChecker) crowded(ops []registerOp) bool {
	k.edges = k.edges[:0]
	open := 0
	for i := range ops {
		if ops[i].end == seqNever {
			open++
		}
		k.edges = append(k.edges, 2*int64(ops[i].call)+1, 2*int64(ops[i].end)) // of one moment, ends come first
	}
	slices.Sort(k.edges)
	most, now := 0, 0
	for _, e := range k.edges {
		if e%2 == 0 {
			now--
		} else if now++; now > most {
			most = now
		}
	}
	return open > mostOpen || most > mostAtOnce
}

// eraValue is a value that occurs in an era.
type eraValue struct {
	value   uint64
	sources int     // that have it: operations, and what the cell held at the beginning
	written bool    // by an operation
	read    histSeq // the first end of a read of it; seqNever: nobody read it
	bit     uint64  // of registerState.maybe
}

// mostInDoubt is the number of values that may be in doubt: the bits of registerState.maybe.
const mostInDoubt = 64

// check judges one era of a cell.
func (k *histChecker) check(c *histCell, e *era) error {
	if len(e.reads) == 0 {
		return nil
	}
	k.values, k.places, k.ops, k.bits = k.values[:0], k.places[:0], k.ops[:0], 0
	for i := range e.sources {
		v := k.value(e.sources[i].value)
		v.sources++
		v.written = v.written || e.sources[i].op != noOp
	}
	for _, r := range e.reads {
		v := k.value(r.value)
		v.read = min(v.read, k.h.ops[r.op].end)
	}
	k.states = slices.Grow(k.states[:0], len(k.values))[:len(k.values)]
	for i := range k.states {
		k.states[i] = registerState{value: i}
	}
	best := notBase
	for i := range e.sources {
		if x := &e.sources[i]; x.op != noOp {
			k.addWrite(e, x, k.places[i])
		} else {
			best = max(best, k.values[k.places[i]].rank())
		}
	}
	for i, r := range e.reads {
		o := &k.h.ops[r.op]
		k.add(registerRead, k.places[len(e.sources)+i], max(o.begin, e.start), o.end)
	}
	for i := range e.sources {
		at := k.places[i]
		if e.sources[i].op == noOp && k.values[at].rank() == best && k.ordered(&k.states[at]) {
			return nil
		}
	}
	return k.violation(c, e)
}

// value notes the place of a value, a new one when it is new. An era has few values, and what is
// looked for is mostly one of the last.
func (k *histChecker) value(v uint64) *eraValue {
	at := len(k.values) - 1
	for at >= 0 && k.values[at].value != v {
		at--
	}
	if at < 0 {
		at = len(k.values)
		k.values = append(k.values, eraValue{value: v, read: seqNever})
	}
	k.places = append(k.places, at)
	return &k.values[at]
}

func (k *histChecker) add(kind registerKind, place int, call, end histSeq) {
	k.ops = append(k.ops, registerOp{kind, k.values[place].bit, &k.states[place], call, end})
}

// baseRank is how much speaks for a value as what the cell held at the beginning. Only the values of
// the highest rank found need a try.
type baseRank uint8

const (
	notBase    baseRank = iota
	baseUnread          // changes nothing
	baseRead            // may be needed
	baseSure            // was read, and no operation wrote it
)

func (v *eraValue) rank() baseRank {
	switch {
	case v.read == seqNever:
		return baseUnread
	case v.written:
		return baseRead
	}
	return baseSure
}

func (k *histChecker) addWrite(e *era, x *histSource, place int) {
	o := &k.h.ops[x.op]
	call := max(o.begin, e.start)
	ended := e.over == 0 || o.end < e.over // in this era, if it did
	if o.state == opDone && ended && !x.early {
		k.add(registerWrite, place, call, o.end)
		return
	}
	v := &k.values[place]
	limit := seqNever
	if (o.state == opDone || o.state == opMayHave) && ended {
		limit = o.end
	}
	switch {
	case v.read == seqNever:
	case v.sources == 1:
		k.add(registerWrite, place, call, max(call, min(limit, v.read)))
	case limit == seqNever || v.bit == 0 && k.bits == mostInDoubt:
		k.add(registerWrite, place, call, seqNever)
	default:
		if v.bit == 0 {
			v.bit = 1 << k.bits
			k.bits++
		}
		k.add(registerMaybe, place, call, limit)
	}
}

// violation lists the history of the era that has no order.
func (k *histChecker) violation(c *histCell, e *era) error {
	var b strings.Builder
	fmt.Fprintf(&b, "sectors %d to %d are not linearizable", c.first, c.end-1)
	if e.start > 0 {
		for _, r := range k.h.restarts {
			if r.seq == e.start {
				fmt.Fprintf(&b, " after %s at %v", r.what, r.at)
			}
		}
	}
	b.WriteString(":")
	for i := range e.sources {
		if x := &e.sources[i]; x.op == noOp {
			fmt.Fprintf(&b, "\n  may have held %d", x.value)
		} else {
			fmt.Fprintf(&b, "\n  %s", k.h.Describe(x.op))
		}
	}
	for _, r := range e.reads {
		fmt.Fprintf(&b, "\n  %s: %d", k.h.Describe(r.op), r.value)
	}
	return &Violation{Op: e.reads[len(e.reads)-1].op, Sector: c.first, Text: b.String()}
}
