package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/replication"
)

// backend carries out what is asked of this node. What only the primary can do it refuses
// elsewhere, naming the primary; see operator for who passes such a request on.
type backend struct {
	cfg     config.Node
	m       *manager
	journal *journal
	asker   asker
	// client returns the control API of another node, which passes nothing on.
	client func(node string) control.Backend
	facts  facts
	// registered returns once the ledger knows that this process runs. nil: nobody tells it.
	registered func(ctx context.Context) error
	fate       ledgerFate
	exam       examiner
	arms       armory        // nil: this node can turn nobody off
	alone      func() string // what it does about the loss of the other node of a pair, "" for nothing; nil: nothing
	roster     *roster       // nil: the members are those of cfg
	keeper     *keeper       // nil, like admitter: a cluster with a shared key
	admitter   *admitter
	gossipKey  func(step string, key config.Key) error // nil: not to be changed
	services   *caretakers                             // nil: nothing follows a primary
}

var _ control.Backend = (*backend)(nil)

// facts are what the other parts of the daemon know, for Status.
type facts struct {
	ledger  func() ledger.Status
	alive   func(node string) bool    // a hint
	clients func(resource string) int // NBD connections now
	nbdTCP  func() string             // host:port, "" for none
	// attached tells which attachments of a resource have a connection here.
	attached func(resource string) map[uint64]bool
}

// verbTimeout bounds a verb that came without a deadline.
const verbTimeout = 60 * time.Second

// fresh returns the record of a resource after everything that was committed before the call.
func (b *backend) fresh(ctx context.Context, name string) (*quorum.Resource, error) {
	if err := b.m.ledger.Barrier(ctx); err != nil {
		return nil, control.Errorf(control.CodeNoQuorum, "the ledger has no majority: %v", err).
			WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
	}
	return b.known(name)
}

// known returns the record of a resource as this node knows it.
func (b *backend) known(name string) (*quorum.Resource, error) {
	st := b.m.ledger.State()
	if st == nil {
		return nil, control.Errorf(control.CodeNoQuorum, "this node has not heard from the ledger yet").
			WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
	}
	rec := st.Find(name)
	if rec == nil {
		return nil, noResource(name)
	}
	return rec, nil
}

// local returns the worker of a resource of which this node holds a replica.
func (b *backend) local(name string) (*worker, *quorum.Resource, error) {
	rec, err := b.known(name)
	if err != nil {
		return nil, nil, err
	}
	w := b.m.find(name)
	if w == nil {
		return nil, rec, notHere(rec, b.m.self.Node)
	}
	return w, rec, nil
}

// leading returns the replica of a resource that this process is primary of.
func (b *backend) leading(name string) (*worker, replica, *quorum.Resource, error) {
	rec, err := b.known(name)
	if err != nil {
		return nil, nil, nil, err
	}
	if w := b.m.find(name); w != nil {
		if rep, _ := w.open(); rep != nil && rep.Status().Role == rolePrimary {
			return w, rep, rec, nil
		}
	}
	return nil, nil, rec, notPrimary(rec, b.m.self.Node)
}

// views asks every other node with a replica of rec what it knows; those that do not answer in
// time are missing in the result.
func (b *backend) views(ctx context.Context, rec *quorum.Resource) map[string]view {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]view{}
	for _, node := range record.Peers(rec, b.m.self.Node) {
		wg.Go(func() {
			a, err := b.asker.ask(ctx, node, question{Op: "view", Resource: rec.Name, ID: rec.ID})
			if err != nil || a.Error != nil || a.View == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[node] = *a.View
		})
	}
	wg.Wait()
	return out
}

// reply answers another node's question.
func (b *backend) reply(ctx context.Context, q question) answer {
	if q.Op == "view" && q.Resource == "" {
		return answer{View: &view{Node: b.m.self.Node, Process: b.m.self.Process}}
	}
	w := b.m.find(q.Resource)
	if w == nil || w.id != q.ID {
		return answer{Error: control.Errorf(control.CodeNotFound, "node %s holds no replica of %s", b.m.self.Node, q.Resource)}
	}
	switch q.Op {
	case "view":
		w.caughtUp(ctx, q.Version)
		v := b.view(w)
		return answer{View: &v}
	case "grow":
		return answer{Error: control.AsError(b.grow(w, q.Size))}
	case "invalidate":
		return answer{Error: control.AsError(b.invalidatePeer(q.Resource, q.Node))}
	}
	return answer{Error: control.Errorf(control.CodeUnsupported, "node %s does not know the question %q; it may run an older version", b.m.self.Node, q.Op)}
}

// view is what this node knows of its own replica.
func (b *backend) view(w *worker) view {
	v := view{Node: b.m.self.Node, Process: b.m.self.Process}
	rec := w.record()
	if rec == nil {
		return v
	}
	rep, f := w.open()
	if rep != nil {
		st := rep.Status()
		v.Open, v.Epoch, v.State, v.Unclean, v.Hangs, v.Role = true, st.Epoch, st.State.String(), st.Unclean, st.Hangs, st.Role
		v.Lineage = st.Lineage
		v.Resource = b.describe(rec, w, rep, &st, nil)
		return v
	}
	v.Resource = b.describe(rec, w, nil, nil, f)
	v.State = v.Resource.DiskState
	return v
}

// grow makes this node's backing hold size bytes.
func (b *backend) grow(w *worker, size int64) error {
	rep, f := w.open()
	if rep == nil {
		return refusedf("the replica on %s is not open: %s", b.m.self.Node, f.reason)
	}
	if err := rep.GrowBacking(size); err != nil {
		return control.Errorf(control.CodeFailed, "node %s: %v", b.m.self.Node, err).WithSafety(control.SafetyYes)
	}
	return nil
}

// Connect lets the session with peer be tried again.
func (b *backend) Connect(_ context.Context, resource, peer string) error {
	return b.setConnected(resource, peer, true)
}

// Disconnect ends the session with peer and keeps it down until Connect, or the daemon's restart.
func (b *backend) Disconnect(_ context.Context, resource, peer string) error {
	return b.setConnected(resource, peer, false)
}

func (b *backend) setConnected(resource, peer string, on bool) error {
	w, rec, err := b.local(resource)
	if err != nil {
		return err
	}
	if peer == b.m.self.Node || !slices.Contains(record.Peers(rec, b.m.self.Node), peer) {
		return control.Errorf(control.CodeNotFound, "%s is no peer of %s for %s; peers hold a replica: %s", peer, b.m.self.Node, resource, holders(rec)).
			WithSafety(control.SafetyYes)
	}
	rep, f := w.open()
	if rep == nil {
		return refusedf("the replica on %s is not open: %s", b.m.self.Node, f.reason)
	}
	return rep.SetConnected(peer, on)
}

// PauseResync stops copying to every peer; writes go on to be tracked.
func (b *backend) PauseResync(_ context.Context, resource string) error {
	_, rep, _, err := b.leading(resource)
	if err != nil {
		return err
	}
	return rep.PauseResync()
}

// ResumeResync goes on copying.
func (b *backend) ResumeResync(_ context.Context, resource string) error {
	_, rep, _, err := b.leading(resource)
	if err != nil {
		return err
	}
	return rep.ResumeResync()
}

// Invalidate gives up this node's replica: its primary drops it and copies it anew.
func (b *backend) Invalidate(ctx context.Context, resource string) error {
	w, rec, err := b.local(resource)
	if err != nil {
		return err
	}
	self := b.m.self.Node
	switch {
	case rec.Primary.None():
		return refusedf("%s has no primary that %s could be copied from", resource, self).
			WithHint("lockstep promote %s on another node first", resource)
	case rec.Primary.Node == self:
		return refusedf("%s is primary of %s; its data is what the others are copied from", self, resource).
			WithHint("lockstep switchover %s to another node first", resource)
	}
	a, err := b.asker.ask(ctx, rec.Primary.Node, question{Op: "invalidate", Resource: resource, ID: rec.ID, Node: self})
	if err != nil {
		return control.Errorf(control.CodeOutcomeUnknown, "the primary %s did not answer: %v", rec.Primary.Node, err).
			WithHint("look with: lockstep status %s", resource).WithSafety(control.SafetyYes)
	}
	if a.Error != nil {
		return a.Error
	}
	// A diverged replica is not led by anybody before it gives its history up, too.
	if rep, _ := w.open(); rep != nil && rep.Status().State == replication.Diverged {
		return rep.Discard()
	}
	return nil
}

// invalidatePeer has the core here, which leads, drop the peer and copy it anew.
func (b *backend) invalidatePeer(resource, peer string) error {
	_, rep, rec, err := b.leading(resource)
	if err != nil {
		return err
	}
	if peer == b.m.self.Node || !slices.Contains(record.Peers(rec, b.m.self.Node), peer) {
		return control.Errorf(control.CodeNotFound, "%s holds no replica of %s", peer, resource)
	}
	b.journal.add(resource, "invalidated", peer+" gave its replica up; it is copied anew.", "peer", peer)
	return rep.Invalidate(peer)
}

// Events reads the journal of this process.
func (b *backend) Events(ctx context.Context, since uint64, follow bool, fn func(control.Event) error) error {
	return b.journal.read(ctx, since, follow, fn)
}

// reason says why st does not serve.
func reason(st replication.Status) string {
	if st.Reason != "" {
		return st.Reason
	}
	return "it is " + st.Role + " in epoch " + itoa(st.Epoch)
}
