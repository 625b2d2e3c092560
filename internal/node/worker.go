package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// worker owns the replica of one resource on this node. Its run is the only goroutine that opens
// and closes the replica; everybody else finds it with open and must bear that it ends meanwhile.
type worker struct {
	m    *manager
	name string
	id   uint64
	log  *slog.Logger
	prop *proposer
	wake chan struct{}   // capacity 1: the record is new
	verb chan struct{}   // capacity 1: held while an operator's verb runs on this resource
	anew chan chan error // no capacity: the replica is to be made anew, and what came of it

	// Only run touches these.
	made   bool   // this process created the files
	remade bool   // it did so in place of others, and the ledger is to know the new instance
	told   string // the fault that was reported last; "" when the replica has been open since

	mu      sync.Mutex
	rec     *quorum.Resource // newest applied; nil once the ledger has forgotten it
	rep     replica          // nil while closed
	fault   *fault
	fed     uint64        // version of the record that the open replica was told last
	noticed chan struct{} // closed and replaced at each notice of the core
}

func newWorker(m *manager, rec *quorum.Resource) *worker {
	log := m.log.With("resource", rec.Name)
	return &worker{
		m: m, name: rec.Name, id: rec.ID, log: log, rec: rec,
		wake: make(chan struct{}, 1), verb: make(chan struct{}, 1), anew: make(chan chan error), noticed: make(chan struct{}),
		prop: &proposer{
			ledger: m.ledger, log: log, self: m.self, name: rec.Name, id: rec.ID,
			peers: record.Peers(rec, m.self.Node), fresh: m.fresh, newest: rec,
		},
	}
}

// update hands the newest record over; nil says that there is none any more.
func (w *worker) update(rec *quorum.Resource) {
	w.mu.Lock()
	same := w.rec == rec || w.rec != nil && rec != nil && w.rec.Version == rec.Version
	w.rec = rec
	w.mu.Unlock()
	w.prop.note(rec)
	if same {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default: // run will see the newest record anyway
	}
}

// open returns the replica, or nil and why it is not open.
func (w *worker) open() (replica, *fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rep == nil && w.fault == nil {
		return nil, &fault{replication.Diskless, "the replica is being opened"}
	}
	return w.rep, w.fault
}

func (w *worker) record() *quorum.Resource {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rec
}

func (w *worker) setReplica(r replica, f *fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rep, w.fault = r, f
	w.signal()
}

// onNotice turns a transition of the core into an event and a log line.
func (w *worker) onNotice(n replication.Notice) {
	attrs := []string{}
	if n.Peer != "" {
		attrs = append(attrs, "peer", n.Peer)
	}
	if n.Bytes != 0 {
		attrs = append(attrs, "bytes", fmt.Sprint(n.Bytes))
	}
	level := slog.LevelInfo
	if n.Kind == replication.NoticeError {
		level = slog.LevelError
	}
	w.log.Log(context.Background(), level, "transition", "kind", n.Kind.String(), "peer", n.Peer, "text", n.Text, "bytes", n.Bytes)
	w.m.journal.add(w.name, n.Kind.String(), n.Text, attrs...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.signal()
}

// signal wakes those who wait for notices. Caller holds mu.
func (w *worker) signal() {
	w.m.onNotice()
	close(w.noticed)
	w.noticed = make(chan struct{})
}

// await returns the replica once it is open, or why it is not: a fault, or the end of ctx.
func (w *worker) await(ctx context.Context) (replica, *fault) {
	for {
		w.mu.Lock()
		rep, f, more := w.rep, w.fault, w.noticed
		w.mu.Unlock()
		if rep != nil || f != nil {
			return rep, f
		}
		select {
		case <-more:
		case <-ctx.Done():
			return w.open()
		}
	}
}

// caughtUp waits until the open replica has been told a record of version or a newer one; what it
// says of itself before may be older than what the ledger says of it. It returns early when the
// replica is not open, or with the end of ctx.
func (w *worker) caughtUp(ctx context.Context, version uint64) {
	for {
		w.mu.Lock()
		done, more := w.rep == nil || w.fed >= version, w.noticed
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// notices returns a channel that is closed at the next notice or record, and when the replica opens
// or closes.
func (w *worker) notices() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.noticed
}

// closed is the fault of a replica that this node has closed because it was told to.
var closed = &fault{replication.Diskless, "the replica is closed"}

// running is an open replica and its goroutine.
type running struct {
	rep    replica
	cancel context.CancelFunc
	done   chan error // capacity 1: what Run returned
}

// run keeps the replica in the state that the record asks for, until the record is gone or ctx
// ends; then it closes the replica clean.
func (w *worker) run(ctx context.Context) {
	var cur *running
	defer func() { w.close(cur, closed) }()
	retry := time.NewTimer(0) // the first attempt is due at once
	defer retry.Stop()
	pause, due := w.m.retryMin, false
	for {
		rec := w.record()
		switch {
		case rec == nil:
			return
		case rec.Deleted:
			w.close(cur, closed)
			cur = nil
			w.leave(ctx, rec)
		case cur == nil && due:
			due = false
			if cur = w.start(ctx, rec); cur == nil {
				retry.Reset(pause)
				pause = min(pause*2, w.m.retryMax)
			}
		}
		if cur != nil && !rec.Deleted {
			if err := w.feed(ctx, cur.rep, rec); err != nil {
				w.close(cur, faultOf(err))
				cur = nil
				w.fail(ctx, rec, err)
				retry.Reset(w.m.retryMax)
			}
		}
		var ended chan error
		if cur != nil {
			ended, pause = cur.done, w.m.retryMin
		}
		select {
		case <-w.wake:
		case <-retry.C:
			due = true
		case made := <-w.anew:
			if rec.Deleted {
				made <- errors.New("the resource is being deleted")
				continue
			}
			err := w.remake(cur)
			cur, due = nil, true
			made <- err
		case err := <-ended:
			cur.done <- err // close takes it again
			err = fmt.Errorf("the replica stopped: %w", err)
			w.close(cur, faultOf(err))
			cur = nil
			w.fail(ctx, rec, err)
			retry.Reset(w.m.retryMax)
		case <-ctx.Done():
			return
		}
	}
}

// start opens the replica, makes its files first if the record knows no instance yet, and sets
// it going. It returns nil when it could not, having said why.
func (w *worker) start(ctx context.Context, rec *quorum.Resource) *running {
	s := specOf(rec, w.m.self.Node)
	mine := rec.Replica(w.m.self.Node)
	s.follower = s.follower || mine.Lost // what the others hold is copied: zeros are not it
	if mine.Instance == 0 || mine.Lost {
		// Metadata of this very resource can be here already: a crash came between Create and
		// RegisterReplica. Open tells whether it is.
		switch err := w.m.opener.Create(s); {
		case err == nil:
			w.made = true
		case !errors.Is(err, errMetaExists):
			w.fail(ctx, rec, err)
			return nil
		}
	}
	rep, err := w.m.opener.Open(s, w.prop, listener{
		notice: w.onNotice, closeClients: func() { w.m.closeClients(w.name) },
		closeClient: func(c replication.ClientID, upTo uint64) { w.m.closeClient(w.name, c, upTo) },
	})
	if err != nil {
		w.fail(ctx, rec, err)
		return nil
	}
	w.prop.setInstance(rep.Instance())
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // close ends it
	cur := &running{rep: rep, cancel: cancel, done: make(chan error, 1)}
	go func() { cur.done <- rep.Run(runCtx) }()
	return cur
}

// feed brings the replica up to rec. An error means that the replica is not the one that the
// record names, or cannot become as large.
func (w *worker) feed(ctx context.Context, rep replica, rec *quorum.Resource) error {
	known := rec.Replica(w.m.self.Node)
	if known == nil {
		return fmt.Errorf("node %s holds no replica of %s any more", w.m.self.Node, w.name)
	}
	if known.Instance == 0 || (known.Lost || w.remade) && known.Instance != rep.Instance() {
		next, err := w.register(ctx, rep.Instance(), rec)
		if err != nil {
			return err
		}
		rec, known = next, next.Replica(w.m.self.Node)
	}
	if known == nil || known.Instance != rep.Instance() {
		return fmt.Errorf("the replica here is another one (instance %x) than the ledger names; its files were replaced or restored", rep.Instance())
	}
	if rec.SizeBytes > rep.Size() {
		if err := rep.GrowBacking(rec.SizeBytes); err != nil {
			return fmt.Errorf("grow to %d bytes: %w", rec.SizeBytes, err)
		}
	}
	if err := rep.SetRecord(record.Project(w.prop.ledger.State(), rec, w.prop.incumbent(), w.prop.peers)); err != nil {
		return err
	}
	w.remade = false
	w.mu.Lock()
	fresh := w.rep == nil
	w.rep, w.fault, w.fed = rep, nil, rec.Version
	w.signal()
	w.mu.Unlock()
	w.told = ""
	if fresh {
		w.log.Info("replica opened", "instance", rep.Instance(), "size_bytes", rep.Size())
		w.m.journal.add(w.name, "replica_opened", fmt.Sprintf("%s has opened its replica of %s.", w.m.self.Node, w.name))
	}
	return nil
}

// register records the instance of a replica that was just made, and returns the record it led to.
func (w *worker) register(ctx context.Context, instance uint64, rec *quorum.Resource) (*quorum.Resource, error) {
	node := w.m.self.Node
	has := func(r *quorum.Resource) bool {
		p := r.Replica(node)
		return r.ID == w.id && p != nil && p.Instance != 0 && (!p.Lost && !w.remade || p.Instance == instance)
	}
	res, err := decide(ctx, w.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if r.ID != w.id || r.Deleted || has(r) {
			return nil
		}
		c := quorum.On(r)
		c.RegisterReplica = &quorum.RegisterReplica{Node: node, Instance: instance}
		return &c
	}, has)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("register the replica: %w", err)
	}
	w.prop.note(res.Resource)
	return res.Resource, nil
}

// fail records why the replica is not open. While the record waits for its instance, the ledger is
// told, too, so that who creates the resource hears of it.
func (w *worker) fail(ctx context.Context, rec *quorum.Resource, err error) {
	f := faultOf(err)
	w.setReplica(nil, f)
	if w.told == f.reason || ctx.Err() != nil {
		return
	}
	w.told = f.reason
	w.log.Error("replica not opened", "err", err)
	w.m.journal.add(w.name, "replica_fault", "The replica is not open: "+f.reason)
	node := w.m.self.Node
	text := f.reason[:min(len(f.reason), quorum.MaxText)]
	told := func(r *quorum.Resource) bool {
		p := r.Replica(node)
		return r.ID != w.id || r.Deleted || p == nil || p.Instance != 0 || p.Error == text
	}
	_, err = decide(ctx, w.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if told(r) {
			return nil
		}
		c := quorum.On(r)
		c.ReplicaError = &quorum.ReplicaError{Node: node, Text: text}
		return &c
	}, told)
	if err != nil {
		w.log.Warn("fault not recorded in the ledger", "err", err)
	}
}

// leave tells the ledger that this node has let go of a deleted resource. The files stay, unless
// this process made them and nobody was ever promoted, or they only carry an address: then there is nothing in them.
func (w *worker) leave(ctx context.Context, rec *quorum.Resource) {
	node := w.m.self.Node
	if rec.Replica(node) == nil {
		return
	}
	s := specOf(rec, node)
	if w.made && rec.Epoch == 0 && !s.takeIn || carriesAddress(rec, s) {
		if err := w.m.opener.Remove(s); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be tried again
			w.log.Warn("unused files not removed", "err", err)
		}
		w.made = false
	} else {
		w.log.Info("resource deleted, its files stay", "data_path", s.dataPath, "meta_path", s.metaPath)
		w.m.journal.add(w.name, "deleted", fmt.Sprintf("Deleted. Its files stay: %s and %s.", s.dataPath, s.metaPath))
	}
	gone := func(r *quorum.Resource) bool { return r.ID != w.id || r.Replica(node) == nil }
	_, err := decide(ctx, w.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if gone(r) {
			return nil
		}
		c := quorum.On(r)
		c.ResourceGone = &quorum.ResourceGone{Nodes: []string{node}}
		return &c
	}, gone)
	if err != nil && ctx.Err() == nil {
		w.log.Warn("removal not recorded in the ledger", "err", err)
	}
}

// close ends the replica's goroutines and closes it clean; f is what others see of it from now
// on. cur may be nil.
func (w *worker) close(cur *running, f *fault) {
	if cur == nil {
		return
	}
	w.setReplica(nil, f)
	w.m.closeClients(w.name)
	cur.cancel()
	if err := <-cur.done; err != nil && !errors.Is(err, context.Canceled) {
		w.log.Warn("replica ended", "err", err)
	}
	if err := cur.rep.Close(true); err != nil {
		w.log.Warn("replica not closed clean", "err", err)
	}
}

// begin admits one operator's verb at a time. The caller calls end if it was admitted.
func (w *worker) begin() (end func(), err error) {
	select {
	case w.verb <- struct{}{}:
		return func() { <-w.verb }, nil
	default:
		return nil, control.Errorf(control.CodeBusy, "another operation on %s is under way", w.name).
			WithHint("try again when it has ended; lockstep events shows what happens").WithSafety(control.SafetyYes)
	}
}
