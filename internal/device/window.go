package device

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// window bounds the bytes of the requests in flight. Waiters are admitted in the order in which
// they came, so a large request is not starved by small ones.
type window struct {
	sem  *semaphore.Weighted
	size int64 // bytes

	mu     sync.Mutex
	ctx    context.Context // of those who wait now
	cancel context.CancelFunc
	closed bool
}

func newWindow(size int64) *window {
	w := &window{sem: semaphore.NewWeighted(size), size: size}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// cost is what a request of n payload bytes takes. A request above the size of the window takes
// all of it: it is admitted alone.
func (w *window) cost(n int64) int64 { return min(max(n, minCost), w.size) }

// acquire takes n bytes, as cost returned them, and waits while they are not there. It reports
// false when the waiters were released, or the window is closed: nothing was taken then.
func (w *window) acquire(n int64) bool {
	if w.sem.TryAcquire(n) {
		return true
	}
	w.mu.Lock()
	ctx := w.ctx
	w.mu.Unlock()
	return w.sem.Acquire(ctx, n) == nil
}

// tryAcquire is acquire that does not wait.
func (w *window) tryAcquire(n int64) bool { return w.sem.TryAcquire(n) }

func (w *window) release(n int64) { w.sem.Release(n) }

// wakeAll makes every acquire that waits now fail. Later ones wait again, unless closed.
func (w *window) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
	if !w.closed {
		w.ctx, w.cancel = context.WithCancel(context.Background())
	}
}

// close makes every acquire fail that would wait, now and later.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cancel()
}
