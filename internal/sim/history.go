package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// OpID is one operation of a client, numbered from 0 in the order in which they began.
type OpID int32

// OpKind is what a client asked for.
type OpKind uint8

const (
	OpRead OpKind = iota
	OpWrite
	OpZero // TRIM or WRITE_ZEROES: a write of the value 0
	OpFlush
	opContent // what a replica holds at the end, taken as a read
)

var opKindNames = [...]string{"read", "write", "zero", "flush", "content"}

func (k OpKind) String() string {
	if int(k) < len(opKindNames) {
		return opKindNames[k]
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// Outcome is what is known of an operation that was not answered with success.
type Outcome uint8

const (
	NotDone Outcome = iota // it certainly had no effect and never will
	MayHave                // it took effect by now, or never will
	MayLand                // it took effect, or may yet at any time
)

// opState is where an operation stands; all but opOpen are for good.
//
//	          Done     Failed(NotDone)  Failed(MayHave)  Failed(MayLand)
//	opOpen -> opDone   opVoid           opMayHave        opMayLand
type opState uint8

const (
	opOpen opState = iota
	opDone
	opVoid
	opMayHave
	opMayLand
)

// histSeq orders what clients saw: each call of the History takes the next number. Times alone would
// not do: one instant of the simulation holds many events, each after the one that caused it.
type histSeq int32

const (
	seqBefore histSeq = -1 // earlier than everything
	seqNever  histSeq = math.MaxInt32
)

// clientOp is one operation as its client saw it.
type clientOp struct {
	kind           OpKind
	fua            bool
	state          opState
	begin, end     histSeq
	beganAt, ended time.Duration
	value          uint64
	ext            bitmap.Extent
}

// histRestart is a moment at which the histories of the sectors begin anew.
type histRestart struct {
	seq  histSeq
	at   time.Duration
	what string
}

// History is what the clients saw, and whether it is right: a device is right when each sector is a
// linearizable register. Done judges every read as it ends; Check judges the whole once more, with a
// checker that shares nothing with the first but the list of operations.
//
// # Model
//
// A value stands for one write, so a read names the write whose bytes it saw. The write of a value
// and the reads of it form a cluster. Two moments of a cluster decide everything: the first end of
// one of its operations, by which the value was there, and the last begin, until which it had to be.
//
//	a comes before b   when   first end of a < last begin of b
//
// A history of unique values is linearizable if and only if no two clusters come before each other
// and no read ends before its write begins (Gibbons and Korach, Testing Shared Memories, 1997). A
// read can be judged at once, in the number of writes to its sector.
//
// Zeros are no unique value. A read of 0 is right when one of the writes of 0 could be its source by
// the same rule; when only one could, it joins the cluster of that one. What is left open by that,
// Check decides. The same holds for every value that more than one operation writes.
//
// # A loss that is allowed
//
// LossPoint begins the histories anew. A sector then holds a value that no write promised stable had
// to follow; the first read that names it decides, and from then on it counts as promised itself: a
// disk that has shown what it kept does not change its mind. Writes still open, or able to land, are
// operations of the new history as well. One that is acknowledged after the loss took effect after it,
// or before it and beneath what survived.
//
// # Cells
//
// Consecutive sectors with the same history share one cell: it is split only where an operation
// ends inside it or a read returns different values. Sectors never written need nothing at all.
type History struct {
	ops      []clientOp
	events   []OpID // by histSeq: whose begin or end it is
	cells    []*histCell
	slab     []histCell
	flushed  histSeq // writes acknowledged before it are promised stable
	restarts []histRestart
}

// Violation says which read was wrong, and why.
type Violation struct {
	Op     OpID
	Sector int64
	Text   string
}

func (v *Violation) Error() string { return v.Text }

// NewHistory returns the history of a device of size bytes that holds zeros.
func NewHistory(size int64) *History {
	h := &History{flushed: seqBefore}
	c := h.newCell()
	c.end = size / SectorSize
	c.sources = []histSource{baseSource(0)}
	h.cells = append(h.cells, c)
	return h
}

// Grow makes the device size bytes long. The new space reads as zeros.
func (h *History) Grow(size int64) {
	last := h.cells[len(h.cells)-1].end
	if size/SectorSize <= last {
		return
	}
	c := h.newCell()
	c.first, c.end = last, size/SectorSize
	c.sources = []histSource{baseSource(0)}
	h.cells = append(h.cells, c)
}

// tick takes the next moment; op is what begins or ends then.
func (h *History) tick(op OpID) histSeq {
	h.events = append(h.events, op)
	return histSeq(len(h.events) - 1)
}

// Begin notes that a client has asked for something. A write has a value of its own, not 0, for all
// its sectors; OpZero has none. A client that sends a request again after a reconnect either lets the
// operation stay open, and then it takes effect once, or calls Failed and Begin, and it may twice.
func (h *History) Begin(kind OpKind, e bitmap.Extent, value uint64, fua bool, now time.Duration) OpID {
	if (e.Off|e.Len)%SectorSize != 0 || kind == OpWrite == (value == 0) {
		panic(fmt.Sprintf("sim: %v of value %d at %v", kind, value, e))
	}
	op := OpID(len(h.ops))
	seq := h.tick(op)
	h.ops = append(h.ops, clientOp{kind: kind, fua: fua, begin: seq, end: seqNever, beganAt: now, value: value, ext: e})
	if kind == OpWrite || kind == OpZero {
		i, end := h.cover(e)
		for ; i < end; i++ {
			c := h.cells[i]
			c.written = true
			c.sources = append(c.sources, histSource{value: value, op: op, limit: seqNever, seen: seqNever, held: seq})
		}
	}
	return op
}

// Done notes an answer of success. from names who gave it; values are those of a read, one a sector.
// The error is a *Violation.
func (h *History) Done(op OpID, from string, values []uint64, now time.Duration) error {
	o := h.end(op, opDone, now)
	switch o.kind {
	case OpRead:
		return h.judgeRead(op, from, values)
	case OpFlush:
		// Begun before a loss, it promises nothing: what it was asked to keep may be gone.
		h.flushed = max(h.flushed, o.begin)
	default:
		h.eachSource(op, func(_ *histCell, x *histSource) {
			x.limit = o.end
			if !x.early {
				x.seen = min(x.seen, o.end)
			}
		})
	}
	return nil
}

// Failed notes that the operation ended without success: an error, or a connection that closed and no
// one who sends it again. The error is a *Violation: a write that certainly had no effect was read.
func (h *History) Failed(op OpID, outcome Outcome, now time.Duration) error {
	o := h.end(op, opState(outcome)+opVoid, now)
	if o.kind != OpWrite && o.kind != OpZero || outcome == MayLand {
		return nil
	}
	var bad *Violation
	h.eachSource(op, func(c *histCell, x *histSource) {
		switch {
		case outcome == MayHave:
			x.limit = o.end
		case x.seen != seqNever && bad == nil:
			bad = h.readOfVoid(c, x)
		case x.seen == seqNever:
			c.remove(x)
		}
	})
	if bad != nil {
		return bad
	}
	return nil
}

// end closes an operation.
func (h *History) end(op OpID, state opState, now time.Duration) *clientOp {
	o := &h.ops[op]
	if o.state != opOpen {
		panic(fmt.Sprintf("sim: op %d ended twice: state %d, now %d", op, o.state, state))
	}
	o.state, o.end, o.ended = state, h.tick(op), now
	return o
}

// LossPoint notes that the fault atlas allows a loss here: every member lost power.
func (h *History) LossPoint(now time.Duration) {
	h.restart(now, "the loss point")
	for _, c := range h.cells {
		if c.written {
			h.lose(c)
		}
	}
}

// Forced notes that an operator made a stale replica primary: what it holds is what the device holds.
func (h *History) Forced(now time.Duration, contents func(sector int64) uint64) {
	h.restart(now, "the forced promotion")
	for i := 0; i < len(h.cells); i++ { // grows by the cells that are split
		c := h.cells[i]
		if !c.written {
			continue
		}
		v := contents(c.first)
		for s := c.first + 1; s < c.end; s++ {
			if contents(s) != v {
				h.split(i, s)
				break
			}
		}
		h.force(c, v)
	}
}

func (h *History) restart(now time.Duration, what string) {
	h.restarts = append(h.restarts, histRestart{h.tick(noOp), now, what})
}

// FinalContent judges what a replica holds when the run is over, as a read of everything that begins
// now. The error is a *Violation.
func (h *History) FinalContent(from string, now time.Duration, contents func(sector int64) uint64) error {
	size := h.cells[len(h.cells)-1].end
	op := OpID(len(h.ops))
	all := bitmap.Extent{Len: size * SectorSize}
	h.ops = append(h.ops, clientOp{kind: opContent, begin: h.tick(op), beganAt: now, ext: all})
	h.end(op, opDone, now)
	for i := 0; i < len(h.cells); i++ { // grows by the cells that are split
		c := h.cells[i]
		v := contents(c.first)
		for s := c.first + 1; s < c.end; s++ {
			if w := contents(s); w != v {
				if c.written {
					h.split(i, s)
					break
				}
				return h.explain(op, from, c, s, w)
			}
		}
		if err := h.judge(op, from, c, v); err != nil {
			return err
		}
	}
	return nil
}
