package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
)

const (
	bubbleSize    = 4 << 20                // bytes of r0
	bubbleLatency = 200 * time.Microsecond // one way, between any two nodes
	bubbleLimit   = 30 * time.Minute       // of the fake clock
)

// bubble is daemons as they are on a network in memory and a fake clock: everything but their
// files. Time passes only while all of them wait, so disks and processors take none. A goroutine
// that is left at the end fails the test.
type bubble struct {
	*testing.T
	*memnet.Network
	dir   string
	born  time.Time
	files map[string]config.Node
	slow  map[string]float64    // by how much of the true time a node's clock for leases lags behind; 0: not at all
	ended map[string]chan error // of daemons that run; capacity 1
	stops map[string]context.CancelFunc
	arms  func(node string) armory // what turns other nodes off; nil: the devices of the node file
}

// inBubble runs f with the files of these nodes, "w" being a witness. What f has started is stopped
// afterwards.
func inBubble(t *testing.T, names []string, f func(w *bubble)) {
	t.Helper()
	dir := t.TempDir() // outside: its removal belongs to the test around the bubble
	memnet.Bubble(t, bubbleLimit, func(t *testing.T) {
		w := &bubble{
			T: t, Network: memnet.New(), dir: dir, born: time.Now(), files: map[string]config.Node{}, slow: map[string]float64{},
			ended: map[string]chan error{}, stops: map[string]context.CancelFunc{},
		}
		w.configure(names)
		t.Cleanup(func() {
			w.stop(names...)
			memnet.Pass(5 * time.Second) // see package membership: what waits for an answer at the end
		})
		f(w)
	})
}

// inCluster runs f with two data nodes and a witness that were started in the same moment, and r0
// on them, in sync, whose primary is n1.
func inCluster(t *testing.T, f func(w *bubble)) {
	t.Helper()
	inBubble(t, []string{"n1", "n2", "w"}, func(w *bubble) {
		w.startAll()
		w.create()
		f(w)
	})
}

// startAll starts all nodes at once and waits for a quorum.
func (w *bubble) startAll() {
	w.Helper()
	for n := range w.files {
		w.start(n)
	}
	for n := range w.files {
		w.until(n, "there is a quorum", func(st control.Status, _ control.Resource) bool { return st.Ledger.Quorum })
	}
}

// configure makes the files of the nodes, each on an address of its own.
func (w *bubble) configure(names []string) {
	key := config.NewKey()
	var peers []config.Peer
	for i, n := range names {
		ip := fmt.Sprintf("127.0.0.%d", i+1)
		peers = append(peers, config.Peer{Name: n, Addr: ip + ":7780", Gossip: ip + ":7781", Witness: n == "w"})
		for j := range i {
			w.SetLatency(ip, fmt.Sprintf("127.0.0.%d", j+1), bubbleLatency)
		}
	}
	for _, p := range peers {
		f := config.DefaultNode()
		f.Name, f.Cluster, f.Key, f.Witness, f.Nodes = p.Name, "test", key, p.Witness, peers
		f.DataDir, f.Listen, f.GossipListen = filepath.Join(w.dir, p.Name), p.Addr, p.Gossip
		f.Resolve(w.dir)
		w.files[p.Name] = f
	}
}

// ip is the name of a node's host.
func (w *bubble) ip(node string) string {
	return netip.MustParseAddrPort(w.files[node].Listen).Addr().String()
}

// host is what the daemon of a node runs on.
func (w *bubble) host(node string) host {
	m := w.Host(w.ip(node))
	var arms armory
	if w.arms != nil {
		arms = w.arms(node)
	}
	return host{
		arms:    arms,
		listen:  func(_ context.Context, network, addr string) (net.Listener, error) { return m.Listen(network, addr) },
		connect: func(ctx context.Context, addr string) (net.Conn, error) { return m.Dial(ctx, "tcp", addr) },
		gossip:  func(addr string) (memberlist.Transport, error) { return m.Gossip(addr) },
		clock: func() time.Duration {
			return time.Hour + time.Duration(float64(time.Since(w.born))*(1-w.slow[node]))
		},
	}
}

// start runs the daemon of a node, which is ready when it returns.
func (w *bubble) start(node string) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.Output(), nil))
	}
	go func() { ended <- runOn(ctx, w.host(node), w.files[node], log, func() { close(ready) }) }()
	w.stops[node], w.ended[node] = cancel, ended
	select {
	case <-ready:
	case err := <-ended:
		delete(w.stops, node)
		cancel()
		w.Fatalf("node %s did not start: %v", node, err)
	}
}

// stop ends daemons in order and at once, if they run, and returns how long that took.
func (w *bubble) stop(nodes ...string) time.Duration {
	w.Helper()
	start := time.Now()
	for node, err := range w.end(nodes...) {
		if err != nil {
			w.Errorf("node %s: %v", node, err)
		}
	}
	return time.Since(start)
}

// end is stop, and returns what the daemons ended with.
func (w *bubble) end(nodes ...string) map[string]error {
	ends := map[string]error{}
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return w.stops[n] == nil })
	for _, n := range nodes {
		w.stops[n]()
		delete(w.stops, n)
	}
	for _, n := range nodes {
		ends[n] = <-w.ended[n]
	}
	return ends
}

// crash takes a node's connections and listeners from it without a word to anybody, and ends what
// is then left of its daemon.
func (w *bubble) crash(node string) {
	w.Host(w.ip(node)).Crash()
	w.end(node) // which may say that its listeners are gone
}

// client talks to the control socket of a node, from the node's own host.
func (w *bubble) client(node string) *control.Client {
	m := w.Host(w.ip(node))
	return control.NewClientHTTP(&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.Dial(ctx, "unix", w.files[node].ControlSocket)
		},
	}}, node)
}

// until asks node again and again until ok holds of it and of r0, for a minute at most.
func (w *bubble) until(node, what string, ok func(control.Status, control.Resource) bool) control.Resource {
	w.Helper()
	var last any
	for giveUp := time.Now().Add(time.Minute); time.Now().Before(giveUp); memnet.Pass(10 * time.Millisecond) {
		st, err := w.client(node).Status(w.Context(), "")
		if last = err; err != nil {
			continue
		}
		var r control.Resource
		if len(st.Resources) > 0 {
			r = st.Resources[0]
		}
		if ok(st, r) {
			return r
		}
		last = st
	}
	w.Fatalf("%s never says that %s: %+v", node, what, last)
	return control.Resource{}
}

// untilInSync waits until node says that these replicas, and no others, are in sync.
func (w *bubble) untilInSync(node string, names ...string) {
	w.Helper()
	w.until(node, fmt.Sprint(names, " are in sync"), func(_ control.Status, r control.Resource) bool {
		return slices.Equal(r.InSync, names) && !slices.ContainsFunc(r.Replicas, func(p control.Replica) bool {
			return slices.Contains(names, p.Node) && (p.DiskState != control.DiskUpToDate || p.DirtyBytes != 0)
		})
	})
}

// create makes r0 on n1 and n2, and n1 primary of it.
func (w *bubble) create() {
	w.Helper()
	req := control.CreateRequest{Resource: "r0", SizeBytes: bubbleSize}
	for _, n := range []string{"n1", "n2"} {
		req.Replicas = append(req.Replicas, control.ReplicaCreate{Node: n, DataPath: w.image(n), MetaPath: w.image(n) + ".meta"})
	}
	check(w.T, "create", w.client("n1").CreateResource(w.Context(), req))
	check(w.T, "promote", w.client("n1").Promote(w.Context(), "r0", control.PromoteOptions{}))
	w.untilInSync("n1", "n1", "n2")
}

func (w *bubble) image(node string) string { return filepath.Join(w.dir, node+".img") }

// open connects a client to the export r0 of a node, on the node's own host.
func (w *bubble) open(node string) (*nbdConn, error) {
	c, err := w.Host(w.ip(node)).Dial(w.Context(), "unix", w.files[node].NBDUnix)
	if err != nil {
		return nil, err
	}
	n, err := negotiate(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	w.Cleanup(func() { c.Close() })
	return n, nil
}

// negotiate is the newstyle handshake, EXPORT_NAME of r0 without zeroes.
func negotiate(c net.Conn) (*nbdConn, error) {
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil { // "NBDMAGIC", "IHAVEOPT", flags
		return nil, err
	}
	out := append(binary.BigEndian.AppendUint32(nil, 3), "IHAVEOPT"...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = append(binary.BigEndian.AppendUint32(out, 2), "r0"...)
	if _, err := c.Write(out); err != nil {
		return nil, err
	}
	info := make([]byte, 10)
	if _, err := io.ReadFull(c, info); err != nil {
		return nil, fmt.Errorf("export refused: %w", err)
	}
	return &nbdConn{Conn: c, size: binary.BigEndian.Uint64(info)}, nil
}

// mustOpen is open for a node that serves.
func (w *bubble) mustOpen(node string) *nbdConn {
	w.Helper()
	c, err := w.open(node)
	check(w.T, "connect to "+node, err)
	return c
}
