package peer

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// refuseTime bounds how long a refusal waits for the other side to read it and close.
const refuseTime = 200 * time.Millisecond

// agreed is what a handshake results in.
type agreed struct {
	theirs   wire.Hello
	protocol uint16
	comp     wire.Compression
}

// incoming is a connection that the peer has opened and greeted on.
type incoming struct {
	conn     net.Conn
	greeting wire.Greeting // a GreetHello
	deadline time.Time     // of the whole handshake
}

// greet is the dialer's handshake: hello, their hello, accept. It returns a *RefusedError when
// either side would not have the session, or what went wrong with the connection. The caller
// has set a deadline.
func (l *Link) greet(conn net.Conn) (agreed, error) {
	mine := l.hello()
	mine.Attempt = lastAttempt.Add(1)
	if err := sendHello(conn, mine); err != nil {
		return agreed{}, err
	}
	g, err := expect(conn, wire.GreetHello)
	if err != nil {
		return agreed{}, l.sayWhy(conn, err)
	}
	a, err := l.judge(mine, g)
	if err != nil {
		return agreed{}, l.sayWhy(conn, err)
	}
	if _, err := conn.Write(wire.AppendAccept(nil)); err != nil {
		return agreed{}, fmt.Errorf("send accept: %w", err)
	}
	return a, nil
}

// answer is the handshake of the side that was dialed, whose peer's hello has arrived. Errors
// are those of greet.
func (l *Link) answer(in *incoming) (agreed, error) {
	mine := l.hello()
	a, err := l.judge(mine, in.greeting)
	if err != nil {
		return agreed{}, l.sayWhy(in.conn, err)
	}
	if err := sendHello(in.conn, mine); err != nil {
		return agreed{}, err
	}
	if _, err := expect(in.conn, wire.GreetAccept); err != nil {
		return agreed{}, l.sayWhy(in.conn, err)
	}
	return a, nil
}

// hello returns what this side says in one handshake.
func (l *Link) hello() wire.Hello {
	h := l.cfg.Handler.Hello()
	h.Resource, h.Node = l.cfg.Resource, l.cfg.Self
	h.Features = l.cfg.Compression.Features()
	h.Attempt = 0
	return h
}

// judge compares both hellos; an error is the reason to refuse.
func (l *Link) judge(mine wire.Hello, g wire.Greeting) (agreed, error) {
	version, err := wire.Negotiate(g)
	if err != nil {
		return agreed{}, err
	}
	theirs := g.Hello
	if theirs.Node != l.cfg.Peer {
		return agreed{}, fmt.Errorf("%w: says %q, is connected as %q", ErrIdentity, theirs.Node, l.cfg.Peer)
	}
	if theirs.Resource != l.cfg.Resource {
		return agreed{}, fmt.Errorf("%w: speaks for resource %q, not %q", ErrIdentity, theirs.Resource, l.cfg.Resource)
	}
	if err := l.cfg.Handler.Check(theirs); err != nil {
		return agreed{}, err
	}
	return agreed{
		theirs:   theirs,
		protocol: version,
		comp:     wire.CommonCompression(mine.Features, theirs.Features),
	}, nil
}

// sayWhy tells the other side why there will be no session, unless it is the one that said so or
// the connection itself failed, and returns what the attempt failed with.
func (l *Link) sayWhy(conn net.Conn, err error) error {
	var r *RefusedError
	var broken *brokenError
	if errors.As(err, &r) || errors.As(err, &broken) {
		return err
	}
	sendRefusal(conn, err.Error())
	return refused(err)
}

// brokenError is a handshake that the connection did not survive.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "handshake: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// expect reads a greeting of one kind. A refusal is a *RefusedError, a failed connection a
// *brokenError; anything else is the peer's fault and worth a refusal.
func expect(conn net.Conn, kind wire.GreetingKind) (wire.Greeting, error) {
	g, err := wire.ReadGreeting(conn)
	switch {
	case err != nil && (plainEnd(err) || wire.Reason(err) == ""):
		return g, &brokenError{err}
	case err != nil:
		return g, err
	case g.Kind == wire.GreetRefuse:
		return g, &RefusedError{Remote: true, Reason: g.Reason}
	case g.Kind != kind:
		return g, fmt.Errorf("%w: %s where %s belongs", ErrHandshake, g.Kind, kind)
	}
	return g, nil
}

func sendHello(conn net.Conn, h wire.Hello) error {
	b, err := wire.AppendHello(nil, h)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	return nil
}

// sendRefusal tells the other side a reason and waits a moment for it to read that. The caller
// closes conn. Errors are left out: the reason is reported on this side anyway.
func sendRefusal(conn net.Conn, reason string) {
	_ = conn.SetDeadline(time.Now().Add(refuseTime))
	if _, err := conn.Write(wire.AppendRefuse(nil, reason)); err != nil {
		return
	}
	finish(conn, make([]byte, 4096))
}
