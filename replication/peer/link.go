package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// steady is how long a session must have lived for its end to be treated as news: the backoff
// starts over, and the next attempt follows at once.
const steady = time.Second

// Link keeps one session to one peer for one resource alive.
type Link struct {
	cfg  LinkConfig
	log  *slog.Logger
	wake chan struct{} // capacity 1: enabled, pending or the backoff has changed

	mu       sync.Mutex
	enabled  bool
	stopped  bool                    // Run has ended
	fresh    bool                    // SetEnabled(true) was called: forget the backoff
	cancel   context.CancelCauseFunc // ends the attempt or session under way; nil when there is none
	pending  *incoming               // the newest connection of the peer that nobody serves yet
	state    State
	since    time.Time
	heard    attemptID // of the newest connection that the peer has opened
	session  *Session  // that is up
	sessions uint64
	failures uint64
	lastErr  string
	total    Counters // of ended sessions
}

// attemptID orders the connections that one process of the peer has opened. A hello can be read
// later than that of a connection opened after it; it must not displace that one.
type attemptID struct{ process, attempt uint64 }

// lastAttempt numbers the connections this process opens, over all links: a link that is made
// anew goes on counting where the older one was.
var lastAttempt atomic.Uint64

// NewLink returns a link that does nothing until Run. It panics when cfg does not validate.
func NewLink(cfg LinkConfig) *Link {
	if err := cfg.Validate(); err != nil {
		panic(fmt.Sprintf("peer: link: %v", err))
	}
	cfg = cfg.withDefaults()
	l := &Link{
		cfg:     cfg,
		log:     cfg.Logger.With("resource", cfg.Resource, "peer", cfg.Peer),
		wake:    make(chan struct{}, 1),
		enabled: !cfg.Disabled,
		since:   time.Now(),
	}
	if l.enabled {
		l.state = Waiting
	}
	return l
}

// Dials reports whether this node is the one that dials.
func (l *Link) Dials() bool { return l.cfg.Self < l.cfg.Peer }

// Run keeps the session alive until ctx ends, then closes it, waits for Down and returns the
// cause of ctx. It runs at most once.
func (l *Link) Run(ctx context.Context) error {
	defer l.stop()
	b := newBackoff(l.cfg.BackoffMin, l.cfg.BackoffMax)
	for {
		in, err := l.next(ctx, b)
		if err != nil {
			return err
		}
		lived, err := l.attempt(ctx, in)
		b.ended(lived)
		if ctx.Err() == nil {
			l.report(lived, err)
		}
	}
}

// SetEnabled connects, or disconnects until it is called again: an operator's verbs. Disabling
// ends the session; Down follows from the link's goroutine. Enabling tries at once.
func (l *Link) SetEnabled(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.enabled == on {
		return
	}
	l.enabled, l.fresh = on, on
	if !on {
		l.interrupt(ErrDisabled)
	}
	if l.cancel == nil {
		l.setState(l.resting())
	}
	l.poke()
}

// Accept takes over conn, on which the peer's hello g was read and whose handshake must be done by
// deadline. It ends the session that is up: the peer would not have dialed with one. When this
// link cannot have the connection, Accept refuses and closes it, and returns the reason.
func (l *Link) Accept(conn net.Conn, g wire.Greeting, deadline time.Time) error {
	err := l.offer(&incoming{conn: conn, greeting: g, deadline: deadline})
	if err != nil {
		sendRefusal(conn, err.Error())
		_ = conn.Close() // it was refused, there is nothing to lose
		return refused(err)
	}
	return nil
}

// offer makes in the pending connection, or says why not.
func (l *Link) offer(in *incoming) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopped:
		return fmt.Errorf("node %s is shutting resource %s down", l.cfg.Self, l.cfg.Resource)
	case !l.enabled:
		return fmt.Errorf("%w of node %s", ErrDisabled, l.cfg.Self)
	case l.Dials():
		return fmt.Errorf("%w: %s dials %s, not the other way round", ErrHandshake, l.cfg.Self, l.cfg.Peer)
	}
	id := attemptID{in.greeting.Hello.Process, in.greeting.Hello.Attempt}
	if id.attempt != 0 && id.process == l.heard.process && id.attempt <= l.heard.attempt {
		return fmt.Errorf("%w: attempt %d comes after %d", ErrReplaced, id.attempt, l.heard.attempt)
	}
	l.heard = id
	l.interrupt(ErrReplaced)
	l.pending = in
	l.poke()
	return nil
}

// interrupt ends the attempt or session under way and closes the pending connection. Caller holds mu.
func (l *Link) interrupt(cause error) {
	if l.cancel != nil {
		l.cancel(cause)
	}
	if l.pending != nil {
		_ = l.pending.conn.Close() // nobody has seen it yet
		l.pending = nil
	}
}

// poke wakes Run if it waits in next. Caller holds mu.
func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// stop ends what may still come in after Run.
func (l *Link) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.interrupt(ErrClosed)
}

// next waits until an attempt is due. It returns the connection to serve, nil for the node that
// dials, or the cause of ctx.
func (l *Link) next(ctx context.Context, b *backoff) (*incoming, error) {
	due := time.NewTimer(b.wait())
	defer due.Stop()
	elapsed := false
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if in, ok := l.ready(b, elapsed); ok {
			return in, nil
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-due.C:
			elapsed = true
		}
	}
}

// ready reports whether an attempt is due now, and takes the pending connection.
func (l *Link) ready(b *backoff, elapsed bool) (*incoming, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.enabled {
		return nil, false
	}
	if !l.Dials() {
		in := l.pending
		l.pending = nil
		return in, in != nil
	}
	if l.fresh {
		l.fresh = false
		b.reset()
		elapsed = true
	}
	return nil, elapsed
}

// begin makes cancel the way to end the attempt, unless it ended before it began.
func (l *Link) begin(cancel context.CancelCauseFunc) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.enabled {
		return ErrDisabled
	}
	if l.pending != nil {
		return ErrReplaced
	}
	l.cancel = cancel
	return nil
}

// attempt makes one connection, or takes in, and serves the session that comes of it until it
// ends. It returns how long the session lived, 0 when there was none, and what ended it.
func (l *Link) attempt(parent context.Context, in *incoming) (lived time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	if err := l.begin(cancel); err != nil {
		if in != nil {
			_ = in.conn.Close() // nobody has seen it yet
		}
		return 0, err
	}
	defer func() { l.end(lived, err) }()
	conn, a, err := l.connect(ctx, in)
	if err != nil {
		if ctx.Err() != nil && parent.Err() == nil {
			err = context.Cause(ctx)
		}
		return 0, err
	}
	s := newSession(l, conn, a)
	l.opened(s)
	start := time.Now()
	err = s.run(ctx, a.theirs)
	return max(time.Since(start), 1), err
}

// connect returns a connection whose handshake has succeeded.
func (l *Link) connect(ctx context.Context, in *incoming) (net.Conn, agreed, error) {
	deadline := time.Now().Add(l.cfg.HandshakeTimeout)
	var conn net.Conn
	if in != nil {
		conn, deadline = in.conn, in.deadline
	} else {
		dial, cancel := context.WithDeadline(ctx, deadline)
		var err error
		conn, err = l.cfg.Dial(dial)
		cancel()
		if err != nil {
			return nil, agreed{}, fmt.Errorf("dial %s: %w", l.cfg.Addr, err)
		}
		deadline = time.Now().Add(l.cfg.HandshakeTimeout)
	}
	l.progress(Handshake)
	a, err := l.shake(ctx, conn, in, deadline)
	if err != nil {
		_ = conn.Close() // err is what matters
		return nil, agreed{}, err
	}
	return conn, a, nil
}

// shake does the handshake on conn within deadline.
func (l *Link) shake(ctx context.Context, conn net.Conn, in *incoming, deadline time.Time) (a agreed, err error) {
	if err = setLiveness(conn, l.cfg.UserTimeout); err != nil {
		return a, err
	}
	if err = conn.SetDeadline(deadline); err != nil {
		return a, fmt.Errorf("handshake: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // makes the reads below fail
	if in != nil {
		a, err = l.answer(in)
	} else {
		a, err = l.greet(conn)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return a, err
	}
	if err = conn.SetDeadline(time.Time{}); err != nil {
		return a, fmt.Errorf("handshake: %w", err)
	}
	return a, nil
}

// progress shows that the attempt has come as far as st.
func (l *Link) progress(st State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.enabled {
		l.setState(st)
	}
}

// opened books a session that is up.
func (l *Link) opened(s *Session) {
	l.mu.Lock()
	l.session = s
	l.sessions++
	if l.enabled {
		l.setState(Up)
	}
	l.mu.Unlock()
	l.log.Info("session up", "session", s.id, "protocol", s.protocol, "compression", s.comp.String())
}

// end books the end of an attempt, after Down.
func (l *Link) end(lived time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel = nil
	if l.session != nil {
		l.total.add(l.session.count.load())
		l.session = nil
	}
	if lived == 0 {
		l.failures++
	}
	l.setState(l.resting())
}

// resting is the state between attempts. Caller holds mu.
func (l *Link) resting() State {
	if l.enabled {
		return Waiting
	}
	return Disabled
}

// setState is called with mu held.
func (l *Link) setState(st State) {
	if l.state != st {
		l.state, l.since = st, time.Now()
	}
}

// report logs why an attempt or session ended. A fault that repeats at every attempt is logged
// once as a warning and then only for debugging.
func (l *Link) report(lived time.Duration, err error) {
	text := err.Error()
	l.mu.Lock()
	again := text == l.lastErr
	l.lastErr = text
	l.mu.Unlock()
	var r *RefusedError
	switch {
	case lived > 0:
		l.log.Info("session down", "err", err, "lived", lived)
	case again || errors.Is(err, ErrDisabled) || errors.Is(err, ErrReplaced):
		l.log.Debug("no session", "err", err)
	case errors.As(err, &r):
		l.log.Warn("session refused", "remote", r.Remote, "reason", r.Reason)
	default:
		l.log.Warn("no session", "err", err)
	}
}
