package transport

import (
	"context"
	"net"
	"sync"
)

// PeerAddr is the address of an authenticated peer.
type PeerAddr struct {
	net.Addr        // of the socket
	Node     string // proven name
}

// PeerConn is what Listener yields: the connection, and who is at its other end.
type PeerConn struct {
	net.Conn
	peer PeerAddr
}

// RemoteAddr returns a PeerAddr.
func (c *PeerConn) RemoteAddr() net.Addr { return c.peer }

// listener hands the connections of one service to Accept. It holds none back: a handler waits
// with its connection until someone accepts it, so that connections in waiting are bounded by
// what the peers hold open.
type listener struct {
	service, node string
	conns         chan net.Conn
	done          chan struct{}
	once          sync.Once
}

func (l *listener) offer(ctx context.Context, conn net.Conn, peer string) {
	select {
	case l.conns <- &PeerConn{Conn: conn, peer: PeerAddr{Addr: conn.RemoteAddr(), Node: peer}}:
	case <-ctx.Done():
		conn.Close()
	case <-l.done:
		conn.Close()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return serviceAddr(l.node + "/" + l.service) }

// serviceAddr names a service of a node, since a Listener shares its TCP address with others.
type serviceAddr string

func (serviceAddr) Network() string  { return "lockstep" }
func (a serviceAddr) String() string { return string(a) }
