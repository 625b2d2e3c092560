package node

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// manager compares each applied ledger state with what runs on this node.
type manager struct {
	self    quorum.Incumbent // of this process; Instance is 0: it belongs to a replica
	ledger  ledgerAPI
	opener  opener
	journal *journal
	log     *slog.Logger
	fresh   func() uint64 // random, never 0
	// closeClients ends every client connection of a resource without answering.
	closeClients func(resource string)
	// closeClient ends those of one client's sessions up to a number, in the same way.
	closeClient func(resource string, client replication.ClientID, upTo uint64)
	// onAttachments is told a record whose attachments have changed.
	onAttachments func(rec *quorum.Resource)
	// onNotice is called at each transition of a replica, and when one opens or closes. It must not block.
	onNotice func()
	// onCount is told how many replicas this node has, whenever that changes.
	onCount func(replicas int)
	closing atomic.Bool // the node is going away: nothing is promoted any more
	// A replica that could not be opened is tried again after retryMin, then after twice as long
	// each time, up to retryMax.
	retryMin, retryMax time.Duration

	wake chan struct{} // capacity 1: state is new

	mu      sync.Mutex
	state   *quorum.State
	changed chan struct{} // closed and replaced with each state
	workers map[uint64]*worker
}

func newManager(self quorum.Incumbent, l ledgerAPI, o opener, j *journal, log *slog.Logger, fresh func() uint64) *manager {
	return &manager{
		self: self, ledger: l, opener: o, journal: j, log: log, fresh: fresh,
		closeClients: func(string) {}, closeClient: func(string, replication.ClientID, uint64) {},
		onAttachments: func(*quorum.Resource) {}, onNotice: func() {}, onCount: func(int) {},
		retryMin: time.Second, retryMax: 30 * time.Second,
		wake: make(chan struct{}, 1), changed: make(chan struct{}), workers: map[uint64]*worker{},
	}
}

// apply takes over an applied state. It never blocks; only the newest state matters.
func (m *manager) apply(st *quorum.State) {
	m.mu.Lock()
	m.state = st
	m.announce()
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// announce wakes those who watch. Caller holds mu.
func (m *manager) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// watch returns the newest state, nil before the first, and a channel that is closed when there
// is a newer one, or a worker that find did not know.
func (m *manager) watch() (*quorum.State, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.changed
}

// find returns the worker of the resource called name, nil if this node holds no replica of it.
func (m *manager) find(name string) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if w.name == name && w.record() != nil {
			return w
		}
	}
	return nil
}

// all returns the workers in no order.
func (m *manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		out = append(out, w)
	}
	return out
}

// run keeps one worker per replica until ctx ends, and returns when all of them have closed theirs.
func (m *manager) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for _, w := range m.reconcile() {
			wg.Go(func() {
				w.run(ctx)
				m.mu.Lock()
				delete(m.workers, w.id)
				m.mu.Unlock()
			})
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return
		}
	}
}

// reconcile hands each worker its record and returns the workers to be started.
func (m *manager) reconcile() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		return nil
	}
	var started []*worker
	before := len(m.workers)
	present := map[uint64]bool{}
	for i := range m.state.Resources {
		rec := &m.state.Resources[i]
		w := m.workers[rec.ID]
		switch {
		case w == nil && rec.Replica(m.self.Node) == nil:
			continue
		case w == nil:
			w = newWorker(m, rec)
			m.workers[rec.ID] = w
			started = append(started, w)
		}
		if rec.Replica(m.self.Node) != nil {
			present[rec.ID] = true
			w.update(rec)
		}
	}
	for id, w := range m.workers {
		if !present[id] {
			w.update(nil)
		}
	}
	if len(m.workers) != before {
		m.onCount(len(m.workers))
		m.announce()
	}
	return started
}

// stopServing gives up every role, side by side, and returns when that is done or ctx ends. The roles of the
// resources in kept stay: their services may still run.
func (m *manager) stopServing(ctx context.Context, kept map[uint64]bool) {
	var wg sync.WaitGroup
	for _, w := range m.all() {
		rep, _ := w.open()
		if kept[w.id] || rep == nil || rep.Status().Role != rolePrimary {
			continue
		}
		wg.Go(func() {
			if err := rep.Stop(ctx, false); err != nil {
				w.log.Warn("role not given up at the end", "err", err)
			}
		})
	}
	wg.Wait()
}
