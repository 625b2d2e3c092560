package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// registrar has the ledger record which process of this node runs (quorum.NodeStarted). From that a
// fence knows which boot it is about, and a promotion refuses a process that is gone.
//
// It registers once. If another process of this node is recorded later, that one is newer, or a twin
// on another host; to register again would be to fight with it.
type registrar struct {
	self    quorum.Incumbent
	ledger  ledgerAPI
	journal *journal
	log     *slog.Logger
	wake    chan struct{} // capacity 1: the state is new
	done    chan struct{} // closed when this process is registered

	mu  sync.Mutex
	why string // why it is not registered yet, a sentence; "" if nothing is known
}

func newRegistrar(self quorum.Incumbent, l ledgerAPI, j *journal, log *slog.Logger) *registrar {
	return &registrar{self: self, ledger: l, journal: j, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// apply is told of each new state. It never blocks.
func (r *registrar) apply(*quorum.State) {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run registers this process and returns when that is done, or ctx ends.
func (r *registrar) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		if r.register(ctx) {
			close(r.done)
			return
		}
	}
}

// register tries until the ledger has answered, and reports whether this process is registered. It
// is not when the ledger refuses it for something that only a newer state changes.
func (r *registrar) register(ctx context.Context) bool {
	var pause backoff
	for {
		st := r.ledger.State()
		var n *quorum.Node
		if st != nil {
			n = st.Node(r.self.Node)
		}
		switch {
		case n == nil || n.Gone:
			return false // the leader admits this node first
		case n.Boot == r.self.Boot && n.Process == r.self.Process:
			return true
		}
		res, err := attempt(ctx, r.ledger, quorum.Command{Version: st.Version,
			NodeStarted: &quorum.NodeStarted{Node: r.self.Node, Boot: r.self.Boot, Process: r.self.Process}})
		switch {
		case err == nil && (res.Code == quorum.Applied || res.Code == quorum.CodeExists):
			r.log.Info("process registered in the ledger", "boot", r.self.Boot, "process", r.self.Process)
			return true
		case err == nil && res.Code != quorum.CodeStale:
			r.refused(res.Reason)
			return false
		}
		if !pause.wait(ctx) { // stale: our copy of the state may lag behind
			return false
		}
	}
}

// refused notes why, once.
func (r *registrar) refused(why string) {
	r.mu.Lock()
	known := r.why == why
	r.why = why
	r.mu.Unlock()
	if !known {
		r.log.Error("process not registered in the ledger", "reason", why)
		r.journal.add("", "not_registered", "The ledger does not register this process: "+why+".")
	}
}

// await returns once this process is registered, or why it is not.
func (r *registrar) await(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	select {
	case <-r.done:
		return nil
	case <-limit.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	why := r.why
	if why == "" {
		why = "it has not answered yet"
	}
	return refusedf("the ledger has not registered the process that runs on %s: %s", r.self.Node, why).WithHint("lockstep status")
}

// registerWithin bounds the wait of a promotion for the registration of its process.
const registerWithin = 10 * time.Second

// awaitRegistration returns once the ledger knows this process: it would refuse to promote another.
func (b *backend) awaitRegistration(ctx context.Context) error {
	if b.registered == nil {
		return nil
	}
	return b.registered(ctx)
}
