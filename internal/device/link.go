package device

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// link is what a Device knows of one peer. It is the peer.Handler of the peer's Link, whose
// goroutine calls all its methods.
type link struct {
	d    *Device
	p    replication.Peer
	node string
	slot int // of the peer's bitmap in the metadata file
	link *peer.Link

	session session // that is up; guarded by Device.mu

	live atomic.Pointer[peer.Session] // session, for those who do not hold the mutex
}

// reconnectMax bounds the wait between attempts to reach a peer: a replica that returns is soon
// taken back, and an attempt costs a packet.
const reconnectMax = 500 * time.Millisecond

func sessionID(s session) replication.SessionID { return replication.SessionID(s.ID()) }

func (d *Device) newLink(l *link, p Peer) *peer.Link {
	return peer.NewLink(peer.LinkConfig{
		Resource: d.cfg.Resource,
		Self:     d.cfg.Node,
		Peer:     p.Node,
		Addr:     p.Addr,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return d.deps.Dial(ctx, p)
		},
		Handler:     l,
		Logger:      d.log,
		Compression: d.cfg.Compression,
		BackoffMax:  reconnectMax,
	})
}

// Hello implements peer.Handler.
func (l *link) Hello() wire.Hello {
	l.d.mu.Lock()
	h := l.d.core.Hello(l.p)
	l.d.mu.Unlock()
	return h
}

// Check implements peer.Handler.
func (l *link) Check(theirs wire.Hello) error {
	l.d.mu.Lock()
	err := l.d.core.CheckHello(l.p, &theirs)
	if l.d.shut {
		err = fmt.Errorf("resource %s on node %s: %w", l.d.cfg.Resource, l.d.cfg.Node, ErrClosed)
	}
	l.d.mu.Unlock()
	return err
}

// Up implements peer.Handler.
func (l *link) Up(s *peer.Session, theirs wire.Hello) {
	l.live.Store(s)
	l.up(s, theirs)
}

func (l *link) up(s session, theirs wire.Hello) {
	t := l.d.begin(true)
	t.lock()
	if l.session != nil {
		panic(fmt.Sprintf("device: session %d with %s is up while %d is", s.ID(), l.node, l.session.ID()))
	}
	l.session = s
	ev := t.event(replication.EvSessionUp)
	ev.Peer, ev.Session, ev.Hello = l.p, sessionID(s), &theirs
	t.step()
	t.unlock()
	t.finish()
}

// Frames implements peer.Handler.
func (l *link) Frames(s *peer.Session, batch []peer.Received) { l.frames(s, batch) }

func (l *link) frames(s session, batch []peer.Received) {
	t := l.d.begin(true)
	t.lock()
	for i := range batch {
		r := &batch[i]
		ev := t.event(replication.EvFrame)
		ev.Peer, ev.Session, ev.Frame = l.p, sessionID(s), &r.Frame
		if replication.NeedsID(r.Frame.Type) {
			ev.ID = l.d.core.NewID()
			l.d.keep(ev.ID, r.Payload)
		} else {
			r.Payload.Release()
		}
		r.Payload = nil
		t.step()
	}
	t.unlock()
	t.finish()
}

// Down implements peer.Handler.
func (l *link) Down(s *peer.Session, err error) {
	l.live.Store(nil)
	l.down(s, err)
}

func (l *link) down(s session, err error) {
	t := l.d.begin(true)
	t.lock()
	if l.session != s {
		panic(fmt.Sprintf("device: end of session %d with %s, which is not the one that is up", s.ID(), l.node))
	}
	l.session = nil
	ev := t.event(replication.EvSessionDown)
	ev.Peer, ev.Session, ev.Err = l.p, sessionID(s), err
	t.step()
	t.unlock()
	t.finish()
}
