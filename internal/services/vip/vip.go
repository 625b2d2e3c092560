package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config says which address, where, and how it is announced.
type Config struct {
	Address   netip.Prefix  // host address and the length of its network
	Interface string        // "": the one that has the network
	Burst     int           // announcements at once; 0: 5
	Repeat    time.Duration // until the second burst; 0: 5 s
}

// Address is one address that comes and goes. Start, Stop and Close are not called at the same time.
type Address struct {
	cfg  Config
	stop context.CancelFunc // ends announcing; nil: nothing is announced
	done chan struct{}      // closed when announcing has ended
}

// New returns an Address that is not there yet.
func New(cfg Config) *Address {
	if cfg.Burst == 0 {
		cfg.Burst = 5
	}
	if cfg.Repeat == 0 {
		cfg.Repeat = 5 * time.Second
	}
	return &Address{cfg: cfg}
}

// Start adds the address, unless it is there, and announces it. Announcing goes on after Start until Stop
// or Close.
func (a *Address) Start(context.Context) error {
	a.quiet()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	defer h.Close()
	link, err := a.link(h)
	if err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	if err := up(link); err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	if err := h.AddrReplace(link, a.addr()); err != nil {
		return fmt.Errorf("add address %s to %s: %w", a.cfg.Address, link.Attrs().Name, err)
	}
	return a.announce(link)
}

// Stop deletes the address, unless it is gone.
func (a *Address) Stop(context.Context) error {
	a.quiet()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	defer h.Close()
	// Wherever it is: the interface may have been another one when it was added.
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("delete address %s: %w", a.cfg.Address, err)
	}
	for _, link := range links {
		if a.cfg.Interface != "" && link.Attrs().Name != a.cfg.Interface {
			continue
		}
		if there, err := a.on(h, link); err != nil || !there {
			if err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("delete address %s: %w", a.cfg.Address, err)
			}
			continue
		}
		err := h.AddrDel(link, a.addr())
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete address %s from %s: %w", a.cfg.Address, link.Attrs().Name, err)
		}
	}
	return nil
}

// Monitor returns nil if the address is there and its interface is up.
func (a *Address) Monitor(context.Context) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	defer h.Close()
	link, err := a.link(h)
	if err != nil {
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	}
	there, err := a.on(h, link)
	switch {
	case err != nil:
		return fmt.Errorf("address %s: %w", a.cfg.Address, err)
	case !there:
		return fmt.Errorf("address %s is not on %s any more", a.cfg.Address, link.Attrs().Name)
	}
	return up(link)
}

// Examine returns what would hinder a start. It changes nothing, and may be called beside the other methods.
func (a *Address) Examine(context.Context) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := a.link(h)
	if err != nil {
		return err
	}
	return up(link)
}

// Close ends announcing and leaves the address where it is.
func (a *Address) Close() error {
	a.quiet()
	return nil
}

func (a *Address) addr() *netlink.Addr {
	ip := a.cfg.Address.Addr()
	n := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(a.cfg.Address.Bits(), ip.BitLen())}}
	if ip.Is6() {
		n.Flags = unix.IFA_F_NODAD
	}
	return n
}

// link finds the interface.
func (a *Address) link(h *netlink.Handle) (netlink.Link, error) {
	if a.cfg.Interface != "" {
		link, err := h.LinkByName(a.cfg.Interface)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", a.cfg.Interface, err)
		}
		return link, nil
	}
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	var found []netlink.Link
	var names []string
	for _, link := range links {
		addrs, err := h.AddrList(link, a.family())
		if err != nil {
			return nil, err
		}
		for _, other := range addrs {
			if ip := prefixOf(other); ip.IsValid() && ip.Masked().Contains(a.cfg.Address.Addr()) && ip.Addr() != a.cfg.Address.Addr() {
				found, names = append(found, link), append(names, link.Attrs().Name)
				break
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, errors.New("no interface has an address of its network; name the interface")
	}
	return nil, fmt.Errorf("%s have addresses of its network; name the interface", strings.Join(names, " and "))
}

func (a *Address) family() int {
	if a.cfg.Address.Addr().Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// on reports whether link has the address.
func (a *Address) on(h *netlink.Handle, link netlink.Link) (bool, error) {
	addrs, err := h.AddrList(link, a.family())
	if err != nil {
		return false, err
	}
	for _, other := range addrs {
		if prefixOf(other) == a.cfg.Address {
			return true, nil
		}
	}
	return false, nil
}

func prefixOf(a netlink.Addr) netip.Prefix {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits)
}

// up returns an error if the interface is down, or nothing is plugged into it.
func up(link netlink.Link) error {
	at := link.Attrs()
	switch {
	case at.Flags&net.FlagUp == 0:
		return fmt.Errorf("interface %s is down", at.Name)
	case at.RawFlags&unix.IFF_LOWER_UP == 0: // not the operational state: the kernel may set that a second late
		return fmt.Errorf("interface %s has no link", at.Name)
	}
	return nil
}
