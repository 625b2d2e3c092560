package vip

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs fn in a network namespace of its own that holds a pair of interfaces, eth0 with
// 10.0.0.1/24 and fd00::1/64, and peer.
func inNamespace(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	ready := make(chan error)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with it
		if err := build(); err != nil {
			ready <- err
			return
		}
		ready <- nil
		fn(t)
	}()
	if err := <-ready; err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("LOCKSTEP_REQUIRE") != "all" {
			t.Skipf("needs root, to make network namespaces: %v", err)
		}
		t.Fatal(err)
	}
	<-done
}

func build() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	at := netlink.NewLinkAttrs()
	at.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: at, PeerName: "peer"}); err != nil {
		return err
	}
	for _, name := range []string{"lo", "peer", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, text := range []string{"10.0.0.1/24", "fd00::1/64"} {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			return err
		}
	}
	return nil
}

// listen receives the frames of one type that arrive on peer.
func listen(t *testing.T, proto uint16) (next func() []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto<<8|proto>>8))
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	link, err := netlink.LinkByName("peer")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: link.Attrs().Index})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	}
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() []byte {
		b := make([]byte, 2048)
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			t.Errorf("receive: %v", err)
			runtime.Goexit()
		}
		return b[:n]
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

func TestAddress_Examine_NeedsTheNetworkAndALink(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for prefix, want := range map[string]string{
			"10.0.0.10/24": "", "fd00::10/64": "", "192.0.2.1/24": "no interface has", "fd01::1/64": "no interface has",
		} {
			err := New(Config{Address: netip.MustParsePrefix(prefix)}).Examine(t.Context())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %v", prefix, err)
			}
		}
		link, err := netlink.LinkByName("eth0")
		check(t, err)
		check(t, netlink.LinkSetDown(link))
		if err := New(Config{Address: netip.MustParsePrefix("10.0.0.10/24")}).Examine(t.Context()); err == nil || !strings.Contains(err.Error(), "eth0 is down") {
			t.Errorf("an interface that is down: %v", err)
		}
	})
}

func TestAddress_ComesAndGoes_AndIsAnnouncedTwice(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		proto  uint16
		at     int // where the address stands in the frame as sender
	}{{"10.0.0.10/24", etherARP, 28}, {"fd00::10/64", etherIPv6, 22}} {
		t.Run(tc.prefix, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				prefix := netip.MustParsePrefix(tc.prefix)
				next := listen(t, tc.proto)
				a := New(Config{Address: prefix, Repeat: 20 * time.Millisecond})
				if err := a.Monitor(t.Context()); err == nil || !strings.Contains(err.Error(), "not on eth0 any more") {
					t.Errorf("monitor before start: %v", err)
				}
				check(t, a.Stop(t.Context())) // of what is not there
				check(t, a.Start(t.Context()))
				check(t, a.Monitor(t.Context()))
				ip := prefix.Addr().AsSlice()
				for seen := 0; seen < 10; { // other frames pass, too: the kernel's own neighbour discovery
					if f := next(); len(f) >= tc.at+len(ip) && bytes.Equal(f[tc.at:tc.at+len(ip)], ip) && (tc.proto == etherARP || f[54] == 136) {
						seen++
					}
				}
				check(t, a.Start(t.Context())) // of what is there
				check(t, a.Stop(t.Context()))
				if err := a.Monitor(t.Context()); err == nil {
					t.Error("monitor after stop finds the address")
				}
			})
		})
	}
}

func TestAddress_IsUsableAtOnce_WithoutDuplicateDetection(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		a := New(Config{Address: netip.MustParsePrefix("fd00::10/64")})
		defer a.Close()
		check(t, a.Start(t.Context()))
		link, err := netlink.LinkByName("eth0")
		check(t, err)
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		check(t, err)
		for _, other := range addrs {
			if prefixOf(other) == a.cfg.Address && other.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Error("the address is tentative")
			}
		}
	})
}

func TestAddress_InterfaceThatIsDown_IsAFailure(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		a := New(Config{Address: netip.MustParsePrefix("10.0.0.10/24")})
		defer a.Close()
		check(t, a.Start(t.Context()))
		peer, err := netlink.LinkByName("peer")
		check(t, err)
		check(t, netlink.LinkSetDown(peer)) // as if the cable were pulled
		if err := a.Monitor(t.Context()); err == nil || !strings.Contains(err.Error(), "has no link") {
			t.Errorf("monitor: %v", err)
		}
		check(t, a.Stop(t.Context()))
		if err := a.Start(t.Context()); err == nil {
			t.Error("start on an interface without a link succeeds")
		}
	})
}

func TestAddress_WithoutItsNetwork_AsksForTheInterface(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		prefix := netip.MustParsePrefix("192.0.2.1/32")
		if err := New(Config{Address: prefix}).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "name the interface") {
			t.Errorf("start: %v", err)
		}
		a := New(Config{Address: prefix, Interface: "eth0"})
		defer a.Close()
		check(t, a.Start(t.Context()))
		check(t, a.Monitor(t.Context()))
		check(t, a.Stop(t.Context()))
		if err := New(Config{Address: prefix, Interface: "eth7"}).Start(t.Context()); err == nil {
			t.Error("start on an interface that does not exist succeeds")
		}
	})
}
