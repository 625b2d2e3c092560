package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// rig is a cluster in namespaces whose NBD server answers on every address of its node, so that whoever
// reaches the address that moves is answered by the node that holds it.
type rig struct {
	*cluster.Cluster
	t     testing.TB
	vip   netip.Prefix
	hook  string
	log   string // what the hook was called with
	state string // directory of what the hook is to do: fail, hang
}

// hookScript notes each call, and does what a file named ACTION.NODE tells: fail, or hang.
const hookScript = `#!/bin/sh
[ "$1" = monitor ] || echo "$1 $LOCKSTEP_NODE" >> %[1]s/log
how=$(cat "%[1]s/$1.$LOCKSTEP_NODE" 2>/dev/null)
case $how in
fail) echo "told to fail"; exit 1 ;;
hang) exec sleep 1000 ;;
esac
`

func start(t testing.TB, command ...string) *rig {
	t.Helper()
	return startSized(t, 16*cluster.MiB, command...)
}

// startSized is start with r0 of another size.
func startSized(t testing.TB, sizeBytes int64, command ...string) *rig {
	t.Helper()
	need.Root(t, "network namespaces")
	need.Tool(t, "ip", "iproute2")
	r := &rig{t: t, state: t.TempDir()}
	r.hook, r.log = filepath.Join(r.state, "hook"), filepath.Join(r.state, "log")
	if err := os.WriteFile(r.hook, fmt.Appendf(nil, hookScript, r.state), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Cluster = cluster.Up(t, cluster.Options{
		Netns: true, SizeBytes: sizeBytes, Command: command,
		Configure: func(n *config.Node) {
			if n.NBDListen != "" {
				n.NBDListen = "0.0.0.0:10809"
			}
		},
	})
	r.vip = netip.MustParsePrefix(fmt.Sprintf("10.%d.0.100/24", r.Lab.State().Net.ID))
	return r
}

// tell has the hook do something else for an action on a node; "" is what it should.
func (r *rig) tell(action, node, how string) {
	r.t.Helper()
	path := filepath.Join(r.state, action+"."+node)
	if err := os.WriteFile(path, []byte(how), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// calls returns what the hook was called with, but for monitor.
func (r *rig) calls() []string {
	b, err := os.ReadFile(r.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// up has the address and the hook follow the primary, and waits until they run on node.
func (r *rig) up(node string, more ...string) {
	r.t.Helper()
	args := append([]string{"resource", "set", "r0", "--vip", r.vip.String(), "--exec", r.hook + ",monitor-interval=200ms,start-timeout=5s,stop-timeout=1s"}, more...)
	r.MustCLI(node, args...)
	r.runs(node)
}

// runs returns when all services run on node.
func (r *rig) runs(node string) {
	r.t.Helper()
	r.Eventually(node, "services to run", func(s control.Resource) error {
		if s.Services == nil || len(s.Services.List) == 0 {
			return errors.New("there are none")
		}
		for _, v := range s.Services.List {
			if v.State != "running" {
				return fmt.Errorf("%s is %s %s", v.Name, v.State, v.Fault)
			}
		}
		return nil
	})
}

// holds reports whether node has the address.
func (r *rig) holds(node string) bool {
	r.t.Helper()
	has := false
	err := r.Lab.In(node, func() error {
		all, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		has = slices.ContainsFunc(all, func(a net.Addr) bool { return a.String() == r.vip.String() })
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return has
}

// drops returns when node has the address no longer.
func (r *rig) drops(node string) {
	r.t.Helper()
	proc.Eventually(r.t, node+" to drop the address", func() error {
		if r.holds(node) {
			return errors.New("it has it")
		}
		return nil
	})
}

// answered returns when a client in a namespace of its own is greeted at the address, and how long that took.
func (r *rig) answered() time.Duration {
	r.t.Helper()
	begun := time.Now()
	proc.Eventually(r.t, "an answer at "+r.vip.String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond) // so that a lost SYN is sent anew
		defer cancel()
		conn, err := r.Lab.Dial(ctx, "client", "tcp", netip.AddrPortFrom(r.vip.Addr(), 10809).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		end, _ := ctx.Deadline()
		conn.SetDeadline(end)
		b := make([]byte, 16)
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		if string(b) != "NBDMAGICIHAVEOPT" {
			return fmt.Errorf("greeted with %q", b)
		}
		return nil
	})
	return time.Since(begun)
}

// announcements watches the network from the client's host. The returned function returns the hardware address in
// the next gratuitous ARP for the address.
func (r *rig) announcements() func() net.HardwareAddr {
	r.t.Helper()
	fd := r.packets(20 * time.Second)
	return func() net.HardwareAddr {
		r.t.Helper()
		mac := r.nextARP(fd)
		if mac == nil {
			r.t.Fatalf("no gratuitous ARP for %s", r.vip)
		}
		return mac
	}
}

// packets opens a socket for ARP on the client's host, on which one receive lasts no longer than patience.
func (r *rig) packets(patience time.Duration) (fd int) {
	r.t.Helper()
	err := r.Lab.In("client", func() (err error) {
		const arp = unix.ETH_P_ARP>>8 | unix.ETH_P_ARP<<8&0xff00
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, arp); err != nil {
			return err
		}
		limit := unix.NsecToTimeval(patience.Nanoseconds())
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// nextARP returns the hardware address in the next gratuitous ARP for the address, nil if none comes in time.
func (r *rig) nextARP(fd int) net.HardwareAddr {
	ip := r.vip.Addr().As4()
	for {
		b := make([]byte, 128)
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return nil
		}
		if n >= 42 && string(b[28:32]) == string(ip[:]) && string(b[38:42]) == string(ip[:]) {
			return net.HardwareAddr(b[22:28])
		}
	}
}

// mac returns the hardware address of a node.
func (r *rig) mac(node string) net.HardwareAddr {
	r.t.Helper()
	var mac net.HardwareAddr
	err := r.Lab.In(node, func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return mac
}
