package history

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// step is an operation on one block, for porcupine.
type step struct {
	write bool
	value Value
}

var blockModel = porcupine.Model{
	Init: func() any { return Value(0) },
	Step: func(state, input, _ any) (bool, any) {
		s := input.(step)
		if s.write {
			return true, s.value
		}
		return state.(Value) == s.value, state
	},
}

// Linearizable judges the history block by block with porcupine, for at most limit. It returns how
// many blocks it did not get to or could not decide in time.
func (h *History) Linearizable(limit time.Duration) (undecided int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	deadline := time.Now().Add(limit)
	var bad []error
	for _, r := range h.registers() {
		if r.untouched() {
			continue
		}
		// No block may take all the time from the others: one may have many trims without an answer.
		left := min(time.Until(deadline), max(limit/10, time.Second))
		if left <= 0 {
			undecided++
			continue
		}
		switch porcupine.CheckOperationsTimeout(blockModel, r.operations(), left) {
		case porcupine.Illegal:
			bad = append(bad, r.violation("its operations have no order"))
		case porcupine.Unknown:
			undecided++
		}
	}
	return undecided, summarise(bad)
}

// untouched reports whether nobody wrote a block and everybody read zeros: most of a device is so.
func (r *register) untouched() bool {
	return len(r.writes) == 0 && !slices.ContainsFunc(r.reads, func(t touch) bool { return t.value != 0 })
}

// operations is the history of a block as porcupine wants it.
//
// A write of unknown outcome whose value nobody read is left out: if there is an order with it, the
// order without it is right too. One with a value of its own that was read took effect before the
// first of those reads ended, so it ends there. Zeros of unknown outcome stay open to the end if
// anybody read zeros after their begin.
func (r *register) operations() []porcupine.Operation {
	seen := map[Value]moment{} // the first end of a read
	lastZero := before
	for _, rd := range r.reads {
		if m, ok := seen[rd.value]; !ok || rd.op.end < m {
			seen[rd.value] = rd.op.end
		}
		if rd.value == 0 {
			lastZero = max(lastZero, rd.op.end)
		}
	}
	ops := make([]porcupine.Operation, 0, len(r.writes)+len(r.reads))
	add := func(o *op, s step, end moment) {
		ops = append(ops, porcupine.Operation{Input: s, Call: int64(o.begin), Return: int64(end)})
	}
	for _, w := range r.writes {
		first, read := seen[w.value]
		switch {
		case w.op.end != never:
			add(w.op, step{true, w.value}, w.op.end)
		case w.op.kind == Zero && lastZero > w.op.begin:
			add(w.op, step{true, 0}, never)
		case w.op.kind == Write && read:
			// A read that ends before the write begins is wrong; max lets porcupine say so.
			add(w.op, step{true, w.value}, max(first, w.op.begin))
		}
	}
	for _, rd := range r.reads {
		if r.mixed(rd) {
			continue
		}
		add(rd.op, step{false, rd.value}, rd.op.end)
	}
	return ops
}
