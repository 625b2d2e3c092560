package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// AcceptorConfig bounds what strangers can cost.
type AcceptorConfig struct {
	Self       string        // name of this node, for messages
	Handshakes int           // connections waiting for their hello at a time; 0 is 64
	Timeout    time.Duration // for the whole handshake; 0 is 5 s
	Logger     *slog.Logger  // nil: no log
}

// Acceptor finds the link that an incoming connection is for.
type Acceptor struct {
	cfg   AcceptorConfig
	slots chan struct{} // capacity Handshakes: one for each connection in Serve

	mu    sync.Mutex
	links map[linkKey]*Link
}

type linkKey struct{ resource, peer string }

// NewAcceptor returns an acceptor without links.
func NewAcceptor(cfg AcceptorConfig) *Acceptor {
	if cfg.Handshakes <= 0 {
		cfg.Handshakes = DefaultHandshakes
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultHandshakeTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Acceptor{
		cfg:   cfg,
		slots: make(chan struct{}, cfg.Handshakes),
		links: make(map[linkKey]*Link),
	}
}

// Add makes l reachable. It returns an error when there is a link for its resource and peer.
func (a *Acceptor) Add(l *Link) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := linkKey{l.cfg.Resource, l.cfg.Peer}
	if a.links[k] != nil {
		return fmt.Errorf("resource %s has a link to %s already", k.resource, k.peer)
	}
	a.links[k] = l
	return nil
}

// Remove makes l unreachable. The session it may have goes on until its Run ends.
func (a *Acceptor) Remove(l *Link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := linkKey{l.cfg.Resource, l.cfg.Peer}
	if a.links[k] == l {
		delete(a.links, k)
	}
}

// Serve takes over conn, at whose other end the transport has proven to be the node peerNode. It
// reads the hello and passes conn on to the link it is for, or refuses with the reason, logs it
// and closes conn. It returns when that is done, within the timeout and a moment, or when ctx
// ends; the caller gives it a goroutine. Connections beyond Handshakes are closed at once. It has
// the form of a handler of package transport.
func (a *Acceptor) Serve(ctx context.Context, conn net.Conn, peerNode string) {
	if err := a.serve(ctx, conn, peerNode); err != nil {
		a.cfg.Logger.Warn("incoming session refused", "peer", peerNode, "addr", conn.RemoteAddr().String(), "err", err)
	}
}

// serve is Serve but for the log. It returns a *RefusedError, or how the connection failed.
func (a *Acceptor) serve(ctx context.Context, conn net.Conn, peerNode string) error {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		_ = conn.Close() // a refusal would keep this goroutine as busy as a handshake
		return refused(fmt.Errorf("%d handshakes are under way", cap(a.slots)))
	}
	deadline := time.Now().Add(a.cfg.Timeout)
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close() // err is what matters
		return fmt.Errorf("handshake: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // makes the read below fail
	g, err := expect(conn, wire.GreetHello)
	stop()
	var link *Link
	if err == nil {
		link, err = a.find(g, peerNode)
	}
	if err == nil {
		return link.Accept(conn, g, deadline)
	}
	defer conn.Close() // whatever comes of it: the connection has no future
	var r *RefusedError
	var broken *brokenError
	if errors.As(err, &r) || errors.As(err, &broken) {
		return err
	}
	sendRefusal(conn, err.Error())
	return refused(err)
}

// find returns the link that g asks for; an error is the reason to refuse.
func (a *Acceptor) find(g wire.Greeting, peerNode string) (*Link, error) {
	if _, err := wire.Negotiate(g); err != nil {
		return nil, err
	}
	h := &g.Hello
	if h.Node != peerNode {
		return nil, fmt.Errorf("%w: says %q, is connected as %q", ErrIdentity, h.Node, peerNode)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.links[linkKey{h.Resource, peerNode}]
	if l == nil {
		return nil, fmt.Errorf("node %s does not replicate resource %q with node %q", a.cfg.Self, h.Resource, peerNode)
	}
	return l, nil
}
