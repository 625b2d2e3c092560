package tests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/load"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// haproxyConfig returns the file of the manual with the addresses of a cluster in it, and where its
// clients connect.
func haproxyConfig(t *testing.T, c *checked) (path, front string) {
	t.Helper()
	b, err := os.ReadFile("../docs/haproxy/lockstep.cfg")
	must(t, err)
	text := string(b)
	set := func(old, new string) {
		t.Helper()
		if strings.Count(text, old) != 1 {
			t.Fatalf("the manual's file has %d times %q", strings.Count(text, old), old)
		}
		text = strings.Replace(text, old, new, 1)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	front = ln.Addr().String()
	ln.Close()
	set("bind 0.0.0.0:10809", "bind "+front)
	for i, n := range c.DataNodes() {
		_, port, err := net.SplitHostPort(c.addr[n])
		must(t, err)
		nbd, _, _ := strings.Cut(strings.TrimPrefix(c.TCP(n), "nbd://"), "/")
		set(fmt.Sprintf("192.0.2.%d:10809 port 7783", i+1), nbd+" port "+port)
	}
	path = filepath.Join(c.Dir, "haproxy.cfg")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path, front
}

// followers is a load that knows one address.
type followers struct {
	*checked
	t *testing.T
	h *history.History
}

// flows returns when so many more writes were acknowledged.
func (f *followers) flows(more int) {
	f.t.Helper()
	want := f.h.Acked() + more
	proc.Eventually(f.t, "acknowledged writes through HAProxy", func() error {
		if n := f.h.Acked(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// follow has something happen, waits until node serves and writes flow again, and says for how long
// they did not.
func (f *followers) follow(what, node string, happen func()) {
	f.t.Helper()
	at := f.h.Now()
	happen()
	f.WaitPrimary(node)
	f.flows(200)
	f.t.Logf("%s: no write was acknowledged for %v", what, f.h.LongestGap(at, f.h.Now()).Round(time.Millisecond))
}

// whole returns when all replicas are in sync again, under the primary.
func (f *followers) whole(primary string) {
	f.t.Helper()
	f.Eventually(primary, "all replicas in sync", func(r control.Resource) error {
		for _, n := range f.DataNodes() {
			if p, ok := cluster.Replica(r, n); !ok || !p.InSync || p.DiskState != control.DiskUpToDate || p.Resync != nil {
				return fmt.Errorf("replica %+v", p)
			}
		}
		return nil
	})
}

// The clients know HAProxy's address alone, so every write after an event went through it to whoever is
// primary then.
func TestHAProxy_WithTheManualsFile_ClientsFollowThePrimary(t *testing.T) {
	haproxy := need.Tool(t, "haproxy", "haproxy")
	copier := need.Tool(t, "nbdcopy", "libnbd-bin")
	const size = 16 * cluster.MiB
	c := upChecked(t, cluster.Options{SizeBytes: size})
	cfg, front := haproxyConfig(t, c)
	proc.Run(t, haproxy, "-c", "-f", cfg)
	proc.Start(t, haproxy, "-db", "-f", cfg)

	uri := "nbd://" + front + "/r0"
	f := &followers{checked: c, t: t, h: history.New(size / history.Block)}
	l := load.Start(load.Options{
		Servers: []load.Server{{Name: "haproxy", URI: uri}}, History: f.h, Pause: 4 * time.Millisecond, Seed: 1,
	})
	t.Cleanup(l.Stop)
	f.flows(200)

	f.follow("switchover", "n2", func() { c.MustCLI("n1", "switchover", "r0", "--to", "n2") })
	f.whole("n2")
	f.follow("primary killed", "n1", func() { c.Kill("n2") })
	c.Start("n2")
	f.whole("n1")
	// It closes no connection: only its check that is not answered tells HAProxy.
	f.follow("primary stands still", "n2", func() { c.Signal("n1", syscall.SIGSTOP) })
	c.Signal("n1", syscall.SIGCONT)
	f.whole("n2")
	// The primary has no lease until the silent peer is dropped: clients are cut off from it meanwhile.
	f.follow("secondary stands still", "n2", func() {
		c.Signal("n1", syscall.SIGSTOP)
		c.WaitAlone("n2", "n1")
	})
	c.Signal("n1", syscall.SIGCONT)
	f.whole("n2")
	f.flows(100)
	l.Stop()

	if err := errors.Join(f.h.Errors()...); err != nil {
		t.Errorf("a request was answered with an error: %v", err)
	}
	c.Identical("n2")
	out := filepath.Join(c.Dir, "out.img")
	proc.Run(t, copier, uri, out)
	cluster.RequireSame(t, out, c.Data("n2"))
	must(t, f.h.Content("what was read through HAProxy at the end", out))
	if err := f.h.Direct(); err != nil {
		t.Errorf("not the answers of one device: %v", err)
	}
	if undecided, err := f.h.Linearizable(20 * time.Second); err != nil {
		t.Errorf("not linearizable: %v (%d blocks undecided)", err, undecided)
	}
	t.Logf("%s; %d connections", f.h.Counts(), l.Moves())
}
