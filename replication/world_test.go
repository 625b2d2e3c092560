package replication

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// world is two replicas, their disks, the network between them and a ledger, driven by one
// seeded generator. Every asynchronous thing (local I/O, saves, frames, records, proposals) ends
// in an order that the generator draws; links break, processes are killed, hosts crash.
type world struct {
	t          testing.TB
	seed       uint64
	rng        *rand.Rand
	now        time.Duration
	size       int64
	nodes      []*wnode
	rec        wrecord
	history    []wrecord // every record there was
	asks       []wask
	session    SessionID
	link       bool // the network lets the two connect
	joined     bool // a session is up
	nextVal    uint64
	ticks      int // of clock
	blocks     map[int64]*wblock
	trace      []string
	events     map[string]int
	mayDiverge bool // a test made them so
	noJoin     bool // the ledger refuses every Join
	joins      int  // that were asked for

	ioError  bool          // policy: errors without a quorum
	deadline time.Duration // policy: of a freeze
	patience time.Duration // PeerTimeout; 0: the default
}

type wnode struct {
	w        *world
	i        int
	name     string
	core     *Resource
	alive    bool
	process  uint64
	boot     int
	stored   Stored
	pages    *bitmap.Bitmap // stored bitmap for the one peer
	cache    []uint64       // what reads see
	durable  []uint64
	slots    map[ID][]uint64
	io       []wio
	saves    []Action
	records  []*Record
	inbox    []wframe
	session  SessionID
	downs    []SessionID // sessions whose end has to be delivered
	requests map[ID]*wreq
	deaf     bool // nothing of the ledger reaches it, either way
	noRoom   bool // the metadata file cannot grow
	hang     bool // the disk completes nothing
	full     bool // disk full: writes fail with ENOSPC
	onAct    func(Action)
	onReply  func(Action)
}

type wrecord struct {
	version, epoch uint64
	primary        int // -1
	process        uint64
	in             [2]bool
	lineage        []uint64
}

type wask struct {
	node    int
	process uint64
	token   uint64
	p       Proposal
}

type wio struct{ a Action }

type wframe struct {
	session SessionID
	f       wire.Frame
	vals    []uint64
}

type wreq struct {
	op   Op
	ext  bitmap.Extent
	vals []uint64
	at   time.Duration
	seen int // events of the world when it was issued
}

// wblock is the history of one block: every value written, with when it began and ended.
type wblock struct{ writes []*wwrite }

type wwrite struct {
	val      uint64
	began    int
	ended    int // known end: answered, or its connection closed
	acked    bool
	observed int // a read returned it
}

const never = 1 << 60

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), size: 12 * bitmap.RegionSize, link: true,
		blocks: map[int64]*wblock{}, now: time.Hour, events: map[string]int{}}
	w.rec = wrecord{version: 1, primary: -1, in: [2]bool{true, true}}
	switch seed % 4 {
	case 1:
		w.ioError, w.patience = true, 80*time.Millisecond
	case 2:
		w.deadline = 100 * time.Millisecond
	}
	for i, name := range []string{"n1", "n2"} {
		n := &wnode{w: w, i: i, name: name, cache: make([]uint64, w.size/bitmap.BlockSize), durable: make([]uint64, w.size/bitmap.BlockSize)}
		n.stored = Stored{Meta: Meta{State: UpToDate, Size: w.size}, Clean: true}
		n.pages = bitmap.New(w.size)
		w.nodes = append(w.nodes, n)
		n.start()
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	n := max(0, len(w.trace)-traceLines)
	for _, l := range w.trace[n:] {
		w.t.Log(l)
	}
	w.t.Fatalf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%v ", w.now)+fmt.Sprintf(format, args...))
}

func (w *world) record(n *wnode) *Record {
	rec := &Record{Version: w.rec.version, Epoch: w.rec.epoch, Lineage: slices.Clone(w.rec.lineage), Size: w.size,
		SelfInSet: w.rec.in[n.i], SelfKnown: true, InSet: []bool{w.rec.in[1-n.i]}, Failed: []bool{false}, Instances: []uint64{uint64(100 + 1 - n.i)}}
	if w.rec.primary < 0 && w.rec.epoch > 0 {
		rec.Released = []uint64{w.rec.epoch}
	}
	rec.NoQuorumError, rec.FreezeDeadline = w.ioError, w.deadline
	if w.rec.primary >= 0 {
		rec.Primary = w.nodes[w.rec.primary].name
		rec.PrimaryIsMe = w.rec.primary == n.i && w.rec.process == n.process
	}
	return rec
}

func (w *world) publish() {
	w.rec.version++
	old := w.rec
	old.lineage = slices.Clone(old.lineage)
	w.history = append(w.history, old)
	for _, n := range w.nodes {
		if n.alive {
			n.records = append(n.records, w.record(n))
		}
	}
}

// start begins a new process on n.
func (n *wnode) start() {
	w := n.w
	n.alive, n.process, n.deaf = true, w.rng.Uint64(), false
	n.slots, n.requests = map[ID][]uint64{}, map[ID]*wreq{}
	n.io, n.saves, n.records, n.inbox, n.downs, n.session = nil, nil, nil, nil, nil, 0
	st := n.stored
	st.Bitmaps = []*bitmap.Bitmap{n.pages.Clone()}
	core, err := New(Config{Resource: "r0", Node: n.name, Instance: uint64(100 + n.i), Boot: fmt.Sprint(n.boot), Process: n.process,
		Peers: []string{w.nodes2(n.i)}, Regions: 7, PeerTimeout: w.patience, NewID: func() uint64 { return w.rng.Uint64() | 1 }}, st)
	if err != nil {
		w.fail("%v", err)
	}
	n.core = core
	n.stored.Clean = false
	n.step(&Event{Kind: EvTick})
	// Its copy of the ledger may lag behind when it starts.
	if k := len(w.history); k > 0 && w.rng.IntN(2) == 0 {
		now := w.rec
		w.rec = w.history[w.rng.IntN(k)]
		n.records = append(n.records, w.record(n))
		w.rec = now
	}
	n.records = append(n.records, w.record(n))
}

func (w *world) nodes2(i int) string { return []string{"n2", "n1"}[i] }

// stop ends n's process; with crash its host loses unsynced blocks by the generator's choice.
func (n *wnode) stop(crash bool) {
	w := n.w
	n.alive = false
	for _, r := range n.requests {
		w.unknown(r)
	}
	for _, io := range n.io { // what was handed to the kernel may or may not have happened
		if w.rng.IntN(2) == 0 {
			n.perform(io.a)
		}
	}
	w.breakSession()
	n.downs = nil
	if crash {
		n.boot++
		n.stored.Unclean = true
		for i := range n.cache {
			if n.cache[i] != n.durable[i] && w.rng.IntN(2) == 0 {
				n.cache[i] = n.durable[i]
			}
		}
		copy(n.durable, n.cache)
	}
}

func (w *world) breakSession() {
	if !w.joined {
		return
	}
	w.joined = false
	for _, n := range w.nodes {
		n.inbox = nil
		if n.alive && n.session != 0 {
			n.downs = append(n.downs, n.session)
		}
	}
}

// step feeds one event to n's core and carries out what it says.
func (n *wnode) step(ev *Event) {
	w := n.w
	ev.Now = w.now
	out := n.core.Step(ev, nil)
	out = n.core.EndBatch(out)
	for _, a := range out {
		n.act(a)
	}
	w.check()
}

func (n *wnode) act(a Action) {
	w := n.w
	if n.onAct != nil {
		n.onAct(a)
	}
	switch a.Kind {
	case ActReply, ActReplyEarly:
		n.reply(a)
	case ActDrop:
		w.unknown(n.requests[a.ID])
		delete(n.requests, a.ID)
		delete(n.slots, a.ID)
	case ActFree:
		delete(n.slots, a.ID)
	case ActLocalRead, ActLocalWrite, ActLocalZeroes, ActLocalTrim, ActLocalSync, ActLocalHash, ActLocalCompare:
		n.io = append(n.io, wio{a})
	case ActSend:
		if w.joined && n.session == a.Session && len(n.downs) == 0 {
			f := wframe{session: a.Session, f: a.Frame}
			if a.ID != 0 {
				f.vals = slices.Clone(n.slots[a.ID])
			}
			if a.Frame.Payload > 0 && f.vals == nil {
				w.fail("%s sends %s without its payload", n.name, a.Frame.Type)
			}
			p := w.nodes[1-n.i]
			p.inbox = append(p.inbox, f)
		}
	case ActSaveLog, ActSaveMeta:
		n.saves = append(n.saves, a)
	case ActPropose:
		w.asks = append(w.asks, wask{n.i, n.process, a.Token, *a.Proposal})
	case ActCloseSession:
		if n.session == a.Session {
			w.logf("%s closes session: %s", n.name, a.Reason)
			w.breakSession()
		}
	case ActCloseClients:
		w.logf("%s closes clients", n.name)
	case ActNotice:
		w.logf("%s: %s: %s", n.name, a.Notice.Kind, a.Notice.Text)
		w.events[a.Notice.Kind.String()]++
		if !w.mayDiverge && (strings.Contains(a.Notice.Text, "restored") || strings.Contains(a.Notice.Text, "iverged")) {
			w.fail("%s believes that data was replaced: %s", n.name, a.Notice.Text)
		}
	case ActDiskFailed:
		if n.hang {
			break
		}
		w.fail("%s: disk failed", n.name)
	}
}

func blocksOf(e bitmap.Extent) (int64, int64) {
	return e.Off / bitmap.BlockSize, (e.End() + bitmap.BlockSize - 1) / bitmap.BlockSize
}

// perform does a local I/O and returns the event that reports it.
func (n *wnode) perform(a Action) *Event {
	ev := &Event{Kind: EvLocalDone, ID: a.ID}
	lo, hi := blocksOf(a.Ext)
	switch a.Kind {
	case ActLocalRead, ActLocalHash:
		n.slots[a.ID] = slices.Clone(n.cache[lo:hi])
		ev.Zero = !slices.ContainsFunc(n.slots[a.ID], func(v uint64) bool { return v != 0 })
	case ActLocalWrite, ActLocalZeroes, ActLocalTrim:
		vals := n.slots[a.ID]
		if a.Kind != ActLocalWrite {
			vals = make([]uint64, hi-lo)
		}
		if n.full && a.Kind == ActLocalWrite {
			vals = vals[:n.w.rng.IntN(len(vals))]
			ev.Err = fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		copy(n.cache[lo:hi], vals)
		if a.Flags&FlagFUA != 0 {
			copy(n.durable[lo:hi], vals)
		}
	case ActLocalSync:
		copy(n.durable, n.cache)
	case ActLocalCompare:
		d := &Diff{}
		for b := lo; b < hi; b++ {
			if n.slots[a.ID][b-lo] != n.cache[b] {
				d.Set(int(b - lo))
			}
		}
		ev.Diff = d
	}
	return ev
}

func (n *wnode) save(a Action) *Event {
	if n.noRoom && len(a.Pages) > 0 {
		ev := &Event{Kind: EvMetaSaved, Token: a.Token, Err: fmt.Errorf("page: %w", syscall.ENOSPC)}
		if a.Kind == ActSaveLog {
			ev.Kind, ev.Gen = EvLogSaved, a.Log.Gen
		}
		return ev
	}
	for _, p := range a.Pages {
		if err := n.pages.SetPage(p.Index, p.Bits); err != nil {
			n.w.fail("page: %v", err)
		}
	}
	if a.Kind == ActSaveLog {
		if len(a.Log.Evicted) > 0 {
			copy(n.durable, n.cache)
		}
		n.stored.Active = a.Log.Active
		n.stored.LogSeq++
		return &Event{Kind: EvLogSaved, Gen: a.Log.Gen}
	}
	unclean := n.stored.Unclean
	n.stored.Meta = *a.Meta
	n.stored.Unclean = a.Meta.Unclean && unclean
	return &Event{Kind: EvMetaSaved, Token: a.Token}
}

// reply takes the answer to a request and checks it against the history.
func (n *wnode) reply(a Action) {
	w := n.w
	r := n.requests[a.ID]
	if r == nil {
		w.fail("%s answers %#x twice or unasked", n.name, uint64(a.ID))
	}
	w.events["reply"]++
	if n.onReply != nil {
		n.onReply(a)
	}
	lo, hi := blocksOf(r.ext)
	now := w.clock()
	switch {
	case a.Err != nil:
		w.unknown(r)
	case r.op == OpRead:
		for b := lo; b < hi; b++ {
			w.checkRead(n, b, n.slots[a.ID][b-lo], r)
		}
	case r.op != OpFlush:
		for b := lo; b < hi; b++ {
			x := w.write(b, r.vals[b-lo])
			x.acked, x.ended = true, now
		}
		w.checkAcked(n, r)
	}
	delete(n.requests, a.ID)
	if a.Kind == ActReplyEarly {
		w.events["reply_early"]++
		return
	}
	delete(n.slots, a.ID)
}

// checkAcked: an answered write is on every member of the recorded set (rule 1), unless a
// later one overlaps it already.
func (w *world) checkAcked(n *wnode, r *wreq) {
	lo, hi := blocksOf(r.ext)
	for b := lo; b < hi; b++ {
		for i, m := range w.nodes {
			if !w.rec.in[i] || !m.alive || m.stored.Unclean { // a crashed host may have lost it; another member has it
				continue
			}
			if got := m.cache[b]; got != r.vals[b-lo] && !w.overlapped(b, r) {
				w.fail("%s answered write of block %d, member %s holds %d, not %d", n.name, b, m.name, got, r.vals[b-lo])
			}
		}
	}
}

func (w *world) overlapped(b int64, r *wreq) bool {
	for _, x := range w.blocks[b].writes {
		if x.val != r.vals[0] && x.ended >= r.seen && x.began >= 0 && x.began > r.seen-1 {
			return true
		}
		if x.ended == never && x.val != r.vals[0] {
			return true
		}
	}
	return false
}

// clock numbers what happens to blocks.
func (w *world) clock() int { w.ticks++; return w.ticks }

func (w *world) write(b int64, val uint64) *wwrite {
	for _, x := range w.blocks[b].writes {
		if x.val == val {
			return x
		}
	}
	panic("unknown value")
}

// unknown ends a request whose effect nobody knows: nothing of it may appear later once
// something issued after this moment was answered.
func (w *world) unknown(r *wreq) {
	if r == nil || r.op == OpRead || r.op == OpFlush {
		return
	}
	lo, hi := blocksOf(r.ext)
	for b := lo; b < hi; b++ {
		if x := w.write(b, r.vals[b-lo]); x.ended == never {
			x.ended = w.clock()
		}
	}
}

// checkRead: val is the value of a write that no answered or observed write has superseded.
func (w *world) checkRead(n *wnode, b int64, val uint64, r *wreq) {
	h := w.blocks[b]
	if h == nil {
		if val != 0 {
			w.fail("%s reads %d from block %d, never written", n.name, val, b)
		}
		return
	}
	got := &wwrite{began: -1, ended: -1}
	if val != 0 {
		got = w.write(b, val)
	}
	for _, x := range h.writes {
		done := never
		if x.acked {
			done = x.ended
		}
		if x.observed > 0 {
			done = min(done, x.observed)
		}
		if x.began > got.ended && done < r.seen {
			w.fail("%s reads %d from block %d, superseded by %d (began %d after %d ended, done %d before the read at %d)",
				n.name, val, b, x.val, x.began, got.ended, done, r.seen)
		}
	}
	if got.observed == 0 && val != 0 {
		got.observed = w.clock()
	}
}

// issue sends a client's request, of any kind, to n.
func (w *world) issue(n *wnode) {
	blocks := w.size / bitmap.BlockSize
	lo := w.rng.Int64N(24) * (blocks / 24)
	if w.rng.IntN(2) == 0 {
		lo = w.rng.Int64N(12)
	}
	cnt := min(1+w.rng.Int64N(8), blocks-lo)
	op, ext := OpWrite, bitmap.Extent{Off: lo * bitmap.BlockSize, Len: cnt * bitmap.BlockSize}
	switch w.rng.IntN(10) {
	case 0, 1, 2, 3:
		op = OpRead
	case 4:
		op, ext = OpFlush, bitmap.Extent{}
	}
	var fl OpFlags
	if w.rng.IntN(8) == 0 {
		fl = FlagFUA
	}
	w.request(n, op, ext, fl)
}

// request sends one request to n; a write has a value of its own.
func (w *world) request(n *wnode, op Op, ext bitmap.Extent, fl OpFlags) {
	r := &wreq{op: op, ext: ext, at: w.now}
	id := n.core.NewID()
	r.seen = w.clock()
	if op == OpWrite {
		w.nextVal++
		for b, hi := blocksOf(ext); b < hi; b++ {
			r.vals = append(r.vals, w.nextVal)
			if w.blocks[b] == nil {
				w.blocks[b] = &wblock{}
			}
			w.blocks[b].writes = append(w.blocks[b].writes, &wwrite{val: w.nextVal, began: r.seen, ended: never})
		}
		n.slots[id] = r.vals
	}
	n.requests[id] = r
	n.step(&Event{Kind: EvRequest, ID: id, Op: op, Ext: ext, Flags: fl})
}

// promote is the operator: fit by what the control plane would see.
func (w *world) promote(n *wnode) {
	if o := w.nodes[1-n.i]; n.stored.Unclean && w.rec.in[o.i] && !o.stored.Unclean {
		return // rule 9
	}
	if !n.alive || !w.rec.in[n.i] || n.stored.State != UpToDate || w.rec.primary == n.i && w.rec.process == n.process {
		return
	}
	w.rec.epoch = max(w.rec.epoch, n.stored.Epoch) + 1
	w.rec.primary, w.rec.process = n.i, n.process
	w.rec.lineage = append(w.rec.lineage, w.rng.Uint64())
	w.logf("operator promotes %s, epoch %d", n.name, w.rec.epoch)
	w.publish()
}

// ledgerTurn answers the oldest proposal.
func (w *world) ledgerTurn() {
	a := w.asks[0]
	w.asks = w.asks[1:]
	n := w.nodes[a.node]
	outcome := OutcomeRefused
	if a.p.Kind == ProposeJoin {
		w.joins++
	}
	if !(w.noJoin && a.p.Kind == ProposeJoin) && a.p.Version == w.rec.version && a.p.Epoch == w.rec.epoch && w.rec.primary == a.node && w.rec.process == a.process {
		outcome = OutcomeApplied
		switch a.p.Kind {
		case ProposeDrop:
			w.rec.in[1-a.node] = false
			w.rec.lineage = append(w.rec.lineage, w.rng.Uint64())
		case ProposeJoin:
			w.rec.in[1-a.node] = true
			if m := w.nodes[1-a.node]; m.alive && m.stored.State != UpToDate && m.stored.State != Outdated {
				w.fail("Join of %s, whose stored state is %s", m.name, m.stored.State)
			}
			if n.alive && n.process == a.process { // a dead primary's unanswered writes may differ
				w.checkEqual("at Join")
			}
		case ProposeStepDown:
			w.rec.primary = -1
		case ProposeNoOp:
		}
		w.logf("ledger applies kind %d of %s", a.p.Kind, n.name)
		w.publish()
	}
	if n.alive && n.process == a.process {
		for len(n.records) > 0 {
			n.deliverRecord()
		}
		n.step(&Event{Kind: EvProposalDone, Token: a.token, Outcome: outcome})
	}
}

func (n *wnode) deliverRecord() {
	rec := n.records[0]
	n.records = n.records[1:]
	n.step(&Event{Kind: EvLedger, Record: rec})
}

// check holds after every event: at most one replica serves inside a valid lease.
func (w *world) check() {
	serving := 0
	for _, n := range w.nodes {
		if n.alive && n.core != nil && n.core.now > 0 && n.core.Serving() {
			old := n.core.now
			n.core.now = w.now
			if n.core.leaseValid() && len(n.records) == 0 {
				serving++
			}
			n.core.now = old
		}
	}
	if serving > 1 {
		w.fail("two replicas serve")
	}
}

// checkEqual: a block that neither side holds to be dirty, unstable or in flight is equal.
func (w *world) checkEqual(when string) {
	a, b := w.nodes[0], w.nodes[1]
	for i := range a.cache {
		if a.cache[i] == b.cache[i] {
			continue
		}
		ext := bitmap.Extent{Off: int64(i) * bitmap.BlockSize, Len: bitmap.BlockSize}
		if w.inFlight(ext) || (w.rec.primary >= 0 && w.nodes[w.rec.primary].core.peers[0].dirty.Any(ext)) {
			continue
		}
		w.fail("%s: block %d differs: %d and %d", when, i, a.cache[i], b.cache[i])
	}
}

func (w *world) inFlight(ext bitmap.Extent) bool {
	for _, n := range w.nodes {
		for i := range n.core.ops {
			o := &n.core.ops[i]
			if n.alive && (o.kind == opWrite || o.kind == opApply) && o.ext.Overlaps(ext) {
				return true
			}
		}
		for _, f := range n.inbox {
			if f.f.Extent.Overlaps(ext) {
				return true
			}
		}
	}
	return false
}

// progress lets one thing happen that was under way. It returns false when nothing was.
func (w *world) progress() bool {
	var can []func()
	for _, n := range w.nodes {
		if !n.alive {
			continue
		}
		if len(n.inbox) > 0 && len(n.downs) == 0 {
			can = append(can, n.receive)
		}
		if len(n.io) > 0 && !n.hang {
			can = append(can, n.finishIO)
		}
		if len(n.saves) > 0 {
			can = append(can, func() {
				a := n.saves[0]
				n.saves = n.saves[1:]
				n.step(n.save(a))
			})
		}
		if len(n.downs) > 0 {
			can = append(can, func() {
				s := n.downs[0]
				n.downs = n.downs[1:]
				n.session = 0
				n.step(&Event{Kind: EvSessionDown, Session: s, Err: fmt.Errorf("cut")})
			})
		}
		if len(n.records) > 0 && !n.deaf {
			can = append(can, n.deliverRecord)
		}
	}
	if len(w.asks) > 0 && !w.nodes[w.asks[0].node].deaf {
		can = append(can, w.ledgerTurn)
	}
	if w.link && !w.joined && w.nodes[0].alive && w.nodes[1].alive && w.nodes[0].session == 0 && w.nodes[1].session == 0 {
		can = append(can, w.connect)
	}
	if len(can) == 0 {
		return false
	}
	can[w.rng.IntN(len(can))]()
	return true
}

func (n *wnode) receive() {
	m := n.inbox[0]
	n.inbox = n.inbox[1:]
	ev := &Event{Kind: EvFrame, Session: m.session, Frame: &m.f}
	if NeedsID(m.f.Type) {
		ev.ID = n.core.NewID()
		n.slots[ev.ID] = m.vals
	}
	n.step(ev)
}

func (n *wnode) finishIO() {
	i := n.w.rng.IntN(len(n.io))
	io := n.io[i]
	n.io = slices.Delete(n.io, i, i+1)
	n.step(n.perform(io.a))
}

func (w *world) connect() {
	for _, n := range w.nodes {
		h := w.nodes[1-n.i].core.Hello(0)
		if err := n.core.CheckHello(0, &h); err != nil {
			w.fail("hello: %v", err)
		}
	}
	w.session++
	w.joined = true
	hellos := []wire.Hello{w.nodes[1].core.Hello(0), w.nodes[0].core.Hello(0)}
	for _, n := range w.nodes {
		n.session = w.session
	}
	for i, n := range w.nodes {
		n.step(&Event{Kind: EvSessionUp, Session: w.session, Hello: &hellos[i]})
	}
}

func (w *world) tick(d time.Duration) {
	w.now += d
	for _, n := range w.nodes {
		if n.alive {
			n.step(&Event{Kind: EvTick})
		}
	}
}

// heal ends all faults and lets the world come to rest: one primary, both members, no dirt.
func (w *world) heal() {
	w.link = true
	for _, n := range w.nodes {
		n.full, n.noRoom, n.deaf = false, false, false
		if !n.alive {
			n.start()
		}
	}
	for round := range 4000 {
		for range 50 {
			if !w.progress() {
				break
			}
		}
		w.tick(10 * time.Millisecond)
		if w.rec.primary < 0 || w.nodes[w.rec.primary].process != w.rec.process {
			w.promote(w.nodes[round%2])
		}
		if w.rested() {
			return
		}
	}
	for _, n := range w.nodes {
		w.logf("%s: %+v", n.name, n.core.Status(w.now))
		for _, p := range n.core.peers {
			w.logf("  %s phase %s sync %s counts %v need %v mustDrop %v retry %v dirty %d", p.node, p.phase, p.sync, p.counts, p.needSettle, p.mustDrop, p.retryAt, p.dirty.Blocks())
		}
		for i := range n.core.ops {
			if o := &n.core.ops[i]; o.kind > opNew {
				w.logf("  op %d kind %d state %s local %v need %b blockers %d %v", i, o.kind, o.state, o.local, o.need, o.blockers, o.ext)
			}
		}
	}
	w.fail("does not come to rest: record %+v", w.rec)
}

func (w *world) rested() bool {
	if w.rec.primary < 0 || !w.rec.in[0] || !w.rec.in[1] {
		return false
	}
	n := w.nodes[w.rec.primary]
	p := n.core.peers[0]
	return n.core.Serving() && len(n.requests) == 0 && p.phase == phaseFollowing && p.dirty.Empty() && p.sync == syncIdle && len(w.nodes[0].io)+len(w.nodes[1].io) == 0 && p.inflight.len() == 0
}

// traceLines bounds the trace that a failure prints.
const traceLines = 400
