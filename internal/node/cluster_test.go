package node

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// cluster is daemons in this process that talk over loopback.
type cluster struct {
	t     *testing.T
	dir   string
	files map[string]config.Node
	stops map[string]func()
}

// newCluster makes the files of the nodes; "w" is a witness. Nothing runs yet.
func newCluster(t *testing.T, names ...string) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "lsn") // short: the paths of sockets have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, files: map[string]config.Node{}, stops: map[string]func(){}}
	t.Cleanup(func() {
		for _, n := range names {
			c.stop(n)
		}
		os.RemoveAll(dir)
	})
	key := config.NewKey()
	var peers []config.Peer
	taken := map[string]bool{}
	for _, n := range names {
		peers = append(peers, config.Peer{Name: n, Addr: freePort(t, taken), Gossip: freePort(t, taken), Witness: n == "w"})
	}
	for _, p := range peers {
		f := config.DefaultNode()
		f.Name, f.Cluster, f.Key, f.Witness, f.Nodes = p.Name, "test", key, p.Witness, peers
		f.DataDir, f.Listen, f.GossipListen = filepath.Join(dir, p.Name), p.Addr, p.Gossip
		f.Resolve(dir)
		c.files[p.Name] = f
	}
	return c
}

// freePort returns a loopback address that is free for TCP and UDP at this moment, and adds it to
// taken.
func freePort(t *testing.T, taken map[string]bool) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		if addr := l.Addr().String(); !taken[addr] {
			taken[addr] = true
			return addr
		}
	}
}

// start runs the daemon of a node and returns when it is ready.
func (c *cluster) start(name string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	ended := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(c.t.Output(), nil))
	}
	go func() { ended <- Run(ctx, c.files[name], log, func() { close(ready) }) }()
	c.stops[name] = func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("node %s: %v", name, err)
		}
	}
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		c.t.Fatalf("node %s did not start: %v", name, err)
	}
}

// stop ends a daemon in order, if it runs.
func (c *cluster) stop(name string) {
	if stop := c.stops[name]; stop != nil {
		delete(c.stops, name)
		stop()
	}
}

func (c *cluster) client(name string) *control.Client {
	return control.NewClient(c.files[name].ControlSocket)
}

// until asks node for r0 again and again until ok holds.
func (c *cluster) until(node, what string, ok func(control.Status, control.Resource) bool) control.Resource {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var last any
	for {
		st, err := c.client(node).Status(ctx, "")
		last = err
		if err == nil {
			var r control.Resource
			if len(st.Resources) > 0 {
				r = st.Resources[0]
			}
			if ok(st, r) {
				return r
			}
			last = st
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("%s never says that %s: %+v", node, what, last)
		}
	}
}

func (c *cluster) untilInSync(node string, names ...string) {
	c.t.Helper()
	c.until(node, "all are in sync", func(_ control.Status, r control.Resource) bool {
		return slices.Equal(r.InSync, names) && !slices.ContainsFunc(r.Replicas, func(p control.Replica) bool {
			return p.DiskState != control.DiskUpToDate
		})
	})
}

func (c *cluster) open(node string) *nbdConn {
	c.t.Helper()
	n, err := dialNBD(c.t, c.files[node].NBDUnix, "r0")
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *cluster) image(node string) string { return filepath.Join(c.dir, node+".img") }

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// writeAt writes data through conn and into the model.
func writeAt(t *testing.T, conn *nbdConn, model []byte, off int, data []byte) {
	t.Helper()
	check(t, "write", conn.do(cmdWrite, int64(off), data))
	copy(model[off:], data)
}

func TestCluster_SecondaryLeavesAndReturnsAndTakesOver(t *testing.T) {
	const size = 8 << 20
	c := newCluster(t, "n1", "n2", "w")
	for n := range c.files {
		c.start(n)
	}
	for n := range c.files {
		c.until(n, "there is a quorum", func(st control.Status, _ control.Resource) bool { return st.Ledger.Quorum })
	}
	req := control.CreateRequest{Resource: "r0", SizeBytes: size}
	for _, n := range []string{"n1", "n2"} {
		req.Replicas = append(req.Replicas, control.ReplicaCreate{Node: n, DataPath: c.image(n), MetaPath: c.image(n) + ".meta"})
	}
	check(t, "create", c.client("w").CreateResource(t.Context(), req)) // any node can be asked
	check(t, "promote", c.client("n1").Promote(t.Context(), "r0", control.PromoteOptions{}))
	c.untilInSync("n1", "n1", "n2")

	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	model := make([]byte, size)
	conn := c.open("n1")
	if conn.size != size {
		t.Errorf("export of %d bytes", conn.size)
	}
	writeAt(t, conn, model, 4096, data)
	check(t, "flush", conn.do(cmdFlush, 0, nil))
	if _, err := dialNBD(t, c.files["n2"].NBDUnix, "r0"); err == nil {
		t.Error("the secondary serves")
	}

	c.stop("n2")
	writeAt(t, conn, model, 3<<20+512, data[:100_000])
	r := c.until("n1", "n2 lacks something", func(_ control.Status, r control.Resource) bool {
		return slices.Equal(r.InSync, []string{"n1"}) && r.Replicas[1].DirtyBytes > 0
	})
	if len(r.Advice) == 0 || r.IO.State != control.IORunning {
		t.Errorf("without n2: %+v", r)
	}
	c.start("n2")
	c.untilInSync("n1", "n1", "n2")

	check(t, "switchover", c.client("n1").Switchover(t.Context(), "r0", "n2"))
	back := c.open("n2")
	got := make([]byte, size)
	for off := 0; off < size; off += 1 << 20 {
		check(t, "read", back.do(cmdRead, int64(off), got[off:off+1<<20]))
	}
	if !bytes.Equal(got, model) {
		t.Error("what is read on n2 is not what was written on n1")
	}
	writeAt(t, back, model, 6<<20, data[:8192])
	c.untilInSync("n2", "n1", "n2")
	for n := range c.files {
		c.stop(n)
	}
	for _, n := range []string{"n1", "n2"} {
		b, err := os.ReadFile(c.image(n))
		check(t, "image", err)
		if !bytes.Equal(b, model) {
			t.Errorf("the backing of %s is not what was written", n)
		}
	}
}

func TestRun_SocketOfALivingProcessIsNotTaken(t *testing.T) {
	c := newCluster(t, "n1")
	c.start("n1")
	if err := Run(t.Context(), c.files["n1"], slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("two daemons of one node")
	}
}

func TestRun_SocketOfADeadProcessIsReplaced(t *testing.T) {
	c := newCluster(t, "n1")
	f := c.files["n1"]
	check(t, "directory", os.MkdirAll(f.DataDir, 0o700))
	for _, path := range []string{f.ControlSocket, f.NBDUnix} {
		l, err := net.Listen("unix", path)
		check(t, "listen", err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	c.start("n1")
	c.until("n1", "there is a quorum", func(st control.Status, _ control.Resource) bool { return st.Ledger.Quorum })
	for _, path := range []string{f.ControlSocket, f.NBDUnix} {
		st, err := os.Stat(path)
		check(t, "socket", err)
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, st.Mode().Perm())
		}
	}
}
