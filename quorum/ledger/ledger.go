package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/lockstep-ha/lockstep/quorum"
)

// Ledger is one node's voter and its copy of the state. All methods may be called from any
// goroutine.
type Ledger struct {
	cfg Config
	log *slog.Logger

	inbox  chan inbound
	calls  chan func() // run by the loop, between messages
	begun  chan struct{}
	done   chan struct{} // closed when the loop has ended
	runCtx context.Context
	ran    atomic.Bool

	state  atomic.Pointer[quorum.State]
	status atomic.Pointer[Status]
	moved  atomic.Pointer[chan struct{}] // closed when status moves

	subs subscribers
	mesh *mesh

	// What follows belongs to the loop, and before Run to Open.
	store     *store
	mach      *machine // nil while the ledger is not founded here
	rn        *raft.RawNode
	ticks     int
	changed   bool // the state moved since it was last published
	logBytes  int  // bytes of entries since the last snapshot
	newConf   bool // the voters changed since the last snapshot
	problem   string
	proposals map[proposalID]*proposal
	reads     map[uint64]*read
	nextRead  uint64
	answers   []answered             // to be given once the state is published
	leaving   map[chan struct{}]bool // closed when this node does not lead any more
	lastLead  leadership
	reported  reportKey
	place     placement
	foreign   int // messages of other incarnations, for the log
}

// inbound is a frame for this voter.
type inbound struct {
	peer string
	f    frame
}

// Open opens or makes this node's ledger file and registers the ledger's service with the
// transport. Nothing is sent before Run.
//
// Errors: ErrConfig, ErrLocked, ErrForeign, ErrCorrupt, quorum.ErrFormat for a file of a newer
// version, or that of the file system.
func Open(cfg Config) (*Ledger, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	st, err := openStore(cfg.Dir, cfg.Cluster, cfg.Node, randomID)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Node), store: st,
		inbox: make(chan inbound, 1024), calls: make(chan func()), begun: make(chan struct{}), done: make(chan struct{}),
		proposals: map[proposalID]*proposal{}, reads: map[uint64]*read{}, leaving: map[chan struct{}]bool{},
	}
	l.moved.Store(new(make(chan struct{})))
	l.subs.wake = make(chan struct{}, 1)
	l.mesh = &mesh{
		self: cfg.Node, ping: time.Duration(cfg.HeartbeatTicks) * cfg.TickInterval, log: l.log, voter: st.id.Voter,
		links: map[string]*link{}, nodes: map[uint64]string{}, deliver: l.deliver, answer: l.answerAsk,
		dial: func(ctx context.Context, addr, node string) (net.Conn, error) {
			return cfg.Transport.Dial(ctx, addr, node, Service)
		},
	}
	if err := l.restore(); err != nil {
		st.close()
		return nil, err
	}
	cfg.Transport.Handle(Service, l.accept)
	return l, nil
}

// restore rebuilds the machine from the snapshot and the applied entries behind it, and raft
// from the rest.
func (l *Ledger) restore() error {
	if !l.store.empty() {
		snap, err := l.store.mem.Snapshot()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if l.mach, err = decodeMachine(snap.GetData()); err != nil {
			return err
		}
		l.newConf = snap.GetMetadata().GetConfState().Equivalent(l.store.conf) != nil
		first := snap.GetMetadata().GetIndex() + 1
		if l.store.applied >= first {
			ents, err := l.store.mem.Entries(first, l.store.applied+1, math.MaxUint64)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			for _, e := range ents {
				if isConfChange(e) {
					continue // the stored configuration has it already
				}
				if _, _, err := l.mach.apply(e.GetIndex(), e.GetData()); err != nil {
					return err
				}
			}
		}
	}
	if l.store.id.Lost {
		l.problem = lossProblem(l.cfg.Node)
	}
	l.changed = true
	if err := l.startRaft(); err != nil {
		return err
	}
	l.publish()
	if v := l.store.conf.GetVoters(); len(v) == 1 && v[0] == l.store.id.Voter {
		return l.rn.Campaign() // nobody else to wait for
	}
	return nil
}

func (l *Ledger) startRaft() error {
	rn, err := raft.NewRawNode(&raft.Config{
		ID:              l.store.id.Voter,
		ElectionTick:    l.cfg.ElectionTicks,
		HeartbeatTick:   l.cfg.HeartbeatTicks,
		Storage:         raftStorage{MemoryStorage: l.store.mem, conf: l.store.conf},
		Applied:         l.store.applied,
		MaxSizePerMsg:   1 << 20,
		MaxInflightMsgs: 64,
		// What a leader without a quorum piles up is bounded; beyond it proposals are dropped.
		MaxUncommittedEntriesSize: 16 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true, // proposals travel in frames of their own, with an answer
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{l.log},
	})
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	l.rn = rn
	return nil
}

// randomID returns a random id that raft accepts for a voter: neither 0 nor one of its two
// reserved values.
func randomID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if v := binary.BigEndian.Uint64(b[:]); v != 0 && v < math.MaxUint64-1 {
			return v
		}
	}
}

// Run takes part in the ledger until ctx ends, and closes the ledger file. It may be called
// once. The error is nil if ctx ended; any other means that this node cannot go on: the disk
// failed, or the log holds what this version cannot read.
func (l *Ledger) Run(ctx context.Context) error {
	if !l.ran.CompareAndSwap(false, true) {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.runCtx = ctx
	l.mesh.start(ctx)
	var wg sync.WaitGroup
	close(l.begun)
	wg.Go(func() { l.subs.run(ctx, l.state.Load) })
	if l.mach == nil {
		wg.Go(func() { l.bootstrap(ctx) })
	}
	err := l.loop(ctx)
	cancel()
	close(l.done)
	wg.Wait()
	l.mesh.wg.Wait()
	return errors.Join(err, l.store.close())
}

// Close closes a ledger that was opened and is not to be run.
func (l *Ledger) Close() error {
	if !l.ran.CompareAndSwap(false, true) {
		return nil // Run closes it
	}
	close(l.done)
	return l.store.close()
}

// accept is the handler of the transport's service.
func (l *Ledger) accept(ctx context.Context, conn net.Conn, peer string) {
	select {
	case <-l.begun:
	case <-l.done:
		conn.Close()
		return
	case <-ctx.Done():
		conn.Close()
		return
	}
	stop := context.AfterFunc(l.runCtx, func() { conn.Close() })
	defer stop()
	l.mesh.serve(ctx, conn, peer)
}

// deliver hands a frame to the loop. A full inbox drops it: raft and the proposals send again.
func (l *Ledger) deliver(peer string, f frame) {
	select {
	case l.inbox <- inbound{peer: peer, f: f}:
	default:
	}
}

// call runs f in the loop and waits for it. Errors: ErrClosed, or that of ctx, and then f does
// not run.
func (l *Ledger) call(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case l.calls <- func() { defer close(ran); f() }:
		<-ran
		return nil
	case <-l.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// State returns the newest applied copy of the state, nil if there is no ledger here yet. It is
// immutable. Another node may be ahead of it; see Barrier.
func (l *Ledger) State() *quorum.State { return l.state.Load() }

// Subscribe has f called with the newest state, now if there is one, and after it has moved.
// States come in order; one that is overtaken by the next may be left out, the newest never is.
// All subscribers are called from one goroutine, so f should be quick. The returned function
// ends the subscription; a call that has begun may still be running when it returns.
func (l *Ledger) Subscribe(f func(*quorum.State)) (cancel func()) { return l.subs.add(f) }

// subscribers calls those who want to know of a new state.
type subscribers struct {
	wake chan struct{} // capacity 1

	mu   sync.Mutex
	next int
	all  []*subscriber
}

type subscriber struct {
	id   int
	f    func(*quorum.State)
	seen *quorum.State // only the notifier's
}

func (s *subscribers) add(f func(*quorum.State)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := s.next
	s.all = append(s.all, &subscriber{id: id, f: f})
	s.signal()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, x := range s.all {
			if x.id == id {
				s.all = append(append([]*subscriber(nil), s.all[:i]...), s.all[i+1:]...)
				return
			}
		}
	}
}

func (s *subscribers) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscribers) run(ctx context.Context, newest func() *quorum.State) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		all := s.all
		s.mu.Unlock()
		st := newest()
		for _, x := range all {
			if st != nil && x.seen != st {
				x.seen = st
				x.f(st)
			}
		}
	}
}
