package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/internal/beat"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
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

	subs  subscribers
	mesh  *mesh
	store *store
	v     *voter.Voter // the loop's, and before Run Open's
}

// inbound is a frame for this voter.
type inbound struct {
	peer string
	f    voter.Frame
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
	st, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Node), store: st,
		inbox: make(chan inbound, 1024), calls: make(chan func()), begun: make(chan struct{}), done: make(chan struct{}),
	}
	l.moved.Store(new(make(chan struct{})))
	l.subs.wake = make(chan struct{}, 1)
	l.mesh = &mesh{
		self: cfg.Node, ping: 2 * time.Duration(cfg.HeartbeatTicks) * cfg.TickInterval, log: l.log,
		links: map[string]*link{}, heard: map[string]time.Time{}, deliver: l.deliver, answer: l.answerAsk,
		noted: cfg.OnNote, lost: cfg.OnLost,
		dial: func(ctx context.Context, addr, node string) (net.Conn, error) {
			return cfg.Transport.Dial(ctx, addr, node, Service)
		},
	}
	l.mesh.router = voter.NewRouter(cfg.Node, meshLinks{l.mesh})
	vc := cfg.voterConfig()
	vc.Logger, vc.RaftLogger, vc.OnState, vc.OnStatus = l.log, raftLogger{l.log}, l.showState, l.showStatus
	if l.v, err = voter.New(vc, st, l.mesh, randomWord); err != nil {
		return nil, errors.Join(err, st.close())
	}
	cfg.Transport.Handle(Service, l.accept)
	return l, nil
}

func randomWord() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// showState gives the newest state to readers and subscribers.
func (l *Ledger) showState(s *quorum.State) {
	l.state.Store(s)
	l.connect()
	l.subs.signal()
}

// connect keeps links to all nodes of the list and of the state. Where both name an address,
// the list wins: it is what the operator of this node wrote last.
func (l *Ledger) connect() {
	addrs := map[string]string{}
	if s := l.state.Load(); s != nil {
		for _, n := range s.Nodes {
			addrs[n.Name] = n.Addr
		}
	}
	for _, m := range l.cfg.Members {
		addrs[m.Name] = m.Addr
	}
	l.mesh.connect(addrs)
}

func (l *Ledger) showStatus(s Status) {
	l.status.Store(&s)
	close(*l.moved.Swap(new(make(chan struct{}))))
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
	if l.v.NeedsFounding() {
		wg.Go(func() { l.bootstrap(ctx) })
	}
	err := l.loop(ctx)
	cancel()
	close(l.done)
	wg.Wait()
	l.mesh.wg.Wait()
	return errors.Join(err, l.store.close())
}

// loop owns the voter.
func (l *Ledger) loop(ctx context.Context) error {
	ticks := 1 // that the next firing of ticker stands for
	ticker := beat.NewTicker(l.cfg.TickInterval)
	defer ticker.Stop()
	l.connect()
	for {
		if err := l.v.Ready(); err != nil {
			l.log.Error("ledger stopped", "error", err)
			return l.v.Stop()
		}
		select {
		case <-ctx.Done():
			return l.v.Stop()
		case <-ticker.C:
			for range ticks {
				l.v.Tick()
			}
			ticks = l.pace()
			ticker.Next(time.Duration(ticks) * l.cfg.TickInterval)
		case in := <-l.inbox:
			l.v.Receive(in.peer, in.f)
			for range len(l.inbox) { // one fsync for all that is here already
				in = <-l.inbox
				l.v.Receive(in.peer, in.f)
			}
		case f := <-l.calls:
			f()
		}
	}
}

// pace returns how many ticks may be taken at once: a leader needs none between two heartbeats, and a
// follower none while it hears its leader.
func (l *Ledger) pace() int {
	leader := l.status.Load().Leader
	quiet := time.Duration(l.cfg.HeartbeatTicks+1) * l.cfg.TickInterval
	switch since := l.mesh.sinceHeard(leader); {
	case leader == l.cfg.Node, since >= 0 && since < quiet:
		return l.cfg.HeartbeatTicks
	}
	return 1
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
func (l *Ledger) deliver(peer string, f voter.Frame) {
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

// Changed returns a channel that is closed at the next change of Status (links apart) or State.
// Take the channel first, then look, then wait.
func (l *Ledger) Changed() <-chan struct{} { return *l.moved.Load() }

// Status is what an operator wants to know of a ledger.
type Status = voter.Status

// Voter is a member of raft's configuration.
type Voter = voter.Peer

// Status returns the present status.
func (l *Ledger) Status() Status {
	s := *l.status.Load()
	s.Voters = slices.Clone(s.Voters)
	for i := range s.Voters {
		s.Voters[i].LinkUp = s.Voters[i].Node == s.Node || l.mesh.Up(s.Voters[i].Node)
	}
	return s
}
