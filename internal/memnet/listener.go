package memnet

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// backlog is how many connections wait for Accept; more are refused.
const backlog = 128

// listener is one address of a host that accepts connections.
type listener struct {
	h    *Host
	addr Addr

	// Under h.n.mu.
	queue []*Conn // accepted by the host, oldest first
	wake  chan struct{}
	down  bool
}

// Listen accepts connections on addr: host:port of this host, or, with network "unix", a path.
// Port 0 takes a free one.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	a, err := h.own(network, addr)
	if err == nil && h.listeners[a] != nil {
		err = os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: a, Err: err}
	}
	l := &listener{h: h, addr: a, wake: make(chan struct{})}
	h.listeners[a] = l
	return l, nil
}

// own returns an address of this host. Caller holds mu.
func (h *Host) own(network, addr string) (Addr, error) {
	if network == "unix" {
		return Addr{network: network, host: h.name, text: addr}, nil
	}
	name, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return Addr{}, err
	case name != h.name:
		return Addr{}, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	case port == "0":
		return h.freePort(network), nil
	}
	return Addr{network: network, host: name, text: addr}, nil
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	n := l.h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for !l.down {
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			return c, nil
		}
		wake := l.wake
		n.mu.Unlock()
		<-wake
		n.mu.Lock()
	}
	return nil, &net.OpError{Op: "accept", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
}

// signal makes those in Accept look again. Caller holds mu.
func (l *listener) signal() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// shut ends Accept, and the connections that nobody has taken. Caller holds mu.
func (l *listener) shut() {
	if l.down {
		return
	}
	l.down = true
	now := time.Now()
	for _, c := range l.queue {
		c.peer.in.endWith(c.outward(), syscall.ECONNRESET, now)
		c.fail(syscall.ECONNABORTED)
	}
	l.queue = nil
	l.signal()
}

// Close makes the address free. Connections that wait for Accept are reset.
func (l *listener) Close() error {
	l.h.n.mu.Lock()
	defer l.h.n.mu.Unlock()
	if l.down {
		return &net.OpError{Op: "close", Net: l.addr.network, Addr: l.addr, Err: net.ErrClosed}
	}
	l.shut()
	delete(l.h.listeners, l.addr)
	return nil
}

// Addr returns an Addr.
func (l *listener) Addr() net.Addr { return l.addr }

// Dial connects to addr, which a unix path is of this host and host:port of any. It waits while a
// path is cut, until ctx ends.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := h.dial(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: Addr{network: network, text: addr}, Err: err}
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, network, addr string) (*Conn, error) {
	to := Addr{network: network, host: h.name, text: addr}
	if network != "unix" {
		name, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		to.host = name
	}
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for traveled := false; ; {
		if ctx.Err() != nil {
			return nil, dialError(ctx)
		}
		var due <-chan time.Time
		if n.open(h.name, to.host) {
			there := n.path(h.name, to.host).latency + n.path(to.host, h.name).latency
			if traveled || there == 0 {
				return n.connect(h, to)
			}
			due = time.After(there)
		}
		moved := n.moved
		n.mu.Unlock()
		select {
		case <-due:
			traveled = true
		case <-moved:
		case <-ctx.Done():
		}
		n.mu.Lock()
	}
}

// connect makes the connection that h asks for. Caller holds mu.
func (n *Network) connect(h *Host, to Addr) (*Conn, error) {
	host := n.hosts[to.host]
	if host == nil {
		return nil, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	}
	l := host.listeners[to]
	if l == nil || host.refusing || len(l.queue) >= backlog {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	from := h.freePort(to.network)
	if to.network == "unix" {
		from.text = "@"
	}
	dialed, accepted := n.newPair(from, to)
	l.queue = append(l.queue, accepted)
	l.signal()
	return dialed, nil
}

// dialError is what the end of ctx makes of a dial; like that of package net.
func dialError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return context.Canceled
}
