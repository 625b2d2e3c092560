package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
)

// pair is two nodes with one resource each way: real files, real sessions over loopback, a real
// NBD server, and a ledger in memory.
type pair struct {
	t     testing.TB
	dir   string
	size  int64
	names []string
	nodes map[string]*node
	tune  func(*Config)

	mu       sync.Mutex // the ledger's
	version  uint64
	epoch    uint64
	primary  string
	process  uint64 // of the primary
	inSet    map[string]bool
	failed   map[string]bool
	instance map[string]uint64
	lineage  []uint64
	silent   bool // the ledger does not answer
	ioError  bool // policy: errors without a quorum
	deadline time.Duration
}

// node is one node of a pair; d is nil while it is down.
type node struct {
	p       *pair
	name    string
	listen  net.Listener
	accept  *peer.Acceptor
	nbd     net.Listener
	server  *nbd.Server
	process uint64

	mu      sync.Mutex
	d       *Device
	stop    context.CancelCauseFunc
	running chan struct{} // closed when Run has returned
}

func newPair(t testing.TB, dir string, size int64, tune func(*Config)) *pair {
	p := &pair{t: t, dir: dir, size: size, names: []string{"n1", "n2"}, nodes: map[string]*node{}, tune: tune, version: 1,
		inSet: map[string]bool{}, failed: map[string]bool{}, instance: map[string]uint64{}}
	for _, name := range p.names {
		id, err := store.Create(store.CreateOptions{
			DataPath: p.data(name), MetaPath: filepath.Join(dir, name+".meta"), Cluster: "c", Resource: "r0",
			ResourceID: 7, Node: name, Size: size, BootID: "boot", State: store.UpToDate,
		})
		if err != nil {
			t.Fatal(err)
		}
		p.inSet[name], p.instance[name] = true, id.Instance
		p.nodes[name] = p.newNode(name)
	}
	for _, name := range p.names {
		p.nodes[name].start()
	}
	t.Cleanup(func() {
		for _, name := range p.names {
			p.nodes[name].kill()
		}
	})
	return p
}

func (p *pair) data(name string) string { return filepath.Join(p.dir, name+".img") }

func (p *pair) newNode(name string) *node {
	n := &node{p: p, name: name, accept: peer.NewAcceptor(peer.AcceptorConfig{Self: name})}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	listen := func(network, addr string) net.Listener {
		l, err := net.Listen(network, addr)
		if err != nil {
			p.t.Fatal(err)
		}
		return l
	}
	n.listen = listen("tcp", "127.0.0.1:0")
	n.nbd = listen("unix", filepath.Join(p.dir, name+".sock"))
	n.server = nbd.NewServer(nbd.Config{Logger: slog.New(slog.DiscardHandler)}, n)
	other := p.names[0]
	if other == name {
		other = p.names[1]
	}
	wait.Go(func() {
		for {
			conn, err := n.listen.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { n.accept.Serve(ctx, conn, other) })
		}
	})
	wait.Go(func() { _ = n.server.Serve(ctx, n.nbd) })
	p.t.Cleanup(func() {
		cancel()
		n.listen.Close()
		wait.Wait()
	})
	return n
}

// Lookup implements nbd.Exports.
func (n *node) Lookup(context.Context, string) (*nbd.Export, error) {
	d := n.device()
	if d == nil {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: "node is down"}
	}
	b, ok := d.Backend()
	if !ok {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: "not primary"}
	}
	return &nbd.Export{Name: "r0", Size: n.p.size, Features: nbd.FeaturesUsual, Backend: b}, nil
}

// List implements nbd.Exports.
func (n *node) List() []nbd.ExportInfo { return nil }

func (n *node) device() *Device {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.d
}

func (n *node) start() {
	n.p.t.Helper()
	n.process = rand.Uint64() | 1
	cfg := Config{
		Resource: "r0", ResourceID: 7, Cluster: "c", Node: n.name, Boot: "boot", Process: n.process,
		DataPath: n.p.data(n.name), MetaPath: filepath.Join(n.p.dir, n.name+".meta"),
	}
	for _, name := range n.p.names {
		if name != n.name {
			cfg.Peers = append(cfg.Peers, Peer{Node: name, Addr: n.p.nodes[name].listen.Addr().String()})
		}
	}
	if n.p.tune != nil {
		n.p.tune(&cfg)
	}
	d, err := Open(cfg, Deps{
		Proposer:       n,
		OnCloseClients: func() { n.server.CloseExport("r0", "no longer primary") },
		OnNotice:       func(x replication.Notice) { n.p.log("%s: %s: %s", n.name, x.Kind, x.Text) },
		Dial: func(ctx context.Context, p Peer) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", p.Addr)
		},
	})
	if err != nil {
		n.p.t.Fatal(err)
	}
	for _, p := range cfg.Peers {
		l, _ := d.Link(p.Node)
		if err := n.accept.Add(l); err != nil {
			n.p.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n.mu.Lock()
	n.d, n.stop, n.running = d, cancel, make(chan struct{})
	n.mu.Unlock()
	go func() {
		defer close(n.running)
		_ = d.Run(ctx)
	}()
	n.p.mu.Lock()
	rec := n.p.record(n)
	n.p.mu.Unlock()
	_ = d.SetRecord(rec)
}

func (p *pair) log(format string, args ...any) {
	if testing.Verbose() {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// end stops the device's goroutines and closes the replica.
func (n *node) end(clean bool) error {
	d := n.device()
	n.stop(errStop)
	<-n.running
	for _, l := range d.links {
		n.accept.Remove(l.link)
	}
	n.mu.Lock()
	n.d = nil
	n.mu.Unlock()
	if clean && d.used != 0 {
		n.p.t.Errorf("%s: %d operations still hold a payload", n.name, d.used)
	}
	return d.Close(clean)
}

// kill ends the node as if its process had died, but for what the kernel keeps.
func (n *node) kill() {
	if n.device() != nil {
		_ = n.end(false)
	}
}

// record is the ledger's record as n sees it. Caller holds p.mu.
func (p *pair) record(n *node) *replication.Record {
	r := &replication.Record{
		Version: p.version, Epoch: p.epoch, Primary: p.primary, PrimaryIsMe: p.primary == n.name && p.process == n.process,
		SelfInSet: p.inSet[n.name], SelfFailed: p.failed[n.name], SelfKnown: true,
		Lineage: slices.Clone(p.lineage), Size: p.size, NoQuorumError: p.ioError, FreezeDeadline: p.deadline,
	}
	for _, name := range p.names {
		if name != n.name {
			r.InSet = append(r.InSet, p.inSet[name])
			r.Failed = append(r.Failed, p.failed[name])
			r.Instances = append(r.Instances, p.instance[name])
		}
	}
	return r
}

// publish tells every node that is up. Caller holds p.mu, and gives it up by this call.
func (p *pair) publish() {
	p.version++
	type told struct {
		d   *Device
		rec *replication.Record
	}
	var list []told
	for _, name := range p.names {
		n := p.nodes[name]
		if d := n.device(); d != nil {
			list = append(list, told{d, p.record(n)})
		}
	}
	p.mu.Unlock()
	for _, x := range list {
		_ = x.d.SetRecord(x.rec) // a device that is going away needs no record
	}
}

// Propose implements Proposer.
func (n *node) Propose(_ context.Context, q replication.Proposal) (replication.Outcome, *replication.Record) {
	p := n.p
	p.mu.Lock()
	if p.silent {
		p.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		return replication.OutcomeNotDone, nil
	}
	if q.Version != p.version || q.Epoch != p.epoch || p.primary != n.name || p.process != n.process {
		rec := p.record(n)
		p.mu.Unlock()
		return replication.OutcomeRefused, rec
	}
	switch q.Kind {
	case replication.ProposeDrop, replication.ProposeJoin:
		for _, i := range q.Peers {
			p.inSet[n.device().cfg.Peers[i].Node] = q.Kind == replication.ProposeJoin
		}
		if q.Kind == replication.ProposeDrop {
			p.lineage = append(p.lineage, rand.Uint64())
		}
	case replication.ProposeStepDown:
		p.primary, p.process = "", 0
	}
	p.publish()
	p.mu.Lock()
	defer p.mu.Unlock()
	return replication.OutcomeApplied, p.record(n)
}

// promote makes name primary and waits until it serves.
func (p *pair) promote(name string) {
	p.t.Helper()
	n := p.nodes[name]
	p.mu.Lock()
	p.epoch++
	p.primary, p.process = name, n.process
	p.lineage = append(p.lineage, rand.Uint64())
	epoch := p.epoch
	p.publish()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.device().WaitPrimary(ctx, epoch); err != nil {
		p.t.Fatalf("promote %s: %v: %+v", name, err, n.device().Status())
	}
}

// until waits until the status of a node is as wanted.
func (n *node) until(what string, ok func(*replication.Status) bool) {
	n.p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := n.device().await(ctx, func(st *replication.Status, _ *replication.Record) (bool, error) { return ok(st), nil })
	if err != nil {
		n.p.t.Fatalf("%s: waiting until %s: %v: %+v", n.name, what, err, n.device().Status())
	}
}

func inSync(st *replication.Status) bool {
	return st.Serving && st.Peers[0].InSet && st.Peers[0].State == replication.UpToDate
}

func droppedOut(st *replication.Status) bool {
	return st.Serving && !st.Peers[0].InSet && st.IO == "running"
}

// workload sends n random requests to name and checks every read against model.
func (p *pair) workload(name string, model []byte, n int, seed uint64) {
	p.t.Helper()
	c := nbdtest.Open(p.t, p.nodes[name].nbd.Addr(), "r0")
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		length := uint32(1 + rnd.IntN(64<<10))
		if rnd.IntN(40) == 0 {
			length = uint32(1 + rnd.IntN(3<<20))
		}
		off := rnd.Int64N(p.size - int64(length))
		q := nbdtest.Command{Cookie: uint64(i), Off: uint64(off), Len: length}
		part := model[off : off+int64(length)]
		var payload []byte
		switch k := rnd.IntN(10); {
		case k < 5:
			q.Type = nbdtest.CmdWrite
			mask := uint32(255 >> (rnd.IntN(2) * 6)) // half of them can be compressed
			for j := range part {
				part[j] = byte(rnd.Uint32() & mask)
			}
			payload = part
		case k < 6:
			q.Type = nbdtest.CmdWriteZeroes
			clear(part)
		case k < 7:
			q.Type = nbdtest.CmdTrim
			clear(part)
		case k < 8:
			q.Type, q.Off, q.Len = nbdtest.CmdFlush, 0, 0
		default:
			q.Type = nbdtest.CmdRead
		}
		if q.Type != nbdtest.CmdRead && q.Type != nbdtest.CmdFlush && rnd.IntN(8) == 0 {
			q.Flags = 1 // FUA
		}
		errno, data := c.Do(q, payload)
		if errno != 0 {
			p.t.Fatalf("request %d (%+v): errno %d", i, q, errno)
		}
		if q.Type == nbdtest.CmdRead && !bytes.Equal(data, part) {
			p.t.Fatalf("request %d: read [%d+%d] is not what was written", i, off, length)
		}
	}
}

// compare closes both replicas and fails unless both hold model.
func (p *pair) compare(model []byte) {
	p.t.Helper()
	for _, name := range p.names {
		if err := p.nodes[name].end(true); err != nil && !errors.Is(err, ErrNotQuiet) {
			p.t.Errorf("close %s: %v", name, err)
		}
		got, err := os.ReadFile(p.data(name))
		if err != nil {
			p.t.Fatal(err)
		}
		if !bytes.Equal(got, model) {
			for i := 0; i < len(model); i += 4096 {
				if !bytes.Equal(got[i:i+4096], model[i:i+4096]) {
					p.t.Fatalf("%s differs from what was written, first in the block at %d", name, i)
				}
			}
		}
	}
}
