package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Config are a Server's limits. The zero value of a number means its default.
type Config struct {
	Node     string        // name of this node; required
	MaxConns int           // connections at a time; one more closes the oldest; default 256
	Read     time.Duration // for a request, from its first byte on; default 2 s
	Write    time.Duration // for an answer; default 2 s
	Idle     time.Duration // between two requests of a connection; default 30 s
	Stop     time.Duration // for requests under way at the end; default 500 ms
	Logger   *slog.Logger  // default: slog.Default()
}

// DefaultConfig returns the limits that suit a handful of checkers.
func DefaultConfig() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 256
	}
	if c.Read == 0 {
		c.Read = 2 * time.Second
	}
	if c.Write == 0 {
		c.Write = 2 * time.Second
	}
	if c.Idle == 0 {
		c.Idle = 30 * time.Second
	}
	if c.Stop == 0 {
		c.Stop = 500 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate lists every field that is out of range.
func (c Config) Validate() error {
	var faults []error
	if c.Node == "" {
		faults = append(faults, errors.New("health: no name of the node"))
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"MaxConns", int64(c.MaxConns)}, {"Read", int64(c.Read)}, {"Write", int64(c.Write)}, {"Idle", int64(c.Idle)}, {"Stop", int64(c.Stop)}} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("health: %s is %d, want 0 or more", f.name, f.value))
		}
	}
	return errors.Join(faults...)
}

// Server answers what the package comment lists.
type Server struct {
	cfg     Config
	backend Backend
}

// NewServer returns a Server. It panics if cfg is not valid.
func NewServer(cfg Config, b Backend) *Server {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	return &Server{cfg: cfg.withDefaults(), backend: b}
}

// maxHeader bounds a request's line and headers, in bytes.
const maxHeader = 8 << 10

// Serve answers on ln, which it closes, until ctx ends. It returns nil when ctx ended and no request
// is under way any more, or Config.Stop after that.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.cfg.Read,
		ReadTimeout:       s.cfg.Read,
		WriteTimeout:      s.cfg.Write,
		IdleTimeout:       s.cfg.Idle,
		MaxHeaderBytes:    maxHeader,
		// The library's own answer to OPTIONS * is 200, and knows nothing of who is primary.
		DisableGeneralOptionsHandler: true,
		// Whoever speaks no HTTP must not fill the log.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(&few{Listener: ln, limit: s.cfg.MaxConns}) }()
	select {
	case err := <-done:
		srv.Close()
		return fmt.Errorf("health server: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Stop)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		srv.Close()
	}
	<-done
	return nil
}

// few is a listener with at most limit connections open. One more closes the oldest.
type few struct {
	net.Listener
	limit int

	mu   sync.Mutex
	open []*guest // oldest first
}

// guest is one of its connections.
type guest struct {
	net.Conn
	l *few
}

func (l *few) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: nc, l: l}
	l.mu.Lock()
	var oldest *guest
	if len(l.open) >= l.limit {
		oldest = l.open[0]
	}
	l.open = append(l.open, g)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	return g, nil
}

// Close may be called more than once.
func (g *guest) Close() error {
	g.l.mu.Lock()
	if i := slices.Index(g.l.open, g); i >= 0 {
		g.l.open = slices.Delete(g.l.open, i, i+1)
	}
	g.l.mu.Unlock()
	return g.Conn.Close()
}
