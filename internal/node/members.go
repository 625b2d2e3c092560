package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/membership"
)

// members is this node's part in the membership gossip. It gives hints to people and to nobody
// else: no vote, epoch or fence depends on it.
type members struct {
	gossip *membership.Membership
	hear   func(membership.Hint)

	mu    sync.Mutex
	heard map[string]bool // by node: the newest hint

	keysMu sync.Mutex   // held while the key file is read or written, and what it says is taken up
	keys   []config.Key // in use, as far as they were taken from the file
}

// newMembers opens the gossip sockets; nothing is sent before run.
func newMembers(cfg config.Node, h host, self quorum.Incumbent, log *slog.Logger, hear func(membership.Hint)) (*members, error) {
	bind, err := resolve(cfg.GossipListen)
	if err != nil {
		return nil, fmt.Errorf("gossip_listen: %w", err)
	}
	mc := membership.Config{
		Cluster: cfg.Cluster, Node: cfg.Name, Bind: bind, Key: cfg.Key[:], Preset: membership.Preset(cfg.Timing), Logger: log,
		Meta: membership.Meta{Client: cfg.NBDListen, Boot: self.Boot, Process: self.Process, Version: control.Version(), Witness: cfg.Witness},
	}
	for _, n := range cfg.Nodes {
		if n.Name != cfg.Name {
			mc.Join = append(mc.Join, n.Gossip)
			continue
		}
		mc.Meta.Addr = n.Addr
		// Others are told what the file says, since what is bound may be every address of the host.
		if mc.Advertise, err = resolve(n.Gossip); err != nil {
			return nil, fmt.Errorf("gossip address of %s: %w", n.Name, err)
		}
	}
	if mc.Transport, err = h.gossipOn(cfg.GossipListen); err != nil {
		return nil, err
	}
	g, err := membership.New(mc)
	if err != nil {
		return nil, err
	}
	return &members{gossip: g, hear: hear, heard: map[string]bool{}}, nil
}

// resolve turns host:port into an address; an empty host is every address.
func resolve(hostport string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap := a.AddrPort()
	if !ap.Addr().IsValid() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()), nil
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// run takes part until ctx ends.
func (m *members) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.gossip.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case h := <-m.gossip.Hints():
				m.mu.Lock()
				m.heard[h.Node] = h.Alive
				m.mu.Unlock()
				m.hear(h)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// alive reports whether the gossip hears of the node, as of its last hint.
func (m *members) alive(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard[node]
}
