package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/ledger"
	"github.com/lockstep-ha/lockstep/replication"
)

// fate is what becomes of one proposal to a fakeLedger.
type fate int

const (
	answered   fate = iota // applied or refused, and the answer arrives
	notDone                // ledger.ErrNotProposed
	lostBefore             // unknown, and never applied
	lostAfter              // unknown, and applied
)

// fakeLedger is a ledger in memory, with the real Apply.
type fakeLedger struct {
	mu    sync.Mutex
	state *quorum.State
	fates []fate // of the next proposals; those after them are answered
	seen  []quorum.Command
	subs  []func(*quorum.State)
	down  error // of Barrier
}

func newFakeLedger(t testing.TB, nodes ...string) *fakeLedger {
	t.Helper()
	var list []quorum.Node
	for i, n := range nodes {
		list = append(list, quorum.Node{Name: n, VoterID: uint64(i + 1), Addr: n + ":1", Witness: n == "w"})
	}
	st, err := quorum.Genesis("test", quorum.Incarnation{Counter: 1, ID: 1}, list)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLedger{state: st}
}

func (l *fakeLedger) Propose(_ context.Context, c quorum.Command) (quorum.Result, error) {
	l.mu.Lock()
	l.seen = append(l.seen, c)
	f := answered
	if len(l.fates) > 0 {
		f, l.fates = l.fates[0], l.fates[1:]
	}
	var res quorum.Result
	if f == answered || f == lostAfter {
		l.state, res = quorum.Apply(l.state, c)
	}
	st, subs := l.state, l.subs
	l.mu.Unlock()
	for _, s := range subs {
		s(st)
	}
	switch f {
	case notDone:
		return quorum.Result{}, fmt.Errorf("fake: %w", ledger.ErrNotProposed)
	case lostBefore, lostAfter:
		return quorum.Result{}, fmt.Errorf("fake: %w", ledger.ErrOutcomeUnknown)
	}
	return res, nil
}

func (l *fakeLedger) State() *quorum.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *fakeLedger) Barrier(context.Context) error { return l.down }

func (l *fakeLedger) subscribe(f func(*quorum.State)) {
	l.mu.Lock()
	l.subs = append(l.subs, f)
	st := l.state
	l.mu.Unlock()
	f(st)
}

// must applies c, which the test needs to be applied.
func (l *fakeLedger) must(t testing.TB, c quorum.Command) *quorum.Resource {
	t.Helper()
	res, err := l.Propose(t.Context(), c)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		t.Fatalf("%s: %v", c.String(), err)
	}
	return res.Resource
}

// fakeOpener makes fakeReplicas; its files are a map.
type fakeOpener struct {
	mu        sync.Mutex
	files     map[string]identity // by metadata path
	creates   int
	removed   []string
	failWith  error // of Create
	openWith  error // of Open
	replicas  map[string]*fakeReplica
	unhealthy replication.DiskState // state of replicas that are opened; 0 is UpToDate
}

func newFakeOpener() *fakeOpener {
	return &fakeOpener{files: map[string]identity{}, replicas: map[string]*fakeReplica{}}
}

func (o *fakeOpener) Create(s spec) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.creates++
	if o.failWith != nil {
		return o.failWith
	}
	if _, there := o.files[s.metaPath]; there {
		return errMetaExists
	}
	o.files[s.metaPath] = identity{Resource: s.resource, ResourceID: s.id, Instance: randomID(), Size: s.sizeBytes}
	return nil
}

func (o *fakeOpener) Replace(s spec, _ string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.creates++
	if o.failWith != nil {
		return o.failWith
	}
	o.unhealthy = replication.Inconsistent
	o.files[s.metaPath] = identity{Resource: s.resource, ResourceID: s.id, Instance: randomID(), Size: s.sizeBytes}
	return nil
}

func (o *fakeOpener) Open(s spec, p *proposer, to listener) (replica, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, there := o.files[s.metaPath]
	switch {
	case o.openWith != nil:
		return nil, o.openWith
	case !there:
		return nil, errors.New("no such metadata")
	case id.ResourceID != s.id:
		return nil, errors.New("metadata of another resource")
	}
	r := &fakeReplica{id: id, p: p, notice: to.notice, closeClients: to.closeClients, changed: make(chan struct{}), state: replication.UpToDate, off: map[string]bool{}}
	if o.unhealthy != 0 {
		r.state = o.unhealthy
	}
	o.replicas[s.resource] = r
	return r, nil
}

func (o *fakeOpener) Remove(s spec) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.files, s.metaPath)
	o.removed = append(o.removed, s.metaPath)
	return nil
}

func (o *fakeOpener) replica(resource string) *fakeReplica {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.replicas[resource]
}

// fakeReplica serves as soon as the record says that it is primary.
type fakeReplica struct {
	id           identity
	p            *proposer
	notice       func(replication.Notice)
	closeClients func()

	mu       sync.Mutex
	rec      *replication.Record
	state    replication.DiskState
	unclean  bool
	primary  bool
	stopped  uint64 // epoch
	grown    []int64
	verify   *replication.VerifyStatus
	peers    []replication.PeerStatus // nil: all connected and UpToDate
	off      map[string]bool
	closed   bool
	stuck    bool   // never serves
	accepted uint64 // an epoch that it heard of from a primary
	changed  chan struct{}
	invalids []string
	lineage  []uint64 // nil: that of the record
	dirty    int64    // for every peer
	discards int
	disk     nbd.Backend // what serves clients; nil: nothing
	sessions []string    // that were opened and closed
	alone    error
	hangs    bool
}

func (r *fakeReplica) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (r *fakeReplica) Close(bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}

func (r *fakeReplica) Instance() uint64 { return r.id.Instance }

func (r *fakeReplica) Size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.grown) > 0 {
		return r.grown[len(r.grown)-1]
	}
	return r.id.Size
}

func (r *fakeReplica) GrowBacking(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grown = append(r.grown, n)
	return nil
}

func (r *fakeReplica) Backend() (nbd.Backend, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.disk, r.disk != nil
}

func (r *fakeReplica) OpenClient(_ context.Context, client replication.ClientID, number uint64) (nbd.Backend, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = append(r.sessions, fmt.Sprintf("open %d %d", client, number))
	return r.disk, nil
}

func (r *fakeReplica) CloseClient(client replication.ClientID, number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = append(r.sessions, fmt.Sprintf("close %d %d", client, number))
}

func (r *fakeReplica) SetRecord(rec *replication.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rec != nil && rec.Version < r.rec.Version {
		return nil
	}
	r.rec = rec
	r.primary = rec.PrimaryIsMe && rec.Epoch != r.stopped && !r.stuck
	switch n := len(r.lineage); {
	case n == 0:
	case rec.PrimaryIsMe && rec.Forced:
		r.state, r.lineage = replication.UpToDate, nil
	case !rec.SelfInSet && !slices.Contains(rec.Lineage, r.lineage[n-1]):
		r.state = replication.Diverged // it hears that from the primary
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

func (r *fakeReplica) Stop(ctx context.Context, failed bool) error {
	r.mu.Lock()
	rec := r.rec
	r.primary, r.stopped = false, rec.Epoch
	r.mu.Unlock()
	out, newest := r.p.Propose(ctx, replication.Proposal{Kind: replication.ProposeStepDown, Epoch: rec.Epoch, Version: rec.Version, Failed: failed})
	if out != replication.OutcomeApplied {
		return fmt.Errorf("step down: outcome %d", out)
	}
	return r.SetRecord(newest)
}

func (r *fakeReplica) WaitPrimary(ctx context.Context, epoch uint64) error {
	for {
		r.mu.Lock()
		ok, more := r.primary && r.rec.Epoch == epoch, r.changed
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *fakeReplica) Serving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.primary
}

func (r *fakeReplica) LeaseHeld() bool { return r.Serving() }

func (r *fakeReplica) Received(string) (session, bytes uint64) { return 0, 0 }
func (r *fakeReplica) EndSession(string, error)                {}

func (r *fakeReplica) Fitness() replication.Fitness {
	st := r.Status()
	return replication.Fitness{State: st.State, Unclean: st.Unclean, Epoch: st.Epoch, Version: st.Version, SelfInSet: st.SelfInSet,
		Serving: st.Role == rolePrimary, Hangs: st.Hangs, Heard: -1}
}

func (r *fakeReplica) Status() replication.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := replication.Status{Role: "Secondary", IO: control.IONone, State: r.state, Unclean: r.unclean, Hangs: r.hangs, Verify: r.verify}
	if r.rec != nil {
		st.Epoch, st.Version, st.SizeBytes = max(r.rec.Epoch, r.accepted), r.rec.Version, r.rec.Size
	}
	if st.Lineage = r.lineage; st.Lineage == nil && r.rec != nil {
		st.Lineage = r.rec.Lineage
	}
	if r.primary {
		st.Role, st.IO, st.Serving = rolePrimary, control.IORunning, true
	}
	st.Peers = r.peers
	if st.Peers == nil {
		for _, p := range r.p.peers {
			st.Peers = append(st.Peers, replication.PeerStatus{Node: p, Connection: "Connected", State: replication.UpToDate, InSet: true, Dirty: r.dirty})
		}
	}
	return st
}

func (r *fakeReplica) PauseResync() error  { return nil }
func (r *fakeReplica) ResumeResync() error { return nil }

func (r *fakeReplica) Verify(peer string, repair bool) error {
	r.mu.Lock()
	r.verify = &replication.VerifyStatus{Node: peer, Done: 8192, Total: 8192, Mismatches: 2, First: []int64{4096, 0}, Repaired: repair}
	r.mu.Unlock()
	r.notice(replication.Notice{Kind: replication.NoticeVerifyDone, Peer: peer, Text: "done"})
	return nil
}

func (r *fakeReplica) Discard() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.lineage = replication.Inconsistent, nil
	r.discards++
	return nil
}

func (r *fakeReplica) MayGoAlone(string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alone
}

func (r *fakeReplica) Invalidate(peer string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.invalids = append(r.invalids, peer)
	return nil
}

func (r *fakeReplica) SetConnected(peer string, on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off[peer] = !on
	return nil
}

func (r *fakeReplica) Connected(peer string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.off[peer]
}

// fakeFate notes what an operator had the ledger do.
type fakeFate struct {
	calls []string
	err   error
}

func (f *fakeFate) OpenIncarnation(_ context.Context, statement string) error {
	f.calls = append(f.calls, "open: "+statement)
	return f.err
}
func (f *fakeFate) KeepLedger(context.Context) error { f.calls = append(f.calls, "keep"); return f.err }
func (f *fakeFate) GiveUpLedger(context.Context) error {
	f.calls = append(f.calls, "give up")
	return f.err
}

// fakeNode is one node of a fakeCluster.
type fakeNode struct {
	*backend
	opener *fakeOpener
	stop   func() // and wait
}

// fakeCluster is a ledger and managers with fake replicas.
type fakeCluster struct {
	t      testing.TB
	ledger *fakeLedger
	nodes  map[string]*fakeNode
}

func newFakeCluster(t testing.TB, names ...string) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, ledger: newFakeLedger(t, names...), nodes: map[string]*fakeNode{}}
	for i, n := range names {
		if n != "w" {
			c.start(n, uint64(100+i), newFakeOpener())
		}
	}
	return c
}

// start runs a process of node on the files of o.
func (c *fakeCluster) start(name string, process uint64, o *fakeOpener) *fakeNode {
	self := quorum.Incumbent{Node: name, Boot: "boot", Process: process}
	j := newJournal(name, 64)
	m := newManager(self, c.ledger, o, j, slog.New(slog.DiscardHandler), randomID)
	m.retryMin, m.retryMax = time.Millisecond, time.Millisecond
	cfg := config.DefaultNode()
	cfg.Name, cfg.NBDUnix = name, "/run/nbd.sock"
	for _, n := range c.ledger.State().Nodes {
		cfg.Nodes = append(cfg.Nodes, config.Peer{Name: n.Name, Addr: n.Addr, Witness: n.Witness})
	}
	n := &fakeNode{opener: o, backend: &backend{
		cfg: cfg, m: m, journal: j, asker: c,
		client: func(node string) control.Backend { return c.nodes[node].backend },
		facts: facts{
			ledger:  func() ledger.Status { return ledger.Status{Leader: "n1", HasQuorum: true} },
			alive:   func(node string) bool { return c.nodes[node] != nil },
			clients: func(string) int { return 0 }, nbdTCP: func() string { return "" },
			attached: func(string) map[uint64]bool { return nil },
		},
		fate: &fakeFate{},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.run(ctx); close(ended) }()
	n.stop = func() { cancel(); <-ended }
	c.t.Cleanup(n.stop)
	c.ledger.subscribe(m.apply)
	c.nodes[name] = n
	return n
}

// kill makes the node unreachable and stops it.
func (c *fakeCluster) kill(name string) *fakeNode {
	n := c.nodes[name]
	n.stop()
	delete(c.nodes, name)
	return n
}

func (c *fakeCluster) ask(ctx context.Context, node string, q question) (answer, error) {
	n := c.nodes[node]
	if n == nil {
		return answer{}, errors.New("connection refused")
	}
	return n.reply(ctx, q), nil
}

// create makes r0 on nodes and fails the test if it cannot.
func (c *fakeCluster) create(nodes ...string) {
	c.t.Helper()
	if err := c.nodes[nodes[0]].CreateResource(c.t.Context(), createRequest("r0", nodes...)); err != nil {
		c.t.Fatal(err)
	}
	for _, n := range nodes {
		if rep, f := c.nodes[n].m.find("r0").await(c.t.Context()); rep == nil {
			c.t.Fatalf("replica on %s: %s", n, f.reason)
		}
	}
}

func createRequest(name string, nodes ...string) control.CreateRequest {
	req := control.CreateRequest{Resource: name, SizeBytes: 4 << 20}
	for _, n := range nodes {
		req.Replicas = append(req.Replicas, control.ReplicaCreate{Node: n, DataPath: "/" + n + "/" + name, MetaPath: "/" + n + "/" + name + ".meta"})
	}
	return req
}

func (c *fakeCluster) record(name string) *quorum.Resource { return c.ledger.State().Find(name) }
