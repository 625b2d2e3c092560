package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/device"
)

// host is what a daemon takes from the machine it runs on, files aside. The zero value is the
// machine itself; a field that is set stands in the place of one thing. So the whole daemon runs
// in a testing/synctest bubble, where a goroutine that waits for a real socket stops the clock.
type host struct {
	// listen opens a listener on "tcp" or "unix". nil: sockets.
	listen func(ctx context.Context, network, addr string) (net.Listener, error)
	// connect reaches the transport of another node. nil: TCP.
	connect func(ctx context.Context, addr string) (net.Conn, error)
	// gossip opens what membership talks over. nil: UDP and TCP sockets.
	gossip func(addr string) (memberlist.Transport, error)
	// clock measures leases. nil: CLOCK_BOOTTIME.
	clock func() time.Duration
	// arms turns other nodes off. nil: the fence devices of the node file.
	arms armory
}

func (h host) listenOn(ctx context.Context, network, addr string) (net.Listener, error) {
	switch {
	case h.listen != nil:
		return h.listen(ctx, network, addr)
	case network == "unix":
		return control.ListenUnix(ctx, addr)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, network, addr)
}

// gossipOn returns nil when membership is to open sockets itself.
func (h host) gossipOn(addr string) (memberlist.Transport, error) {
	if h.gossip == nil {
		return nil, nil
	}
	t, err := h.gossip(addr)
	if err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", addr, err)
	}
	return t, nil
}

// bootTime is the clock of this host; see device.BootTime.
func (h host) bootTime() func() time.Duration {
	if h.clock != nil {
		return h.clock
	}
	return device.BootTime
}

// armed returns what turns other nodes off, by the node file.
func (h host) armed(cfg config.Node, log *slog.Logger) (armory, error) {
	if h.arms != nil {
		return h.arms, nil
	}
	return newDevices(cfg, log)
}
