package bitmap

// regionList is a queue of regions, linked through prev and next. A region is in one at most.
type regionList struct {
	head, tail *region
	len        int
}

// first returns the region that was pushed longest ago. The list must not be empty.
func (q *regionList) first() *region { return q.head }

func (q *regionList) push(r *region) {
	r.prev, r.next = q.tail, nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
	q.len++
}

func (q *regionList) remove(r *region) {
	if r.prev == nil {
		q.head = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		q.tail = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	q.len--
}

// regionHeap is a binary heap with the lowest seq first; equal numbers by index, so that the order
// of evictions is the same in every run. pos of each member is its place.
//
// container/heap would do, at the price of an interface call for each comparison.
type regionHeap []*region

func (h regionHeap) less(i, j int) bool {
	if h[i].seq != h[j].seq {
		return h[i].seq < h[j].seq
	}
	return h[i].index < h[j].index
}

func (h regionHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = int32(i), int32(j)
}

func (h *regionHeap) push(r *region) {
	r.pos = int32(len(*h))
	*h = append(*h, r)
	h.up(len(*h) - 1)
}

func (h *regionHeap) remove(r *region) {
	i, last := int(r.pos), len(*h)-1
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
	r.pos = -1
}

func (h regionHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h regionHeap) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return
		}
		h.swap(i, child)
		i = child
	}
}
