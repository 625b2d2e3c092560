package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// errDisplaced is why a connection ends that took too long to negotiate while others came.
var errDisplaced = errors.New("nbd: displaced by a newer client before it had chosen an export")

// ErrServerClosed is why connections end when Serve's context does.
var ErrServerClosed = errors.New("nbd: server closed")

// acceptPause is how long Serve lets the process recover when it is out of file descriptors.
const acceptPause = 50 * time.Millisecond

// Config are a Server's limits. The zero value of a field means its default.
type Config struct {
	MaxConns           int           // connections at a time; more are closed at once; default 1024
	MaxNegotiating     int           // of these, not yet bound to an export, per listener; default 128
	NegotiationTimeout time.Duration // from accept to transmission; default 30 s
	MaxRequests        int           // unanswered requests per connection; default 1024
	MaxBytes           int64         // unanswered payload bytes per connection; default 64 MiB
	MaxBatch           int           // requests per Submit; default 64
	Logger             *slog.Logger  // default: slog.Default()
}

// DefaultConfig returns the limits that suit a host that serves a few hundred clients.
func DefaultConfig() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 1024
	}
	if c.MaxNegotiating == 0 {
		c.MaxNegotiating = 128
	}
	if c.NegotiationTimeout == 0 {
		c.NegotiationTimeout = 30 * time.Second
	}
	if c.MaxRequests == 0 {
		c.MaxRequests = 1024
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 64
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate lists every field that is out of range.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"MaxConns", int64(c.MaxConns)},
		{"MaxNegotiating", int64(c.MaxNegotiating)},
		{"NegotiationTimeout", int64(c.NegotiationTimeout)},
		{"MaxRequests", int64(c.MaxRequests)},
		{"MaxBytes", c.MaxBytes},
		{"MaxBatch", int64(c.MaxBatch)},
	} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("nbd: %s is %d, want 0 or more", f.name, f.value))
		}
	}
	return errors.Join(faults...)
}

// Server serves exports on any number of listeners.
type Server struct {
	cfg     Config
	exports Exports

	mu       sync.Mutex
	conns    map[*Conn]struct{} // until the last request of each is replied
	lastID   uint64
	closes   uint64            // calls of CloseExport so far
	closedAt map[string]uint64 // by export: the value of closes when it was last closed
	accepted uint64
	refused  uint64
	failed   uint64 // connections that ended by a fault

	displaced        uint64
	handshakesFailed uint64
}

// NewServer returns a server of ex. It panics if cfg is not valid.
func NewServer(cfg Config, ex Exports) *Server {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	return &Server{
		cfg:      cfg.withDefaults(),
		exports:  ex,
		conns:    make(map[*Conn]struct{}),
		closedAt: make(map[string]uint64),
	}
}

// Serve accepts connections on l until ctx ends, then closes l and the connections it accepted,
// without answering what is unfinished, and returns nil when the backends have replied to every
// request. It returns an error only when l fails for good. One Server may serve several
// listeners at a time; unix, TCP and TLS are alike to it. STARTTLS is refused.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeTLS(ctx, l, TLS{})
}

// ServeTLS is Serve with STARTTLS as t says. It also returns an error when t is not valid.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, t TLS) error {
	if err := t.Validate(); err != nil {
		l.Close()
		return err
	}
	if t.HandshakeTimeout == 0 {
		t.HandshakeTimeout = defaultHandshake
	}
	lst := &listening{tls: t}
	ctx, cancel := context.WithCancelCause(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel(ErrServerClosed)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !passing(err) {
				return fmt.Errorf("nbd: accept on %s: %w", l.Addr(), err)
			}
			s.cfg.Logger.Warn("cannot accept a client for now", slog.Any("error", err))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if c := s.admit(lst, nc); c != nil {
			conns.Go(func() {
				c.serve(ctx)
				s.remove(c)
			})
		}
	}
}

// passing reports whether Accept may succeed later.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// listening is one listener that is served.
type listening struct {
	tls         TLS
	negotiating []*Conn // oldest first; under Server.mu
}

// admit makes nc a connection, or closes it and returns nil when there are too many.
//
// Who has not been bound to an export yet may be anybody, so few are let wait for that. When one
// more comes, the oldest of them goes: an honest negotiation takes milliseconds, and a client that
// loses its place tries again. Refusing the newest instead would let a handful of silent
// connections keep everybody out for NegotiationTimeout at a time.
func (s *Server) admit(lst *listening, nc net.Conn) *Conn {
	s.mu.Lock()
	if len(s.conns) >= s.cfg.MaxConns {
		s.refused++
		s.mu.Unlock()
		nc.Close()
		return nil
	}
	s.accepted++
	s.lastID++
	c := newConn(s, lst, s.lastID, nc)
	s.conns[c] = struct{}{}
	var displaced *Conn
	if len(lst.negotiating) >= s.cfg.MaxNegotiating {
		displaced = lst.negotiating[0]
		lst.negotiating = slices.Delete(lst.negotiating, 0, 1)
		s.displaced++
	}
	lst.negotiating = append(lst.negotiating, c)
	s.mu.Unlock()
	if displaced != nil {
		displaced.kill(errDisplaced)
	}
	return c
}

// leave takes c from those in negotiation; it may have been taken already. Caller holds mu.
func (s *Server) leave(c *Conn) {
	if i := slices.Index(c.lst.negotiating, c); i >= 0 {
		c.lst.negotiating = slices.Delete(c.lst.negotiating, i, i+1)
	}
}

// remove forgets a connection of which nothing is left.
func (s *Server) remove(c *Conn) {
	err := c.reason()
	s.mu.Lock()
	delete(s.conns, c)
	s.leave(c)
	if !endedByClient(err) {
		s.failed++
	}
	s.mu.Unlock()
	c.exp.gone()
	close(c.gone)
	s.cfg.Logger.Debug("client gone", slog.Uint64("conn", c.id), slog.Any("reason", err))
}

// closeCount is to be taken before a Lookup and given to bind after it.
func (s *Server) closeCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closes
}

// bind ties c to the export called name. It fails when that was closed since closes was taken:
// what Lookup returned then may belong to a role that is lost.
func (s *Server) bind(c *Conn, name string, closes uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closedAt[name] > closes {
		return false
	}
	c.mu.Lock()
	c.bound, c.isBound = name, true
	c.mu.Unlock()
	s.leave(c) // before the client hears of it: who has been granted an export is not displaced
	return true
}

// CloseExport ends the connections of the export called name at once, and returns how many. What
// they have not been answered is never answered. It does not wait, so it may be called with
// locks held, from Submit too; WaitExport waits. Clients that have looked the export up but are
// not bound to it yet are refused; those that look it up from now on get what Lookup says.
func (s *Server) CloseExport(name, reason string) int {
	s.mu.Lock()
	s.closes++
	s.closedAt[name] = s.closes
	conns := s.bound(name)
	s.mu.Unlock()
	if len(conns) > 0 {
		s.cfg.Logger.Info("connections closed", slog.String("export", name),
			slog.Int("connections", len(conns)), slog.String("reason", reason))
	}
	err := fmt.Errorf("nbd: export closed: %s", reason)
	for _, c := range conns {
		c.kill(err)
	}
	return len(conns)
}

// WaitExport waits until the connections that the export called name has now are gone: nothing
// of theirs will be submitted any more, and everything submitted is replied. Meant for after
// CloseExport. It returns early only with ctx's error.
func (s *Server) WaitExport(ctx context.Context, name string) error {
	s.mu.Lock()
	conns := s.bound(name)
	s.mu.Unlock()
	for _, c := range conns {
		select {
		case <-c.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// bound returns the connections of an export. Caller holds mu.
func (s *Server) bound(name string) (conns []*Conn) {
	for c := range s.conns {
		c.mu.Lock()
		if c.isBound && c.bound == name {
			conns = append(conns, c)
		}
		c.mu.Unlock()
	}
	return conns
}

// Conns returns the present connections, oldest first, those included whose client is gone but
// whose requests the backend still works on.
func (s *Server) Conns() []ConnInfo {
	s.mu.Lock()
	infos := make([]ConnInfo, 0, len(s.conns))
	for c := range s.conns {
		infos = append(infos, c.info())
	}
	s.mu.Unlock()
	slices.SortFunc(infos, func(a, b ConnInfo) int { return int(a.ID) - int(b.ID) })
	return infos
}

// Stats counts connections since the start.
type Stats struct {
	Open     int    // now
	Accepted uint64 // ever
	Refused  uint64 // closed at once, for there were too many
	Failed   uint64 // ended by other than the client's wish

	Displaced        uint64 // of those that failed: closed for a newer client while they negotiated
	HandshakesFailed uint64 // of those that failed: TLS came to nothing
}

// Stats returns the present counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Open: len(s.conns), Accepted: s.accepted, Refused: s.refused, Failed: s.failed,
		Displaced: s.displaced, HandshakesFailed: s.handshakesFailed,
	}
}
