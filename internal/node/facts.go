package node

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/linkcheck"
	"github.com/lockstep-ha/lockstep/quorum"
)

// examiner answers what doctor, link-check and a drill ask of this node.
type examiner struct {
	dial     func(ctx context.Context, node, service string) (net.Conn, error)
	canFence func(node string) bool // this node has a way to turn it off
	orders   drillOrders
}

const (
	clockTrips = 8               // round trips that compare two clocks
	peerWithin = 2 * time.Second // for all that is asked of one peer
)

// Facts tells what this node knows of itself and measures its ways to the others.
func (b *backend) Facts(ctx context.Context) (control.Facts, error) {
	k := thisKernel
	f := control.Facts{
		Node: b.m.self.Node, Version: control.Version(), Boot: b.m.self.Boot, Kernel: k.release(), Virtual: k.virtual(),
		Supervisor: supervisor(os.Getenv), Watchdog: b.cfg.Watchdog.Device, Timing: timingOf(b.cfg), DataDir: k.diskOf(b.cfg.DataDir),
		WritePath: writePathFacts(b.cfg.Memory),
	}
	if name, err := os.Hostname(); err == nil {
		f.Host = name
	}
	if b.keeper != nil {
		f.Certificate = b.keeper.facts(time.Now(), b.admitter.ca != nil)
	}
	if st := b.m.ledger.State(); st != nil {
		for i := range st.Resources {
			if r := st.Resources[i].Replica(b.m.self.Node); r != nil && !st.Resources[i].Deleted {
				f.Replicas = append(f.Replicas, b.replicaFacts(k, &st.Resources[i], r))
			}
		}
	}
	var wg sync.WaitGroup
	for i := range f.Replicas {
		wg.Go(func() { f.Replicas[i].Services = b.serviceFacts(ctx, f.Replicas[i].Resource) })
	}
	peers := b.peers()
	f.Peers = make([]control.PeerFacts, len(peers))
	for i, p := range peers {
		if b.exam.canFence != nil && b.exam.canFence(p.Name) {
			f.Fences = append(f.Fences, p.Name)
		}
		wg.Go(func() { f.Peers[i] = b.peerFacts(ctx, k, p) })
	}
	wg.Wait()
	return f, nil
}

// timingOf is what of the node file a link is judged by.
func timingOf(cfg config.Node) control.Timing {
	t := control.Timing{Preset: cfg.Timing, BeaconInterval: cfg.BeaconInterval, Lease: cfg.Lease, DriftMargin: cfg.DriftMargin}
	if !slices.Contains(presets(), t) {
		t.Preset = "" // the file changes it
	}
	return t
}

// presets returns the timings that the node file has names for, the fastest first.
func presets() []control.Timing {
	return []control.Timing{
		{Preset: "lan", BeaconInterval: 100 * time.Millisecond, Lease: 300 * time.Millisecond, DriftMargin: 10},
		{Preset: "wan", BeaconInterval: 500 * time.Millisecond, Lease: 2 * time.Second, DriftMargin: 10},
	}
}

// replicaFacts tells of the replica r of rec, which is this node's.
func (b *backend) replicaFacts(k kernelView, rec *quorum.Resource, r *quorum.Replica) control.ReplicaFacts {
	s := specOf(rec, b.m.self.Node)
	f := control.ReplicaFacts{Resource: rec.Name, DiskState: control.DiskUnknown, Data: k.diskOf(s.dataPath), Meta: k.diskOf(s.metaPath)}
	if r.Failed {
		f.DiskState = control.DiskFailed
	}
	w := b.m.find(rec.Name)
	if w == nil || w.id != rec.ID {
		f.Fault = "it is not open yet"
		return f
	}
	rep, fault := w.open()
	if rep == nil {
		f.DiskState, f.Fault = fault.state.String(), fault.reason
		return f
	}
	st := rep.Status()
	f.Open, f.DiskState, f.Unclean = true, st.State.String(), st.Unclean
	return f
}

// peerFacts measures the way to one peer.
func (b *backend) peerFacts(ctx context.Context, k kernelView, p config.Peer) control.PeerFacts {
	f := control.PeerFacts{Node: p.Name, Addr: p.Addr, Gossip: p.Gossip}
	if b.exam.dial == nil {
		f.Problem = "this node has no way to other nodes"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, peerWithin)
	defer cancel()
	conn, err := b.exam.dial(ctx, p.Name, linkcheck.Service)
	if err != nil {
		f.Problem = err.Error()
		return f
	}
	defer conn.Close()
	f.Interface, f.Loopback = interfaceOf(conn.LocalAddr())
	f.Members = k.bondMembers(f.Interface)
	c, err := linkcheck.Compare(ctx, conn, clockTrips)
	if err != nil {
		f.Problem = errors.Join(context.Cause(ctx), err).Error()
		return f
	}
	f.RTT, f.ClockAhead, f.ClockError = c.RTT, c.Ahead, c.Error
	return f
}

// interfaceOf returns the name of the interface that has an address, "" if none is found.
func interfaceOf(a net.Addr) (name string, loopback bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return "", false
	}
	all, err := net.Interfaces()
	if err != nil {
		return "", false
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok && n.IP.Equal(tcp.IP) {
				return i.Name, i.Flags&net.FlagLoopback != 0
			}
		}
	}
	return "", false
}

// LinkCheck measures the way to a peer.
func (b *backend) LinkCheck(ctx context.Context, opts control.LinkOptions, progress func(control.LinkReport) error) (control.LinkReport, error) {
	addr := b.addrOf(opts.Peer)
	switch {
	case opts.Peer == b.m.self.Node:
		return control.LinkReport{}, control.Usagef("%s has no link to itself; name another node", opts.Peer)
	case addr == "" || b.exam.dial == nil:
		return control.LinkReport{}, control.Errorf(control.CodeNotFound, "there is no node %s in the file of %s", opts.Peer, b.m.self.Node)
	}
	if opts.Timeout == 0 {
		opts.Timeout = b.cfg.Lease
	}
	rep, err := linkcheck.Run(ctx, linkcheck.Config{
		From: b.m.self.Node, To: opts.Peer, Addr: addr, Timing: timingOf(b.cfg), Slower: presets(),
		Count: opts.Count, Interval: opts.Interval, Timeout: opts.Timeout,
		Dial: func(ctx context.Context) (net.Conn, error) { return b.exam.dial(ctx, opts.Peer, linkcheck.Service) },
	}, progress)
	var e *control.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &e) {
		err = control.Errorf(control.CodeUnreachable, "%s is not reached from %s: %v", opts.Peer, b.m.self.Node, err).
			WithHint("see whether the daemon runs there: lockstep status")
	}
	return rep, err
}
