package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// trace is the order in which things happened.
type trace struct {
	mu    sync.Mutex
	lines []string
}

func (tr *trace) add(format string, args ...any) {
	if tr == nil {
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.lines = append(tr.lines, fmt.Sprintf(format, args...))
}

// take returns the lines so far and forgets them.
func (tr *trace) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	l := tr.lines
	tr.lines = nil
	return l
}

// want fails unless exactly these lines were added since the last take.
func (tr *trace) want(t *testing.T, lines ...string) {
	t.Helper()
	if got := tr.take(); !slices.Equal(got, lines) {
		t.Errorf("happened:\n  %q\nwant:\n  %q", got, lines)
	}
}

// fakeCore is a core that mirrors writes to one peer and answers a write when it is complete here
// and, if a session is up, there. A test changes what it does through its hooks.
type fakeCore struct {
	t       testing.TB
	uses    []uint32 // by index
	free    []uint32
	ops     map[replication.ID]*fakeOp
	session replication.SessionID
	seq     uint64
	ackSeq  uint64
	acks    bool
	serving bool
	lease   time.Duration // until when it holds
	closed  bool
	quiet   bool
	record  *replication.Record
	alone   error // of MayGoAlone
	events  []string
	noted   bool // keep events

	// hook sees every event first; it returns false to have the event ignored otherwise.
	hook func(ev *replication.Event, emit func(replication.Action)) bool
}

type fakeOp struct {
	op      replication.Op
	ext     bitmap.Extent
	local   bool
	seq     uint64 // of the frame that the peer has to acknowledge; 0: none
	request bool
	err     error
}

func newFakeCore(t testing.TB) *fakeCore {
	return &fakeCore{t: t, ops: map[replication.ID]*fakeOp{}, serving: true, quiet: true}
}

func (f *fakeCore) NewID() replication.ID {
	if len(f.free) == 0 {
		f.free = append(f.free, uint32(len(f.uses)))
		f.uses = append(f.uses, 0)
	}
	i := f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	f.uses[i]++
	return replication.ID(uint64(f.uses[i])<<32 | uint64(i))
}

func (f *fakeCore) end(id replication.ID) {
	delete(f.ops, id)
	f.free = append(f.free, uint32(id.Index()))
}

func (f *fakeCore) Step(ev *replication.Event, out []replication.Action) []replication.Action {
	emit := func(a replication.Action) { out = append(out, a) }
	if f.noted {
		f.events = append(f.events, fmt.Sprintf("%d", ev.Kind))
	}
	if f.hook != nil && !f.hook(ev, emit) {
		return out
	}
	switch ev.Kind {
	case replication.EvRequest:
		o := &fakeOp{op: ev.Op, ext: ev.Ext, local: true, request: true}
		f.ops[ev.ID] = o
		f.request(ev, o, emit)
	case replication.EvLocalDone:
		if o := f.ops[ev.ID]; o != nil {
			o.local, o.err = false, ev.Err
			f.finish(ev.ID, o, emit)
		}
	case replication.EvFrame:
		f.frame(ev, emit)
	case replication.EvSessionUp:
		f.session = ev.Session
	case replication.EvSessionDown:
		f.session = 0
	case replication.EvLedger:
		f.record = ev.Record
	}
	return out
}

var localOf = map[replication.Op]replication.ActionKind{
	replication.OpRead:        replication.ActLocalRead,
	replication.OpWrite:       replication.ActLocalWrite,
	replication.OpWriteZeroes: replication.ActLocalZeroes,
	replication.OpTrim:        replication.ActLocalTrim,
	replication.OpFlush:       replication.ActLocalSync,
}

func (f *fakeCore) request(ev *replication.Event, o *fakeOp, emit func(replication.Action)) {
	if ev.Op == replication.OpWrite && f.session != 0 {
		f.seq++
		o.seq = f.seq
		emit(replication.Action{Kind: replication.ActSend, Session: f.session, ID: ev.ID,
			Frame: wire.Frame{Type: wire.Write, Seq: o.seq, Extent: ev.Ext, Payload: uint32(ev.Ext.Len)}})
	}
	emit(replication.Action{Kind: localOf[ev.Op], Flags: ev.Flags, ID: ev.ID, Ext: ev.Ext})
}

func (f *fakeCore) frame(ev *replication.Event, emit func(replication.Action)) {
	switch ev.Frame.Type {
	case wire.Write:
		f.ops[ev.ID] = &fakeOp{ext: ev.Frame.Extent, local: true, seq: ev.Frame.Seq}
		emit(replication.Action{Kind: replication.ActLocalWrite, ID: ev.ID, Ext: ev.Frame.Extent})
	case wire.Ack:
		for id, o := range f.ops {
			if o.request && o.seq != 0 && o.seq <= ev.Frame.Seq {
				o.seq = 0
				f.finish(id, o, emit)
			}
		}
	}
}

func (f *fakeCore) finish(id replication.ID, o *fakeOp, emit func(replication.Action)) {
	switch {
	case !o.request:
		f.ackSeq, f.acks = o.seq, true
		f.end(id)
		emit(replication.Action{Kind: replication.ActFree, ID: id})
	case !o.local && o.seq == 0:
		f.end(id)
		emit(replication.Action{Kind: replication.ActReply, ID: id, Err: o.err})
	}
}

func (f *fakeCore) EndBatch(out []replication.Action) []replication.Action {
	if f.acks {
		f.acks = false
		out = append(out, replication.Action{Kind: replication.ActSend, Session: f.session,
			Frame: wire.Frame{Type: wire.Ack, Seq: f.ackSeq}})
	}
	return out
}

func (*fakeCore) Fitness(time.Duration) (f replication.Fitness) { return f }
func (f *fakeCore) Status(time.Duration) replication.Status {
	st := replication.Status{Role: "Secondary", Serving: f.serving}
	if f.serving {
		st.Role = "Primary"
	}
	if f.record != nil {
		st.Epoch = f.record.Epoch
	}
	return st
}

func (f *fakeCore) Hello(replication.Peer) wire.Hello              { return wire.Hello{} }
func (f *fakeCore) MayGoAlone(replication.Peer) error              { return f.alone }
func (f *fakeCore) CheckHello(replication.Peer, *wire.Hello) error { return nil }
func (f *fakeCore) Serving() bool                                  { return f.serving }
func (f *fakeCore) LeaseHeldAt(now time.Duration) bool             { return f.serving && now < f.lease }
func (f *fakeCore) TakesClients() bool                             { return f.serving && !f.closed }
func (f *fakeCore) Quiet() bool                                    { return f.quiet }
func (f *fakeCore) NextTick() time.Duration                        { return replication.TickInterval }
func (f *fakeCore) Final() (m replication.Meta, p []replication.Page) {
	return replication.Meta{State: replication.UpToDate, Epoch: 9}, []replication.Page{{Index: 3}}
}

// fakeStore keeps the device in memory.
type fakeStore struct {
	tr *trace

	mu     sync.Mutex
	data   []byte
	meta   store.Meta
	failed error
	err    error         // of the next I/O
	gate   chan struct{} // not nil: I/O waits for a value

	latency time.Duration // of reads
}

func newFakeStore(tr *trace, size int) *fakeStore {
	return &fakeStore{tr: tr, data: make([]byte, size), meta: store.Meta{Peers: make([]store.PeerSlot, store.MaxPeers)}}
}

func (s *fakeStore) io(f func(), format string, args ...any) error {
	if s.gate != nil {
		<-s.gate
	}
	s.tr.add(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.err; err != nil {
		s.err = nil
		return err
	}
	if f != nil {
		f()
	}
	return nil
}

func (s *fakeStore) ReadAt(p []byte, off int64) error {
	if s.latency > 0 {
		time.Sleep(s.latency)
	}
	return s.io(func() { copy(p, s.data[off:]) }, "read %d+%d", off, len(p))
}

func (s *fakeStore) WriteAt(p []byte, off int64, fua bool) error {
	return s.io(func() { copy(s.data[off:], p) }, "write %d+%d", off, len(p))
}

func (s *fakeStore) WriteZeroes(e bitmap.Extent, punch, fua bool) error {
	return s.io(func() { clear(s.data[e.Off:e.End()]) }, "zero %d+%d", e.Off, e.Len)
}

func (s *fakeStore) Trim(e bitmap.Extent, fua bool) error {
	return s.io(func() { clear(s.data[e.Off:e.End()]) }, "trim %d+%d", e.Off, e.Len)
}
func (s *fakeStore) Sync() error     { return s.io(nil, "sync") }
func (s *fakeStore) SyncMeta() error { return s.io(nil, "sync meta") }
func (s *fakeStore) Resize(size int64) error {
	return s.io(nil, "resize %d", size)
}

func (s *fakeStore) UpdateMeta(f func(*store.Meta)) error {
	return s.io(func() { f(&s.meta) }, "meta")
}

func (s *fakeStore) SaveLog(active []bitmap.RegionIndex) error { return s.io(nil, "log %v", active) }

func (s *fakeStore) SaveBitmapPages(slot int, pages []store.PageImage) error {
	return s.io(nil, "pages %d of slot %d", len(pages), slot)
}

func (s *fakeStore) Failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}
func (s *fakeStore) Close(clean bool) error { return s.io(nil, "close clean=%t", clean) }

// fakeSession records what is sent.
type fakeSession struct {
	tr *trace
	id uint64
	mu sync.Mutex
	// sent holds the payloads of the frames, in order.
	sent   [][]byte
	closed error
}

func (s *fakeSession) ID() uint64 { return s.id }

func (s *fakeSession) Send(f *wire.Frame, payload *buf.Buf) {
	s.tr.add("send %s %d", f.Type, f.Seq)
	s.mu.Lock()
	defer s.mu.Unlock()
	if payload != nil {
		s.sent = append(s.sent, bytes.Clone(payload.B))
		payload.Release()
	}
}
func (s *fakeSession) Flush() { s.tr.add("flush session") }
func (s *fakeSession) Close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = err
}

// fakeConn is a client's connection.
type fakeConn struct{ tr *trace }

func (c *fakeConn) Flush() { c.tr.add("flush conn") }

// fakeRequest is a request whose answer is kept.
type fakeRequest struct {
	tr      *trace
	mem     *buf.Buf
	answers []error
	data    []byte // of a read, at the time of the answer
	done    chan struct{}
}

func (r *fakeRequest) Reply(err error) {
	r.tr.add("reply %v", err)
	r.answers = append(r.answers, err)
	if r.mem != nil {
		r.data = bytes.Clone(r.mem.B)
		r.mem.Release()
	}
	close(r.done)
}

// rig is a Device with everything around it faked.
type rig struct {
	t     testing.TB
	tr    *trace
	d     *Device
	core  *fakeCore
	store *fakeStore
	conn  *fakeConn
	mems  []*buf.Buf // of requests and frames; the rig has a reference of its own to each
}

const rigSize = 64 << 20

// newRig makes a rig with one peer, which no goroutine serves yet.
func newRig(t testing.TB, cfg Config, deps Deps) *rig {
	t.Helper()
	tr := &trace{}
	r := &rig{t: t, tr: tr, core: newFakeCore(t), store: newFakeStore(tr, rigSize), conn: &fakeConn{tr}}
	cfg.Resource, cfg.Node = "r0", "n1"
	r.d = newDevice(cfg, deps, r.store)
	r.d.core = r.core
	r.d.patience = time.Hour // what a test expects must not depend on the load of its host
	l := &link{d: r.d, node: "n2"}
	l.link = peer.NewLink(peer.LinkConfig{Resource: "r0", Self: "n3", Peer: "n2", Handler: l})
	r.d.links = []*link{l}
	return r
}

// run serves the rig's device until stop is called.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.d.Run(ctx); !errors.Is(err, errStop) {
			r.t.Errorf("Run: %v", err)
		}
	}()
	return func() {
		cancel(errStop)
		<-done
	}
}

var errStop = errors.New("the test is over")

// payload returns a buffer of n bytes with a pattern that depends on seed, to which the rig keeps
// a reference.
func (r *rig) payload(n int64, seed byte) *buf.Buf {
	b := buf.Get(int(n))
	for i := range b.B {
		b.B[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	r.mems = append(r.mems, b.Retain())
	return b
}

// checkBuffers fails unless the rig has the last reference to every buffer it made.
func (r *rig) checkBuffers() {
	r.t.Helper()
	for i, b := range r.mems {
		b.Release()
		if !lastReleased(b) {
			r.t.Errorf("buffer %d is still held by somebody", i)
		}
	}
	r.mems = nil
	if r.d.used != 0 {
		r.t.Errorf("%d slots are still in use", r.d.used)
	}
}

// lastReleased reports whether b has been given back: one more Release panics then.
func lastReleased(b *buf.Buf) (yes bool) {
	defer func() { yes = recover() != nil }()
	b.Release()
	return false
}

// ask makes a call, to be given to submit.
func (r *rig) ask(op replication.Op, off, n int64) (*call, *fakeRequest) {
	q := &fakeRequest{tr: r.tr, done: make(chan struct{})}
	c := r.d.newCall()
	c.ans, c.conn, c.op, c.ext = q, r.conn, op, bitmap.Extent{Off: off, Len: n}
	if op == replication.OpRead || op == replication.OpWrite {
		q.mem = r.payload(n, byte(off>>12))
		c.buf = q.mem
	}
	c.cost = r.d.window.cost(c.payloadLen())
	return c, q
}

// submit gives calls to the device as a connection's reader does.
func (r *rig) submit(calls ...*call) {
	t := r.d.begin(true)
	r.d.mu.Lock()
	from := &door{n: r.d.doors}
	r.d.mu.Unlock()
	r.d.submit(t, from, calls)
	t.finish()
}

// connect brings a session with the peer up.
func (r *rig) connect(id uint64) *fakeSession {
	s := &fakeSession{tr: r.tr, id: id}
	r.d.links[0].up(s, wire.Hello{})
	return s
}
