package history

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Block is the size of a block, in bytes.
const Block = 4096

// Kind is what a client asked for.
type Kind uint8

const (
	Read Kind = iota
	Write
	Zero    // TRIM or WRITE_ZEROES
	Flush   // touches no block; recorded for its times
	content // what a replica holds, taken as a read
)

var kindNames = [...]string{"read", "write", "zero", "flush", "content"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Value names the write whose bytes a block holds; 0 is zeros.
type Value uint64

// Values of blocks that hold the bytes of no write.
const (
	Torn    Value = math.MaxUint64     // mixed; right where a read meets a write
	Foreign Value = math.MaxUint64 - 1 // of another block; never right
)

// ID names an operation of a History.
type ID int

// moment numbers begins and ends. Times would not do: two events may have the same.
type moment int64

const (
	before moment = -1            // earlier than everything
	never  moment = math.MaxInt64 // later than everything
)

// op is one operation, as its client saw it.
type op struct {
	kind   Kind
	fua    bool
	failed bool   // answered with an error; end stays never
	where  string // who was asked
	block  int64
	count  int64 // of blocks
	value  Value // of a write
	values []Value
	odd    error // why one of values is Torn or Foreign
	begin  moment
	end    moment // never: not answered with success
	began  time.Duration
	ended  time.Duration
}

// History is what clients saw. Its methods may be called by several goroutines.
type History struct {
	blocks int64
	start  time.Time

	mu     sync.Mutex
	now    moment
	ops    []op
	value  Value
	acked  []time.Duration // when writes were acknowledged, in order
	reads  int
	failed []error
}

// New returns the history of a device of so many blocks that holds zeros.
func New(blocks int64) *History { return &History{blocks: blocks, start: time.Now()} }

// Blocks returns the size of the device, in blocks.
func (h *History) Blocks() int64 { return h.blocks }

// Now returns the time since the history began, on the clock of all its times.
func (h *History) Now() time.Duration { return time.Since(h.start) }

// BeginWrite notes that a block is about to be written at a server, and returns the value to write.
func (h *History) BeginWrite(where string, block int64, fua bool) (ID, Value) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.value++
	return h.begin(op{kind: Write, where: where, block: block, count: 1, value: h.value, fua: fua}), h.value
}

// BeginZero notes that a TRIM or WRITE_ZEROES is about to be sent.
func (h *History) BeginZero(where string, block, count int64) ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begin(op{kind: Zero, where: where, block: block, count: count})
}

// BeginRead notes that a read is about to be sent.
func (h *History) BeginRead(where string, block, count int64) ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begin(op{kind: Read, where: where, block: block, count: count})
}

// BeginFlush notes that a flush is about to be sent.
func (h *History) BeginFlush(where string) ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begin(op{kind: Flush, where: where})
}

// begin numbers an operation. Caller holds mu.
func (h *History) begin(o op) ID {
	h.now++
	o.begin, o.end, o.began = h.now, never, h.Now()
	h.ops = append(h.ops, o)
	return ID(len(h.ops) - 1)
}

// Done notes the answer to anything but a read.
func (h *History) Done(id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.end(id); o.kind == Write {
		h.acked = append(h.acked, o.ended)
	}
}

// DoneRead notes the answer to a read: the value of each of its blocks, and why one of them is Torn or Foreign.
func (h *History) DoneRead(id ID, values []Value, odd error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.end(id)
	o.values, o.odd = append([]Value(nil), values...), odd
	if int64(len(values)) != o.count {
		panic(fmt.Sprintf("history: read of %d blocks with %d values", o.count, len(values)))
	}
	h.reads++
}

// end numbers the end of an operation. Caller holds mu.
func (h *History) end(id ID) *op {
	o := &h.ops[id]
	if o.end != never || o.failed {
		panic(fmt.Sprintf("history: a second answer to %s", o.text()))
	}
	h.now++
	o.end, o.ended = h.now, h.Now()
	return o
}

// Failed notes that an operation was answered with an error. What it did is unknown, as for one
// without an answer.
func (h *History) Failed(id ID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &h.ops[id]
	o.failed, o.ended = true, h.Now()
	h.failed = append(h.failed, fmt.Errorf("%s: %w", o.text(), err))
}

// Errors returns the answers that were errors, in the order of their arrival.
func (h *History) Errors() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]error(nil), h.failed...)
}

// Acked returns how many writes were acknowledged.
func (h *History) Acked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acked)
}

// Answered returns how many of the operations that were sent to a server since a time it has answered
// with success.
func (h *History) Answered(where string, since time.Duration) (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.ops {
		if o := &h.ops[i]; o.end != never && o.began >= since && o.where == where {
			count++
		}
	}
	return count
}

// Counts says how much there is to judge.
func (h *History) Counts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := 0
	for i := range h.ops {
		if h.ops[i].end == never {
			open++
		}
	}
	return fmt.Sprintf("%d operations, %d writes acknowledged, %d reads, %d of unknown outcome", len(h.ops), len(h.acked), h.reads, open)
}

// LongestGap returns the longest time without an acknowledged write that reaches into the window; see LongestGap.
func (h *History) LongestGap(from, to time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return LongestGap(h.acked, from, to)
}

// LongestGap returns the longest time between two of acked, which are in order, that reaches into the window: from the
// last one before it to the first one after it. Where there is none before or after, the window's own end counts.
func LongestGap(acked []time.Duration, from, to time.Duration) time.Duration {
	last, longest := from, time.Duration(0)
	for _, at := range acked {
		if at <= from {
			last = at
			continue
		}
		longest = max(longest, at-last)
		if last = at; at >= to {
			return longest
		}
	}
	return max(longest, to-last)
}

// text describes an operation for an operator who looks for what went wrong.
func (o *op) text() string {
	what := o.kind.String()
	switch o.kind {
	case Write:
		what = fmt.Sprintf("write %d to block %d", o.value, o.block)
		if o.fua {
			what += " with FUA"
		}
	case Flush:
	default:
		what = fmt.Sprintf("%s of %d blocks from %d on", o.kind, o.count, o.block)
	}
	until := "never answered"
	switch {
	case o.failed:
		until = fmt.Sprintf("failed at %v", o.ended.Round(time.Microsecond))
	case o.end != never:
		until = fmt.Sprintf("answered at %v", o.ended.Round(time.Microsecond))
	}
	return fmt.Sprintf("%s at %s, sent at %v, %s", what, o.where, o.began.Round(time.Microsecond), until)
}
