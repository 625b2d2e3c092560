package load

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
)

// session is a granted connection.
type session struct {
	name   string
	client *nbdclient.Client
	heard  atomic.Int64 // when the last answer came, in nanoseconds since made
	made   time.Time

	once sync.Once
	lost chan struct{} // closed when a slot has found the connection ended
}

// hear notes an answer.
func (s *session) hear() { s.heard.Store(int64(time.Since(s.made))) }

// silent returns for how long there was no answer.
func (s *session) silent() time.Duration { return time.Since(s.made) - time.Duration(s.heard.Load()) }

func (s *session) lose() { s.once.Do(func() { close(s.lost) }) }

// open asks a server once for the export.
func (s *Server) open(ctx context.Context) (*session, error) {
	network, addr, export, err := nbdclient.ParseURI(s.URI)
	if err != nil {
		return nil, err
	}
	dial := s.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	client, err := nbdclient.New(ctx, conn, export)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &session{name: s.Name, client: client, made: time.Now(), lost: make(chan struct{})}, nil
}

// pause waits; it reports whether ctx is still on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// find returns a session with the first server that grants the export, whatever its place in the
// list; one of the name except is not asked. It returns nil when ctx ends.
func (l *Load) find(ctx context.Context, except string) *session {
	select {
	case l.search <- struct{}{}:
		defer func() { <-l.search }()
	case <-ctx.Done():
		return nil
	}
	// Whoever searched before may have found it.
	l.mu.Lock()
	last := &l.opts.Servers[l.found]
	l.mu.Unlock()
	if last.Name != except {
		if s := try(ctx, last); s != nil {
			return s
		}
	}
	return l.askAll(ctx, except)
}

// try asks a server once, for a bounded time. nil: it does not grant.
func try(ctx context.Context, server *Server) *session {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	s, err := server.open(ctx)
	if err != nil {
		return nil
	}
	return s
}

// askAll asks every server again and again, all at the same time.
func (l *Load) askAll(ctx context.Context, except string) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type grant struct {
		server int
		s      *session
	}
	grants := make(chan grant, len(l.opts.Servers))
	var wg sync.WaitGroup
	for i := range l.opts.Servers {
		server := &l.opts.Servers[i]
		if server.Name == except {
			continue
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				if s := try(ctx, server); s != nil {
					grants <- grant{i, s}
					return
				}
				pause(ctx, tryEvery)
			}
		})
	}
	var first grant
	select {
	case first = <-grants:
	case <-ctx.Done():
	}
	cancel()
	wg.Wait()
	close(grants)
	for g := range grants { // who else granted meanwhile
		g.s.client.Close()
	}
	if first.s != nil {
		l.mu.Lock()
		l.found = first.server
		l.mu.Unlock()
	}
	return first.s
}

// stay works at one server for as long as it grants, and asks again when it does not.
func stay(ctx context.Context, server Server, sl *slot) {
	for ctx.Err() == nil {
		// Without a limit: a server that is paused answers when it goes on, and then it is the most
		// interesting.
		s, err := server.open(ctx)
		if err != nil {
			pause(ctx, 2*tryEvery)
			continue
		}
		ended := make(chan struct{})
		go func() {
			sl.run(ctx, s)
			close(ended)
		}()
		select {
		case <-ended:
		case <-ctx.Done():
			timer := time.NewTimer(stopAfter)
			select {
			case <-ended:
			case <-timer.C:
			}
			timer.Stop()
		}
		s.client.Abort()
		<-ended
	}
}
