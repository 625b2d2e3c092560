package attach

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
)

const (
	seekFirst  = 5 * time.Millisecond   // between two tries of one server, at first
	seekLast   = 200 * time.Millisecond // and after a while
	seekFind   = 2 * time.Second        // between two questions for more servers
	seekTell   = 30 * time.Second       // between two lines in the log
	maxServers = 64
)

// wish is what is sought.
type wish struct {
	resume   bool          // the registration exists
	deadline time.Duration // since the loss: then requests fail; 0: never
	rivalOf  *upstream     // not its server, nor another address of its node
}

// seek tries all servers at the same time, each again and again, until one has admitted a session. It
// returns an error when ctx ends, or when trying on is of no use.
//
//	each server: connect -> ATTACH -> (one at a time) GO -> found
//	                  ^         | refused, lost       |
//	                  +---------+-- 5 .. 200 ms ------+
func (r *Relay) seek(ctx context.Context, w wish) (*upstream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &seeking{
		r: r, wish: w,
		found: make(chan *upstream), told: make(chan told), more: make(chan []Server),
		gate: make(chan struct{}, 1), kick: map[Server]chan struct{}{}, last: map[Server]error{},
	}
	defer s.seekers.Wait()
	defer cancel()
	for _, srv := range r.known() {
		s.start(ctx, srv)
	}
	if r.cfg.Discover != nil {
		s.seekers.Go(func() { s.discover(ctx) })
	}
	var deadline <-chan time.Time
	if w.deadline > 0 {
		r.mu.Lock()
		left, failing := time.Until(r.lostAt.Add(w.deadline)), r.failing != nil
		r.mu.Unlock()
		if !failing {
			t := time.NewTimer(left)
			defer t.Stop()
			deadline = t.C
		}
	}
	tell := time.NewTicker(seekTell)
	defer tell.Stop()
	for {
		select {
		case u := <-s.found:
			return u, nil
		case t := <-s.told:
			if err := s.takeIn(ctx, t); err != nil {
				return nil, err
			}
		case list := <-s.more:
			for _, srv := range r.addServers(list) {
				s.start(ctx, srv)
			}
		case <-deadline:
			r.giveUp(fmt.Errorf("no primary for %v: %w", w.deadline, s.cause()))
		case <-tell.C:
			r.cfg.Logger.Warn("no primary yet", "resource", r.cfg.Who.Resource, "reason", s.cause())
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; %w", context.Cause(ctx), s.cause())
		}
	}
}

// seeking is one search. What is not a channel belongs to the goroutine of seek.
type seeking struct {
	r       *Relay
	wish    wish
	seekers sync.WaitGroup
	found   chan *upstream
	told    chan told
	more    chan []Server
	gate    chan struct{} // who holds its one place may say GO; who was admitted keeps it
	kick    map[Server]chan struct{}
	last    map[Server]error // what each said last
	best    error            // of these, the most telling
}

// told is why a server did not admit us.
type told struct {
	from Server
	err  error
}

func (s *seeking) start(ctx context.Context, srv Server) {
	if s.kick[srv] != nil || s.wish.rivalOf != nil && s.wish.rivalOf.server == srv {
		return
	}
	kick := make(chan struct{}, 1)
	s.kick[srv] = kick
	s.seekers.Go(func() { s.keepTrying(ctx, srv, kick) })
}

// keepTrying tries one server until ctx ends or it has admitted us.
func (s *seeking) keepTrying(ctx context.Context, srv Server, kick <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	wait := seekFirst
	for {
		select {
		case <-pause.C:
		case <-kick: // somebody has named it as the primary
			wait = seekFirst
		case <-ctx.Done():
			return
		}
		u, err := s.try(ctx, srv)
		if err == nil {
			select {
			case s.found <- u:
			case <-ctx.Done():
				u.close()
			}
			return
		}
		select {
		case s.told <- told{srv, err}:
		case <-ctx.Done():
			return
		}
		pause.Reset(wait)
		wait = min(2*wait, seekLast)
	}
}

// try opens a session at srv.
func (s *seeking) try(ctx context.Context, srv Server) (_ *upstream, err error) {
	r := s.r
	u, err := connect(ctx, srv, r.cfg.TLS)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	who := r.cfg.Who
	who.Session, who.Resume = r.newSession(), s.wish.resume
	if err := u.attachTo(ctx, who); err != nil {
		return nil, err
	}
	if err := s.mayRival(ctx, u); err != nil {
		return nil, err
	}
	// One at a time: if two of the servers are two addresses of one node, the second GO would end the
	// session that the first has just got.
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err = u.enter(ctx, who.Resource, false); err != nil {
		<-s.gate
		return nil, err
	}
	if u.info.flags&txFlush == 0 {
		<-s.gate
		return nil, &Refusal{Server: srv, Why: ErrNotLockstep, Text: "the export has no FLUSH: the kernel would drop every barrier"}
	}
	return u, nil
}

// errSameNode is a rival that is none.
var errSameNode = errors.New("another address of the node that has the session")

// mayRival keeps a session's own node from being taken for its rival. It would admit us, as it would any
// newer session, and end the one that is only slow: everything unfinished would be sent again, and a slow
// primary would become a slower one.
func (s *seeking) mayRival(ctx context.Context, u *upstream) error {
	old := s.wish.rivalOf
	if old == nil {
		return nil
	}
	if err := u.enter(ctx, s.r.cfg.Who.Resource, true); err != nil {
		return err
	}
	if u.info.about == old.info.about {
		return errSameNode
	}
	return nil
}

// discover asks for more servers, now and then, until ctx ends.
func (s *seeking) discover(ctx context.Context) {
	tick := time.NewTicker(seekFind)
	defer tick.Stop()
	for {
		// Whoever is asked may be down with everything else; the servers that are known are tried anyway.
		if list, err := s.r.cfg.Discover(ctx); err == nil && len(list) > 0 {
			select {
			case s.more <- list:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// takeIn weighs a server's no. Its error ends the search.
func (s *seeking) takeIn(ctx context.Context, t told) error {
	if ctx.Err() != nil {
		return nil
	}
	s.last[t.from] = t.err
	s.best = s.weigh()
	s.r.mu.Lock()
	s.r.cause = s.best
	s.r.mu.Unlock()
	var no *Refusal
	if !errors.As(t.err, &no) {
		return nil
	}
	if srv, ok := hintIn(no.Text); ok && srv != t.from {
		s.r.addServers([]Server{srv})
		s.start(ctx, srv)
		if k := s.kick[srv]; k != nil {
			select {
			case k <- struct{}{}:
			default: // it is told already
			}
		}
	}
	switch {
	case errors.Is(no, ErrSuperseded):
		return no
	case s.wish.resume:
		return nil
	case errors.Is(no, ErrHeld):
		return no
	}
	return s.hopeless()
}

// hopeless returns an error when every server has answered something that waiting does not mend, but
// for those that cannot be reached. A node that lags may not know a new resource yet, another may be on
// its way up; one that serves it anywhere is enough to go on.
func (s *seeking) hopeless() error {
	if len(s.last) < len(s.kick) {
		return nil
	}
	var why error
	for _, srv := range s.r.known() {
		err := s.last[srv]
		switch {
		case errors.Is(err, ErrUnknown), errors.Is(err, ErrNotLockstep), errors.Is(err, ErrNeedsTLS):
			if why == nil {
				why = err
			}
		case errors.As(err, new(*Refusal)):
			return nil
		}
	}
	return why
}

// weigh returns the most telling of what the servers said last: an answer rather than silence.
func (s *seeking) weigh() (best error) {
	for _, srv := range s.r.known() {
		err := s.last[srv]
		if err == nil {
			continue
		}
		if errors.As(err, new(*Refusal)) {
			return err
		}
		if best == nil {
			best = err
		}
	}
	return best
}

func (s *seeking) cause() error {
	if s.best == nil {
		return errors.New("no server has answered")
	}
	return s.best
}

// Detach ends the registration, after Run has returned. It asks all servers until one has done it or
// ctx ends. A registration, or a resource, that is gone already is as good.
func (r *Relay) Detach(ctx context.Context) error {
	list := r.known()
	var last error
	for wait := seekFirst; ; wait = min(2*wait, seekLast) {
		for i := 0; i < len(list); i++ {
			err := detachAt(ctx, list[i], r.cfg, r.cfg.Who.Resource, r.cfg.Who.Key)
			if err == nil || errors.Is(err, ErrSuperseded) || errors.Is(err, ErrUnknown) {
				return nil
			}
			last = err
			var no *Refusal
			if errors.As(err, &no) {
				if srv, ok := hintIn(no.Text); ok {
					list = append(list, r.addServers([]Server{srv})...)
				}
			}
		}
		if len(list) == 0 {
			return errors.New("no server is known")
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("the registration could not be ended: %w", last)
		}
	}
}

func detachAt(ctx context.Context, srv Server, cfg Config, resource string, key nbd.Key) error {
	u, err := connect(ctx, srv, cfg.TLS)
	if err != nil {
		return err
	}
	defer u.abort()
	return u.detach(ctx, resource, key)
}
