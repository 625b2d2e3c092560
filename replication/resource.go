package replication

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// role is what this replica does.
//
//	secondary --Promote applied--> starting --ready--> primary --EvStop--> stopping --StepDown--> secondary
//	starting, primary, stopping --newer epoch--> secondary
//
// Only primary admits requests. stopping and a stopped primary never serve again in their epoch
// (rule 3).
type role uint8

const (
	roleSecondary role = iota
	roleStarting
	rolePrimary
	roleStopping
	roleStopped // clients are gone, StepDown is asked for
)

var roleNames = [...]string{"Secondary", "Starting", "Primary", "Stopping", "Stopped"}

func (r role) String() string { return roleNames[r] }

// Resource is the core of one replica. It is not safe for concurrent use.
type Resource struct {
	cfg  Config
	now  time.Duration
	out  []Action
	meta Meta // as it should be; see saveMeta
	rec  *Record

	role      role
	epoch     uint64 // that this process is or was primary of
	roleAt    time.Duration
	leading   bool // the metadata of epoch is durable: peers may be led
	peers     []*peer
	byNode    map[string]Peer
	stopBy    time.Duration
	stopFail  bool
	failed    bool          // the local disk
	diskAt    time.Duration // it was last watched
	paused    bool
	saveToken uint64
	onSaved   []afterSave
	onRetry   []func() // waited for a save that found no room

	arena
	locks       lockTable
	log         *bitmap.Log
	logTx       *bitmap.Tx    // the newest transaction
	logRetryAt  time.Duration // when it is tried again; 0: it is on its way or durable
	metaRetryAt time.Duration // the same for the metadata
	logFull     []ID          // ops the activity log had no room for, in order
	logging     []ID          // ops whose regions are staged
	held        []ID
	gated       []ID
	healing     []ID
	leasing     []ID
	started     opList // client writes under way, in order of seq
	reads       int    // client reads with local I/O under way
	locals      int    // local I/O under way, of any kind
	seq         uint64 // newest sequence number given out
	flush       flushState
	prop        proposalState
	frozen      bool
	freeze      freezeState
	clients     map[ClientID]*client
	opening     []ClientID    // clients whose newest session waits to be admitted, in order
	stamp       uint64        // changes of the stored activity log: see checkRestored
	awake       time.Duration // like now, but does not count the time in which this process stood still
	gapAt       time.Duration // the clock last jumped by more than a lease between two events

	// Work left to be done before Step returns.
	ready   []int32 // ops whose last lock was released
	readmit bool
	regate  bool

	follower
	promise
	verify   verifyState
	throttle throttle
}

// afterSave is a continuation that waits for metadata to be durable.
type afterSave struct {
	token uint64
	do    func()
}

// New makes the core of a replica whose process has just started. It is a secondary, whatever it
// was before (rule 3). It returns an error when st cannot be of this replica.
func New(cfg Config, st Stored) (*Resource, error) {
	cfg = cfg.withDefaults()
	n := len(cfg.Peers)
	if n > 16 || len(st.PeerInstance) > n || len(st.PeerSession) > n || len(st.PeerPending) > n || len(st.PeerStamp) > n || len(st.Bitmaps) > n {
		return nil, fmt.Errorf("resource %s: metadata knows more peers than the %d configured", cfg.Resource, n)
	}
	r := &Resource{cfg: cfg, meta: st.Meta, log: bitmap.NewLog(cfg.Regions), started: newOpList(), byNode: map[string]Peer{}}
	r.follower.leader = -1
	grow := func(s []uint64) []uint64 { return append(append([]uint64(nil), s...), make([]uint64, n-len(s))...) }
	r.meta.PeerInstance, r.meta.PeerSession, r.meta.PeerPending = grow(st.PeerInstance), grow(st.PeerSession), grow(st.PeerPending)
	r.meta.PeerStamp = grow(st.PeerStamp)
	for i, node := range cfg.Peers {
		p := &peer{idx: Peer(i), node: node, instance: r.meta.PeerInstance[i], stamp: r.meta.PeerStamp[i], hint: -1,
			coarse: bitmap.New(st.Size), unstable: bitmap.New(st.Size), flushing: bitmap.New(st.Size), stored: map[int]bool{}}
		if i < len(st.Bitmaps) && st.Bitmaps[i] != nil {
			p.dirty = st.Bitmaps[i]
			for pg := range p.dirty.PageCount() {
				if p.dirty.Page(pg) != nil {
					p.stored[pg] = true
				}
			}
		} else {
			p.dirty = bitmap.New(st.Size)
		}
		if !st.Clean && !planted.On(planted.ActiveForgotten) {
			// What is stored is older than the crash: a superset, and every region that was
			// active may have been written (rule 6).
			for _, reg := range st.Active {
				p.mark(reg.Extent().Clip(st.Size))
			}
			p.coarse.Or(p.dirty)
		}
		r.peers = append(r.peers, p)
		r.byNode[node] = p.idx
	}
	if !st.Clean {
		// The regions stay in the log until they are evicted: evicting stores the bitmap pages.
		r.log.Restore(st.Active)
	}
	r.stamp = st.LogSeq
	r.failed = st.State == Failed
	if planted.On(planted.FailedHealedByRestart) && r.failed {
		r.failed, r.meta.State = false, UpToDate
	}
	return r, nil
}

// NewID returns an ID for a request or a frame that the shell is about to bring.
func (r *Resource) NewID() ID {
	_, id := r.alloc()
	return id
}

// Step advances r by one event and appends to out what must now be done.
func (r *Resource) Step(ev *Event, out []Action) []Action {
	r.out = out
	r.pass(ev.Now)
	switch ev.Kind {
	case EvTick:
		r.tick()
	case EvRequest:
		r.request(ev)
	case EvLocalDone:
		r.localDone(ev)
	case EvLogSaved:
		r.logSaved(ev)
	case EvMetaSaved:
		r.metaSaved(ev)
	case EvSessionUp:
		r.sessionUp(r.peers[ev.Peer], ev)
	case EvSessionDown:
		r.sessionDown(r.peers[ev.Peer], ev)
	case EvFrame:
		r.frame(r.peers[ev.Peer], ev)
	case EvLedger:
		r.ledger(ev.Record)
	case EvProposalDone:
		r.proposalDone(ev)
	case EvStop:
		r.stop(ev.Failed)
	case EvPause, EvResume:
		r.paused = ev.Kind == EvPause
	case EvVerify:
		r.startVerify(r.peers[ev.Peer], ev.Repair)
	case EvClient:
		r.openClient(ev)
	case EvClientGone:
		r.closeClient(ev)
	case EvInvalidate:
		r.invalidate(r.peers[ev.Peer])
	case EvDiscard:
		r.discardData()
	default:
		panic(fmt.Sprintf("core: unknown event %d", ev.Kind))
	}
	r.settle()
	out, r.out = r.out, nil
	return out
}

// longestGap between two events is how long a process that runs may take; beyond it, it stood still.
const longestGap = 2 * IdleTickInterval

// pass lets the clock advance; it never goes back.
func (r *Resource) pass(now time.Duration) {
	if r.now == 0 {
		r.startPromise(now)
		r.roleAt = now
	}
	r.awake += min(now-r.now, longestGap)
	if now-r.now > r.lease() {
		r.gapAt = now // this process stood still: whoever counts on it may have gone on
	}
	r.now = max(r.now, now)
}

// settle does what the event has made possible, until nothing more follows.
func (r *Resource) settle() {
	for {
		switch {
		case len(r.ready) > 0:
			i := r.ready[len(r.ready)-1]
			r.ready = r.ready[:len(r.ready)-1]
			r.lockedNow(i)
		case r.readmit:
			r.readmit = false
			r.admitHeld()
		case r.regate:
			r.regate = false
			r.admitGated()
		default:
			if r.advanceAll() {
				continue
			}
			r.retryLog()
			if len(r.ready) > 0 || r.readmit || r.regate {
				continue
			}
			r.propose()
			r.noteFreeze()
			return
		}
	}
}

// advanceAll moves every peer's synchronisation and the role on; it reports whether the loop of
// settle has new work.
func (r *Resource) advanceAll() bool {
	r.advanceRole()
	r.advanceFreeze()
	for _, p := range r.peers {
		r.advance(p)
	}
	r.advanceVerify()
	r.advanceFollow()
	r.advanceClients()
	return len(r.ready) > 0 || r.readmit || r.regate
}

func (r *Resource) emit(a Action) { r.out = append(r.out, a) }

// notice reports a transition.
func (r *Resource) notice(k NoticeKind, peer, format string, args ...any) {
	r.emit(Action{Kind: ActNotice, Notice: &Notice{Kind: k, Peer: peer, Text: fmt.Sprintf(format, args...)}})
}

// isPrimary reports whether this process is primary of r.epoch, serving or about to.
func (r *Resource) isPrimary() bool {
	return r.role == roleStarting || r.role == rolePrimary || r.role == roleStopping
}

// localDone takes the end of a local I/O to whoever began it.
func (r *Resource) localDone(ev *Event) {
	i, o := r.find(ev.ID)
	if o == nil || !o.local {
		panic(fmt.Sprintf("core: end of local I/O for unknown operation %#x, epoch %d", uint64(ev.ID), r.epoch))
	}
	o.local = false
	r.locals--
	if o.state == opOrphan {
		r.endOrphan(i, o)
		return
	}
	switch o.kind {
	case opRead:
		r.readDone(i, o, ev.Err)
	case opWrite:
		r.writeDone(i, o, ev.Err)
	case opFlush:
		r.syncDone(i, o, ev.Err)
	case opApply:
		r.applyDone(i, o, ev.Err)
	case opApplySync:
		r.applySyncDone(i, o, ev.Err)
	case opHash:
		r.hashDone(i, o, ev.Err)
	case opCopy:
		r.copyRead(i, o, ev)
	case opVerdict:
		r.verdict(i, o, ev)
	case opKept:
		r.keptDone(i, o, ev.Err)
	default:
		panic(fmt.Sprintf("core: local I/O of kind %d ended", o.kind))
	}
}

// begin marks op i as having local I/O under way and emits it.
func (r *Resource) begin(i int32, k ActionKind) {
	o := &r.ops[i]
	o.local, o.localAt = true, r.awake
	r.locals++
	r.emit(Action{Kind: k, ID: r.id(i), Ext: o.ext, Flags: o.flags})
}

// lock enters op i in the lock table; when nothing stands in its way it goes on at once.
func (r *Resource) lock(i int32) {
	o := &r.ops[i]
	o.state = opLocking
	o.locked = true
	ext := o.ext
	if lb := r.cfg.LogicalBlock; lb > 1 && !planted.On(planted.SubBlockNotRounded) {
		ext = ext.RoundOut(lb)
	}
	o.blockers = r.locks.add(i, ext, o.kind != opWrite && o.kind != opApply)
	if r.unlockedBug(o) {
		o.blockers = 0
	}
	if o.blockers == 0 {
		r.lockedNow(i)
	}
}

// unlockedBug reports whether a planted bug lets o pass those it overlaps.
func (r *Resource) unlockedBug(o *op) bool {
	switch o.kind {
	case opRead:
		return planted.On(planted.ReadNotLocked)
	case opWrite:
		return planted.On(planted.OverlapNotLocked)
	case opApply:
		return planted.On(planted.OverlapReorderedOnSecondary)
	}
	return false
}

func (r *Resource) unlock(i int32) {
	o := &r.ops[i]
	if !o.locked {
		return
	}
	o.locked = false
	r.locks.remove(i, func(w int32) {
		wo := &r.ops[w]
		if wo.blockers--; wo.blockers == 0 && wo.state == opLocking && !r.unlockedBug(wo) {
			r.ready = append(r.ready, w)
		}
	})
}

// lockedNow takes op i on from the lock table.
func (r *Resource) lockedNow(i int32) {
	o := &r.ops[i]
	if o.state != opLocking || o.blockers != 0 {
		return
	}
	switch o.kind {
	case opRead, opWrite:
		if r.suspect(o.ext) { // became suspect while it waited
			r.unlock(i)
			r.gate(i)
			return
		}
		if o.kind == opRead {
			r.startRead(i)
			return
		}
		r.enterLog(i)
	case opApply:
		r.enterLog(i)
	case opHash:
		o.state = opStarted
		r.beginHash(i)
	case opCopy:
		o.state = opStarted
		r.begin(i, ActLocalRead)
	case opCompare:
		o.state = opStarted
		r.askHashes(i)
	default:
		panic(fmt.Sprintf("core: operation of kind %d holds a lock", o.kind))
	}
}

// endOrphan finishes an operation that was given up while its local I/O went on.
func (r *Resource) endOrphan(i int32, o *op) {
	client := o.kind == opRead || o.kind == opWrite || o.kind == opFlush
	r.discard(i, client)
	r.readmit = true
}

// discard ends op i without an answer: locks and log references are given back, the ID ends.
func (r *Resource) discard(i int32, client bool) {
	o := &r.ops[i]
	if o.local {
		mark.Hit("orphan")
		o.state = opOrphan
		if planted.On(planted.DrainSkippedAtLead) || planted.On(planted.DrainSkippedAtPromotion) {
			r.unlock(i)
		}
		return
	}
	r.unlock(i)
	r.unlog(i)
	k := ActFree
	if client && o.told != toldError {
		k = ActDrop
	}
	r.emit(Action{Kind: k, ID: r.id(i)})
	r.release(i)
}
