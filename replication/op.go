package replication

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// opKind tells whose operation an op is.
type opKind uint8

const (
	opFree      opKind = iota
	opNew              // its ID is given out, nothing has come under it yet
	opRead             // client
	opWrite            // client: write, write-zeroes, trim
	opFlush            // client
	opApply            // secondary: a frame to apply
	opApplySync        // secondary: the primary's flush
	opHash             // secondary: hashes asked for
	opCopy             // primary: a run to copy to one peer
	opCompare          // primary: a run to compare with one peer
	opVerdict          // primary: the local half of a compare, holds the peer's hashes
	opKept             // secondary: the fdatasync of a handshake
)

// opState tells what an op waits for. Every op is in exactly one of these:
//
//	fresh -> held -> gated -> locking -> logging -> started -> (healing | leasing) -> free
//
// Stages that need no waiting are passed through at once. orphan is an op whose local I/O goes
// on although nobody waits for its result any more; it ends at its EvLocalDone (rule 5).
type opState uint8

const (
	opFresh   opState = iota
	opHeld            // the replica does not admit requests now
	opGated           // a suspect block in the range
	opLocking         // earlier overlapping operations
	opLogging         // activity log
	opStarted         // local I/O or acks
	opHealing         // failed locally; the members are being made equal before the answer
	opLeasing         // read is done, the lease has lapsed
	opOrphan
)

var opStateNames = [...]string{"fresh", "held", "gated", "locking", "logging", "started", "healing", "leasing", "orphan"}

func (s opState) String() string { return opStateNames[s] }

// op is one operation. It lives in the arena until free.
type op struct {
	gen      uint32
	kind     opKind
	state    opState
	code     Op
	flags    OpFlags
	peer     Peer
	locked   bool // has an entry in the lock table
	logged   bool // holds references in the activity log
	local    bool // local I/O under way
	verify   bool
	told     told // what its client has heard already
	blockers int32
	need     uint32 // counting peers whose acknowledgement is awaited, a bit each
	seq      uint64
	logGen   uint64
	ext      bitmap.Extent
	client   ClientID
	number   uint64 // of the client's session
	other    ID     // opVerdict: the compare it belongs to
	err      error
	began    time.Duration // the request arrived
	localAt  time.Duration // the local I/O began, by Resource.awake
	prev     int32         // in the list of started writes; -1 at an end
	next     int32
}

// arena owns all ops. Indices are dense and reused; gen tells the uses apart.
type arena struct {
	ops  []op
	free []int32
	live int

	givenUp int // writes under way whose clients wait for them no more
}

func (a *arena) alloc() (int32, ID) {
	var i int32
	if n := len(a.free); n > 0 {
		i = a.free[n-1]
		a.free = a.free[:n-1]
	} else {
		i = int32(len(a.ops))
		a.ops = append(a.ops, op{})
	}
	gen := a.ops[i].gen + 1
	if gen == 0 {
		gen = 1
	}
	a.ops[i] = op{gen: gen, kind: opNew, prev: -1, next: -1, peer: -1}
	a.live++
	return i, a.id(i)
}

func (a *arena) id(i int32) ID { return ID(a.ops[i].gen)<<32 | ID(uint32(i)) }

// find returns the live op of id, or nil when that use of the index has ended.
func (a *arena) find(id ID) (int32, *op) {
	i := id.Index()
	if i >= len(a.ops) || a.id(int32(i)) != id || a.ops[i].kind <= opNew {
		return -1, nil
	}
	return int32(i), &a.ops[i]
}

// claim returns the freshly allocated op of id, which the shell got from NewID.
func (a *arena) claim(id ID) (int32, *op) {
	i := id.Index()
	if i >= len(a.ops) || a.id(int32(i)) != id || a.ops[i].kind != opNew {
		panic(fmt.Sprintf("core: id %#x was not obtained from NewID", uint64(id)))
	}
	return int32(i), &a.ops[i]
}

func (a *arena) release(i int32) {
	if o := &a.ops[i]; o.told != toldNothing && o.kind == opWrite {
		a.givenUp--
	}
	a.ops[i].kind, a.ops[i].state = opFree, opFresh
	a.free = append(a.free, i)
	a.live--
}

// opList is a doubly linked list through op.prev and op.next, in order of insertion.
type opList struct {
	head, tail int32
	n          int
}

func newOpList() opList { return opList{head: -1, tail: -1} }

func (l *opList) push(a *arena, i int32) {
	o := &a.ops[i]
	o.prev, o.next = l.tail, -1
	if l.tail >= 0 {
		a.ops[l.tail].next = i
	} else {
		l.head = i
	}
	l.tail = i
	l.n++
}

func (l *opList) remove(a *arena, i int32) {
	o := &a.ops[i]
	if o.prev >= 0 {
		a.ops[o.prev].next = o.next
	} else {
		l.head = o.next
	}
	if o.next >= 0 {
		a.ops[o.next].prev = o.prev
	} else {
		l.tail = o.prev
	}
	o.prev, o.next = -1, -1
	l.n--
}
