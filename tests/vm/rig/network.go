package rig

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Network joins machines: each packet that one of them sends reaches all others, as in a hub. Its cables can be
// pulled. Machine i has the hardware address 52:54:00:00:00:i.
type Network struct {
	dir   string
	mu    sync.Mutex
	ports map[int]*port
}

// port is where one machine is plugged in. QEMU's end is a datagram socket of its own, which each new machine in
// that place makes anew.
type port struct {
	hub    *net.UnixConn
	guest  *net.UnixAddr
	pulled atomic.Bool
}

// NewNetwork returns a network without machines, which lives as long as the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{dir: dir, ports: map[int]*port{}}
	t.Cleanup(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, p := range n.ports {
			p.hub.Close()
		}
		os.RemoveAll(dir)
	})
	return n
}

// Pull pulls the cable of a machine, or puts it back.
func (n *Network) Pull(machine int, pulled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[machine].pulled.Store(pulled)
}

// plug returns what QEMU is told about the card of a machine.
func (n *Network) plug(machine int) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	guest := filepath.Join(n.dir, fmt.Sprintf("guest%d", machine))
	hub := filepath.Join(n.dir, fmt.Sprintf("hub%d", machine))
	if n.ports[machine] == nil {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: hub, Net: "unixgram"})
		if err != nil {
			return nil, err
		}
		p := &port{hub: conn, guest: &net.UnixAddr{Name: guest, Net: "unixgram"}}
		n.ports[machine] = p
		go n.forward(p)
	}
	return []string{
		"-netdev", "dgram,id=net,local.type=unix,local.path=" + guest + ",remote.type=unix,remote.path=" + hub,
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:%02x", machine),
	}, nil
}

// forward hands on what a machine sends until its port is closed. What a machine does not take is lost.
func (n *Network) forward(from *port) {
	packet := make([]byte, 1<<16)
	for {
		size, err := from.hub.Read(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || from.pulled.Load() {
			continue
		}
		n.mu.Lock()
		for _, to := range n.ports {
			if to != from && !to.pulled.Load() {
				_, _ = from.hub.WriteToUnix(packet[:size], to.guest)
			}
		}
		n.mu.Unlock()
	}
}
