package attach

import "github.com/lockstep-ha/lockstep/nbd"

// table holds the unfinished requests in the order in which they came. A request's cookie upstream is
// its slot and the slot's generation, so an answer that comes twice, or that nobody asked for, is known
// as such. Its owner's lock guards it.
type table struct {
	slots      []slot
	free       []int32
	head, tail int32 // indexes, none when empty
	n          int   // requests
}

const none = int32(-1)

type slot struct {
	req        *nbd.Request // nil: free
	prev, next int32        // indexes, none at the ends
	gen        uint32
	sent       bool // in the present session
	before     bool // in this one or an earlier one
	orphan     bool // its connection has ended: nobody waits for the answer
}

func newTable() table { return table{head: none, tail: none} }

// add appends r and returns its slot.
func (t *table) add(r *nbd.Request) int32 {
	var i int32
	if k := len(t.free); k > 0 {
		i, t.free = t.free[k-1], t.free[:k-1]
	} else {
		t.slots = append(t.slots, slot{})
		i = int32(len(t.slots) - 1)
	}
	s := &t.slots[i]
	*s = slot{req: r, prev: t.tail, next: none, gen: s.gen + 1}
	if t.tail == none {
		t.head = i
	} else {
		t.slots[t.tail].next = i
	}
	t.tail = i
	t.n++
	return i
}

// take removes the request in slot i.
func (t *table) take(i int32) *nbd.Request {
	s := &t.slots[i]
	r := s.req
	if s.prev == none {
		t.head = s.next
	} else {
		t.slots[s.prev].next = s.next
	}
	if s.next == none {
		t.tail = s.prev
	} else {
		t.slots[s.next].prev = s.prev
	}
	s.req = nil
	t.free = append(t.free, i)
	t.n--
	return r
}

// takeIf removes those that match, oldest first, and returns them.
func (t *table) takeIf(match func(*slot) bool) (out []*nbd.Request) {
	for i := t.head; i != none; {
		next := t.slots[i].next
		if match(&t.slots[i]) {
			out = append(out, t.take(i))
		}
		i = next
	}
	return out
}

func (t *table) cookie(i int32) uint64 { return uint64(t.slots[i].gen)<<32 | uint64(uint32(i)) }

// find returns the slot of a request that was sent in the present session, none if cookie is not of one.
func (t *table) find(cookie uint64) int32 {
	i := uint32(cookie)
	if uint64(i) >= uint64(len(t.slots)) {
		return none
	}
	if s := &t.slots[i]; s.req == nil || s.gen != uint32(cookie>>32) || !s.sent {
		return none
	}
	return int32(i)
}
