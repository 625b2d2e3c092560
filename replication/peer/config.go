package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// Defaults of LinkConfig and AcceptorConfig.
const (
	DefaultBackoffMin       = 50 * time.Millisecond
	DefaultBackoffMax       = 2 * time.Second
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultUserTimeout      = 10 * time.Second
	DefaultHandshakes       = 64
)

// LinkConfig says what a Link connects and how.
type LinkConfig struct {
	Resource string // name
	Self     string // name of this node
	Peer     string // name of the node at the other end; Self dials if it sorts before Peer

	// Dial opens a connection on which the transport has proven that Peer is at the other end.
	// It honours ctx. Not called, and may be nil, on the node that accepts.
	Dial func(ctx context.Context) (net.Conn, error)
	Addr string // where Dial goes, for messages alone

	Handler  Handler
	Logger   *slog.Logger // nil: no log
	Disabled bool         // start as after SetEnabled(false)

	Compression wire.Compression // used if the peer agrees; default none

	// The wait between attempts grows from BackoffMin to BackoffMax, less up to half by chance.
	// 0 is the default: 50 ms and 2 s.
	BackoffMin, BackoffMax time.Duration

	HandshakeTimeout time.Duration // for dialing, and again for the greetings; 0 is 5 s
	UserTimeout      time.Duration // the kernel gives up an unresponsive peer; 0 is 10 s
}

// withDefaults returns c with its zero durations filled in.
func (c LinkConfig) withDefaults() LinkConfig {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.BackoffMin, DefaultBackoffMin)
	set(&c.BackoffMax, max(DefaultBackoffMax, c.BackoffMin))
	set(&c.HandshakeTimeout, DefaultHandshakeTimeout)
	set(&c.UserTimeout, DefaultUserTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate lists all faults of c at once.
func (c LinkConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Resource == "" || c.Self == "" || c.Peer == "" {
		bad("resource %q, self %q, peer %q: none may be empty", c.Resource, c.Self, c.Peer)
	}
	if c.Self == c.Peer {
		bad("node %q cannot be its own peer", c.Self)
	}
	if c.Handler == nil {
		bad("no handler")
	}
	if c.Dial == nil && c.Self < c.Peer {
		bad("no dial function, but %s dials %s", c.Self, c.Peer)
	}
	if c.BackoffMin < 0 || c.BackoffMax < 0 || c.BackoffMax != 0 && c.BackoffMax < c.BackoffMin {
		bad("backoff %v to %v", c.BackoffMin, c.BackoffMax)
	}
	if c.HandshakeTimeout < 0 || c.UserTimeout < 0 {
		bad("handshake timeout %v, user timeout %v: negative", c.HandshakeTimeout, c.UserTimeout)
	}
	if c.Compression > wire.Zstd {
		bad("%s", c.Compression)
	}
	return errors.Join(errs...)
}
