package memnet

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// packetQueue is how many packets wait for memberlist; more are lost, as on a full socket.
const packetQueue = 1024

// Gossip is a memberlist.Transport on a host: datagrams and streams on one address, as UDP and TCP
// would carry them.
type Gossip struct {
	h       *Host
	addr    Addr
	ln      net.Listener
	packets chan *memberlist.Packet // capacity packetQueue
	streams chan net.Conn
	done    chan struct{} // closed by Shutdown
	once    sync.Once
	wg      sync.WaitGroup // of the goroutine that accepts
}

var _ memberlist.NodeAwareTransport = (*Gossip)(nil)

// Gossip listens on addr, host:port of this host, whose name must be an IP address: memberlist
// sends those around. Memberlist ends it with Shutdown.
func (h *Host) Gossip(addr string) (*Gossip, error) {
	ln, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		h: h, addr: ln.Addr().(Addr), ln: ln,
		packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	h.n.mu.Lock()
	h.packets[g.addr] = g
	h.n.mu.Unlock()
	g.wg.Go(g.accept)
	return g, nil
}

// accept hands connections to memberlist until the listener ends.
func (g *Gossip) accept() {
	for {
		conn, err := g.ln.Accept()
		if err != nil {
			return
		}
		select {
		case g.streams <- conn:
		case <-g.done:
			conn.Close()
		}
	}
}

// shut ends what waits for memberlist. Caller holds the network's mutex.
func (g *Gossip) shut() { g.once.Do(func() { close(g.done) }) }

// Shutdown ends the transport and waits for its goroutine.
func (g *Gossip) Shutdown() error {
	g.h.n.mu.Lock()
	g.shut()
	if g.h.packets[g.addr] == g {
		delete(g.h.packets, g.addr)
	}
	g.h.n.mu.Unlock()
	_ = g.ln.Close() // a crash of the host has closed it
	g.wg.Wait()
	return nil
}

// FinalAdvertiseAddr returns the address that it listens on, whatever was configured.
func (g *Gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	host, port, err := net.SplitHostPort(g.addr.text)
	if err != nil {
		return nil, 0, err
	}
	ip := net.ParseIP(host)
	n, err := strconv.Atoi(port)
	if ip == nil || err != nil {
		return nil, 0, fmt.Errorf("memnet: %s is no IP address and port", g.addr.text)
	}
	return ip, n, nil
}

// WriteTo sends a packet, which is lost when nobody is there or the path is cut.
func (g *Gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return now, err
	}
	n := g.h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.path(g.h.name, host); !p.cut {
		to := Addr{network: "tcp", host: host, text: addr}
		packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: g.addr}
		if p.latency == 0 {
			n.deliver(to, packet)
		} else {
			time.AfterFunc(p.latency, func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				if !p.cut {
					n.deliver(to, packet)
				}
			})
		}
	}
	return now, nil
}

// deliver hands a packet to whoever is at an address, if there is room. Caller holds mu.
func (n *Network) deliver(to Addr, packet *memberlist.Packet) {
	host := n.hosts[to.host]
	if host == nil || host.packets[to] == nil {
		return
	}
	packet.Timestamp = time.Now()
	select {
	case host.packets[to].packets <- packet:
	default:
	}
}

// WriteToAddress is WriteTo; names of nodes are not looked at.
func (g *Gossip) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, addr.Addr)
}

// PacketCh returns what arrives.
func (g *Gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh returns the connections of others.
func (g *Gossip) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout connects to addr.
func (g *Gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.h.Dial(ctx, "tcp", addr)
}

// DialAddressTimeout is DialTimeout; names of nodes are not looked at.
func (g *Gossip) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(addr.Addr, timeout)
}
