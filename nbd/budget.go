package nbd

import "sync"

// budget bounds what one connection may owe its client. The reader takes before it allocates;
// completed requests and sent bytes give back. Only the reader waits, so one Signal is enough.
type budget struct {
	maxRequests int
	maxBytes    int64

	mu       sync.Mutex
	cond     sync.Cond // L is &mu
	waiting  bool
	closed   bool
	requests int   // submitted or gathered, not replied
	bytes    int64 // payloads held and replies not yet taken by the kernel
}

func (b *budget) init(maxRequests int, maxBytes int64) {
	b.maxRequests, b.maxBytes = maxRequests, maxBytes
	b.cond.L = &b.mu
}

// take counts one request of n bytes in and reports whether there was room; with wait, it waits
// for room and returns false only when the budget was closed. A single request of any size fits
// into an empty budget.
func (b *budget) take(n int64, wait bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := func() bool {
		return b.requests >= b.maxRequests || b.bytes > 0 && b.bytes+n > b.maxBytes
	}
	if wait {
		b.waitWhile(func() bool { return full() && !b.closed })
	}
	if b.closed || full() {
		return false
	}
	b.requests++
	b.bytes += n
	return true
}

// put gives back what take counted: the requests were completed, the bytes are held no more.
func (b *budget) put(requests int, bytes int64) {
	b.mu.Lock()
	b.requests -= requests
	b.bytes -= bytes
	if b.waiting {
		b.cond.Signal()
	}
	b.mu.Unlock()
}

// sent is put for bytes that the kernel took.
func (b *budget) sent(bytes int) { b.put(0, int64(bytes)) }

// waitSent waits until every request is replied and every reply sent, or the budget is closed.
func (b *budget) waitSent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waitWhile(func() bool { return !b.closed && (b.requests > 0 || b.bytes > 0) })
}

// waitReplied waits until every request is replied, closed or not.
func (b *budget) waitReplied() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waitWhile(func() bool { return b.requests > 0 })
}

// waitWhile waits while cond holds. Caller holds mu and is the reader.
func (b *budget) waitWhile(cond func() bool) {
	b.waiting = true
	for cond() {
		b.cond.Wait()
	}
	b.waiting = false
}

// close makes take fail and ends waitSent.
func (b *budget) close() {
	b.mu.Lock()
	b.closed = true
	b.cond.Signal()
	b.mu.Unlock()
}

// load returns what is owed now.
func (b *budget) load() (requests int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests, b.bytes
}
