package vip

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// announce sends the first burst, and has a goroutine send the second. The socket is opened here, once:
// it belongs to the network namespace of whoever calls Start.
func (a *Address) announce(link netlink.Link) error {
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 || link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil // there is nobody to be told
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
	if err != nil {
		return fmt.Errorf("announce %s: %w", a.cfg.Address, err)
	}
	ip := a.cfg.Address.Addr()
	var frame []byte
	proto := uint16(etherARP)
	if ip.Is4() {
		frame = gratuitousARP(mac, ip)
	} else {
		frame, proto = advertisement(mac, ip), etherIPv6
	}
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: proto<<8 | proto>>8}
	if err := a.burst(fd, frame, to); err != nil {
		unix.Close(fd)
		return err
	}
	ctx, cancel := context.WithCancel(context.Background()) // quiet ends it
	a.stop, a.done = cancel, make(chan struct{})
	go func() {
		defer close(a.done)
		defer unix.Close(fd)
		again := time.NewTimer(a.cfg.Repeat)
		defer again.Stop()
		select {
		case <-again.C:
			a.burst(fd, frame, to) // the first one was sent; Monitor sees an interface that went down since
		case <-ctx.Done():
		}
	}()
	return nil
}

func (a *Address) burst(fd int, frame []byte, to unix.Sockaddr) error {
	for range a.cfg.Burst {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			return fmt.Errorf("announce %s: %w", a.cfg.Address, err)
		}
	}
	return nil
}

// quiet ends announcing and returns when it has ended.
func (a *Address) quiet() {
	if a.stop != nil {
		a.stop()
		<-a.done
		a.stop = nil
	}
}
