package device

import "sync"

// fifo is a queue between those who hold the device's mutex, who must not wait, and goroutines
// that do wait. It grows; what bounds it is said where it is declared.
type fifo[T any] struct {
	mu     sync.Mutex
	more   sync.Cond // L is &mu
	ring   []T       // length is a power of two, or 0
	head   int       // index of the oldest
	n      int       // elements
	closed bool
}

func (q *fifo[T]) init() { q.more.L = &q.mu }

// push adds v and never waits.
func (q *fifo[T]) push(v T) {
	q.mu.Lock()
	if q.n == len(q.ring) {
		q.grow()
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = v
	q.n++
	q.mu.Unlock()
	q.more.Signal()
}

func (q *fifo[T]) grow() {
	bigger := make([]T, max(16, 2*len(q.ring)))
	k := copy(bigger, q.ring[q.head:])
	copy(bigger[k:], q.ring[:q.head])
	q.ring, q.head = bigger, 0
}

// pop waits for an element and removes it; false when the queue is closed and empty.
func (q *fifo[T]) pop() (v T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 {
		if q.closed {
			return v, false
		}
		q.more.Wait()
	}
	var none T
	v, q.ring[q.head] = q.ring[q.head], none
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return v, true
}

// close makes pop return false once the queue is empty.
func (q *fifo[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}

// runWorker does queued local I/O until the queue is closed.
func (d *Device) runWorker() {
	for {
		j, ok := d.work.pop()
		if !ok {
			return
		}
		t := d.begin(true)
		t.job = j // where the core may point at: a variable of this loop would be allocated
		d.run(&t.job)
		t.lock()
		t.complete(&t.job)
		t.unlock()
		t.job = job{}
		t.finish()
	}
}
