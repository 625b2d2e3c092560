package memnet

import (
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Network is a set of hosts and the paths between them. All methods may be called from any
// goroutine of the bubble that made it.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*Host
	paths map[direction]*path
	conns []*Conn       // the dialing end of each connection that is not over on both ends
	moved chan struct{} // closed and replaced when a dial may find things changed
}

// direction is an ordered pair of host names.
type direction struct{ from, to string }

// path is what happens to bytes in one direction.
type path struct {
	cut     bool
	latency time.Duration
}

// Host is one machine of a Network.
type Host struct {
	n    *Network
	name string

	// Under n.mu.
	listeners map[Addr]*listener
	packets   map[Addr]*Gossip
	refusing  bool
	port      int // last one that was given out
}

// New returns a network without hosts.
func New() *Network {
	return &Network{hosts: map[string]*Host{}, paths: map[direction]*path{}, moved: make(chan struct{})}
}

// Host returns the host of that name, which is what stands before the port in its addresses: an IP
// address where code insists on one. It is made when it is asked for first.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &Host{n: n, name: name, listeners: map[Addr]*listener{}, packets: map[Addr]*Gossip{}, port: 49151}
		n.hosts[name] = h
	}
	return h
}

// SetLatency makes bytes between a and b take d, in both directions; 0 is none. It holds for what
// is sent from now on.
func (n *Network) SetLatency(a, b string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path(a, b).latency, n.path(b, a).latency = d, d
}

// Cut makes everything from one host to another vanish, what is under way included.
func (n *Network) Cut(from, to string) { n.setCut(from, to, true) }

// Heal is the end of Cut: what connections still hold is sent again.
func (n *Network) Heal(from, to string) { n.setCut(from, to, false) }

// Split is Cut in both directions.
func (n *Network) Split(a, b string) { n.Cut(a, b); n.Cut(b, a) }

// Join is Heal in both directions.
func (n *Network) Join(a, b string) { n.Heal(a, b); n.Heal(b, a) }

func (n *Network) setCut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, now := n.path(from, to), time.Now()
	p.cut = cut
	for _, c := range slices.Clone(n.conns) { // bounce may end some
		for _, end := range []*Conn{c, c.peer} {
			if end.remote.host == from && end.local.host == to {
				end.in.setHeld(cut, now.Add(p.latency), now)
				end.bounce(now)
			}
			end.watch()
			end.signal()
		}
	}
	n.announce()
}

// Break resets every connection between a and b, and returns how many there were.
func (n *Network) Break(a, b string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	broken := 0
	for _, c := range slices.Clone(n.conns) { // fail takes them out
		if c.between(a, b) {
			broken++
			c.fail(syscall.ECONNRESET)
			c.peer.fail(syscall.ECONNRESET)
		}
	}
	return broken
}

// Conns returns how many connections between a and b are open on at least one end.
func (n *Network) Conns(a, b string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for _, c := range n.conns {
		if c.between(a, b) {
			open++
		}
	}
	return open
}

// Refuse makes h refuse every new connection, or accept them again.
func (h *Host) Refuse(on bool) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.refusing = on
}

// Crash makes h forget its connections and listeners without a word to anybody. What it had sent
// and what has not arrived yet is lost.
func (h *Host) Crash() {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for _, l := range h.listeners {
		l.shut()
	}
	for _, g := range h.packets {
		g.shut()
	}
	clear(h.listeners)
	clear(h.packets)
	now := time.Now()
	for _, c := range slices.Clone(h.n.conns) { // fail takes them out
		for _, end := range []*Conn{c, c.peer} {
			if end.local.host == h.name && !end.gone() {
				end.peer.in.dropFlying(now)
				end.fail(syscall.ECONNABORTED)
			}
		}
	}
}

// path returns the path of a direction. Caller holds mu.
func (n *Network) path(from, to string) *path {
	d := direction{from, to}
	p := n.paths[d]
	if p == nil {
		p = &path{}
		n.paths[d] = p
	}
	return p
}

// open reports whether bytes pass both ways between two hosts. Caller holds mu.
func (n *Network) open(a, b string) bool { return !n.path(a, b).cut && !n.path(b, a).cut }

// announce wakes those who dial. Caller holds mu.
func (n *Network) announce() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// forget drops the connection of c once both of its ends are gone. Caller holds mu.
func (n *Network) forget(c *Conn) {
	if !c.gone() || !c.peer.gone() {
		return
	}
	if i := slices.IndexFunc(n.conns, func(x *Conn) bool { return x == c || x == c.peer }); i >= 0 {
		n.conns = slices.Delete(n.conns, i, i+1)
	}
}

// freePort returns an address of h that nobody has yet. Caller holds mu.
func (h *Host) freePort(network string) Addr {
	h.port++
	return Addr{network: network, host: h.name, text: net.JoinHostPort(h.name, strconv.Itoa(h.port))}
}

// Addr is an address on a Network.
type Addr struct {
	network string // "tcp" or "unix"
	host    string // name
	text    string // host:port, or a path
}

// Network returns "tcp" or "unix".
func (a Addr) Network() string { return a.network }

// String returns host:port, or a path.
func (a Addr) String() string { return a.text }
