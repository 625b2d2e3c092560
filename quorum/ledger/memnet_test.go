package ledger

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// memNet is a network of nodes in memory, whose links can be cut.
type memNet struct {
	mu    sync.Mutex
	hosts map[string]*memHost
	cut   map[[2]string]bool // from, to: bytes vanish
	conns map[*memConn]bool
}

func newMemNet() *memNet {
	return &memNet{hosts: map[string]*memHost{}, cut: map[[2]string]bool{}, conns: map[*memConn]bool{}}
}

// memHost is one start of a node's transport.
type memHost struct {
	net    *memNet
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	serve  func(ctx context.Context, conn net.Conn, peer string)
}

// host starts the transport of a node; what an earlier one of that name held is closed.
func (n *memNet) host(name string) *memHost {
	ctx, cancel := context.WithCancel(context.Background())
	h := &memHost{net: n, name: name, ctx: ctx, cancel: cancel}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name] = h
	return h
}

func (h *memHost) Handle(_ string, serve func(ctx context.Context, conn net.Conn, peer string)) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.serve = serve
}

var errUnreachable = errors.New("unreachable")

func (h *memHost) Dial(ctx context.Context, _, node, _ string) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[node]
	if to == nil || to.serve == nil || to.ctx.Err() != nil || h.ctx.Err() != nil || ctx.Err() != nil ||
		n.cut[[2]string{h.name, node}] || n.cut[[2]string{node, h.name}] {
		return nil, errUnreachable
	}
	a, b := net.Pipe()
	mine := &memConn{Conn: a, net: n, from: h.name, to: node}
	theirs := &memConn{Conn: b, net: n, from: node, to: h.name}
	n.conns[mine], n.conns[theirs] = true, true
	to.wg.Go(func() { to.serve(to.ctx, theirs, h.name) })
	return mine, nil
}

// stop ends the node's transport and everything on it.
func (h *memHost) stop() {
	h.cancel()
	h.net.mu.Lock()
	var mine []*memConn
	for c := range h.net.conns {
		if c.from == h.name || c.to == h.name {
			mine = append(mine, c)
		}
	}
	h.net.mu.Unlock()
	for _, c := range mine {
		c.Close()
	}
	h.wg.Wait()
}

// block makes bytes from one node to another vanish, without a sign to either.
func (n *memNet) block(from, to string) { n.set(from, to, true) }

// split blocks both ways.
func (n *memNet) split(a, b string) { n.block(a, b); n.block(b, a) }

// heal lets bytes pass again. Connections that lost some are closed.
func (n *memNet) heal(a, b string) {
	n.set(a, b, false)
	n.set(b, a, false)
	n.mu.Lock()
	var broken []*memConn
	for c := range n.conns {
		if c.from == a && c.to == b || c.from == b && c.to == a {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

func (n *memNet) set(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
}

type memConn struct {
	net.Conn
	net      *memNet
	from, to string
}

func (c *memConn) Write(b []byte) (int, error) {
	c.net.mu.Lock()
	cut := c.net.cut[[2]string{c.from, c.to}]
	c.net.mu.Unlock()
	if cut {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

var _ io.Closer = (*memConn)(nil)
