package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/load"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// deviceSize is small, so that comparing replicas costs little, and has several regions of the
// activity log.
const deviceSize = 32 * cluster.MiB

// rounds returns how often to do something: few times in make test, more in make e2e.
func rounds(few, many int) int {
	if os.Getenv("LOCKSTEP_E2E") == "full" {
		return many
	}
	return few
}

// rig is a cluster under load.
type rig struct {
	*cluster.Cluster
	t testing.TB
	h *history.History
	l *load.Load
}

// start makes a cluster and begins the load: clients that follow the primary, and one more at each
// data node that stays there whatever happens.
func start(t testing.TB, opts cluster.Options) *rig {
	t.Helper()
	if opts.Netns {
		need.Root(t, "network namespaces")
	}
	opts.SizeBytes = deviceSize
	r := &rig{Cluster: cluster.Up(t, opts), t: t, h: history.New(deviceSize / history.Block)}
	lo := load.Options{History: r.h, Pause: 4 * time.Millisecond, Seed: 1}
	for _, n := range r.DataNodes() {
		// The unix socket reaches a node that is cut off from everybody.
		lo.Pinned = append(lo.Pinned, load.Server{Name: pinned(n), URI: r.URI(n)})
		s := load.Server{Name: n, URI: r.URI(n)}
		if opts.Netns {
			s.URI, s.Dial = r.TCP(n), func(ctx context.Context, network, addr string) (net.Conn, error) {
				return r.Lab.Dial(ctx, "client", network, addr)
			}
		}
		lo.Servers = append(lo.Servers, s)
	}
	r.l = load.Start(lo)
	t.Cleanup(r.l.Stop)
	r.flows(200)
	return r
}

// pinned names the client that stays at a node.
func pinned(node string) string { return node + ", pinned" }

// flows returns when so many more writes were acknowledged: somebody serves.
func (r *rig) flows(more int) {
	r.t.Helper()
	want := r.h.Acked() + more
	proc.Eventually(r.t, "acknowledged writes", func() error {
		if n := r.h.Acked(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// lasts returns when the load has gone on, or hung, for d.
func (r *rig) lasts(d time.Duration) {
	r.t.Helper()
	until := r.h.Now() + d
	proc.Eventually(r.t, d.String()+" of load", func() error {
		if r.h.Now() < until {
			return errors.New("not yet")
		}
		return nil
	})
}

// do fails the test unless a fault succeeded.
func (r *rig) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// primary returns who serves, when somebody does.
func (r *rig) primary() (name string) {
	r.t.Helper()
	proc.Eventually(r.t, "a primary", func() error {
		errs := []error{errors.New("nobody serves")}
		for _, n := range r.DataNodes() {
			if up, err := r.Lab.Running(n); err != nil || !up {
				errs = append(errs, err)
				continue
			}
			st, err := r.TryStatus(n, "r0")
			if err == nil && st.Role == control.RolePrimary && st.IO.State == control.IORunning {
				name = n
				return nil
			}
			errs = append(errs, err, fmt.Errorf("%s: %s, io %s %s", n, st.Role, st.IO.State, st.IO.Reason))
		}
		return errors.Join(errs...)
	})
	return name
}

// roles returns the primary and the other data node of two.
func (r *rig) roles() (primary, secondary string) {
	r.t.Helper()
	primary = r.primary()
	for _, n := range r.DataNodes() {
		if n != primary {
			secondary = n
		}
	}
	return primary, secondary
}

// epoch returns the epoch of r0 as a node knows it.
func (r *rig) epoch(node string) uint64 {
	r.t.Helper()
	return r.Status(node).Epoch
}

// leader returns who leads the ledger.
func (r *rig) leader() (name string) {
	r.t.Helper()
	proc.Eventually(r.t, "a leader of the ledger", func() error {
		for _, n := range r.Lab.State().Nodes {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := r.Lab.Client(n.Name).Status(ctx, "")
			cancel()
			if err == nil && st.Ledger.Leader != "" {
				name = st.Ledger.Leader
				return nil
			}
		}
		return errors.New("nobody knows one")
	})
	return name
}

// whole returns when all replicas are in sync and writes flow.
func (r *rig) whole() {
	r.t.Helper()
	// The primary may change while it is waited for: it is asked for anew each time.
	proc.Eventually(r.t, "all replicas in sync", func() error {
		primary := r.primary()
		st, err := r.TryStatus(primary, "r0")
		if err != nil {
			return err
		}
		for _, n := range r.DataNodes() {
			if p, ok := cluster.Replica(st, n); !ok || !p.InSync || p.DiskState != control.DiskUpToDate || p.Resync != nil {
				return fmt.Errorf("%s is primary, replica %+v", primary, p)
			}
		}
		return nil
	})
	r.flows(100)
}

// finish ends the load, waits until the cluster is whole, and judges all that happened.
func (r *rig) finish() {
	r.t.Helper()
	r.whole()
	r.l.Stop()
	for _, err := range r.h.Errors() {
		r.t.Errorf("a request was answered with an error: %v", err)
	}
	r.Identical(r.primary())
	for _, n := range r.DataNodes() {
		if err := r.h.Content("the file of "+n, r.Data(n)); err != nil {
			r.t.Error(err)
		}
	}
	if err := r.h.Direct(); err != nil {
		r.t.Errorf("not the answers of one device: %v", err)
	}
	undecided, err := r.h.Linearizable(20 * time.Second)
	if err != nil {
		r.t.Errorf("not linearizable: %v", err)
	}
	r.t.Logf("%s; %d connections; %d blocks undecided by porcupine", r.h.Counts(), r.l.Moves(), undecided)
}

// silentSince fails the test if a node that was replaced as primary answered a request that was sent to
// it after the given time. One that was sent before may be answered late: it was carried out before.
func (r *rig) silentSince(node string, replaced time.Duration) {
	r.t.Helper()
	if r.h.Answered(pinned(node), 0) == 0 {
		r.t.Errorf("the client that stays at %s was never answered: the test proves little", node)
	}
	if n := r.h.Answered(pinned(node), replaced); n != 0 {
		r.t.Errorf("%d requests were answered by %s, which had been replaced", n, node)
	}
}

// refuses fails the test if a node serves although it lacks acknowledged writes. It has a quorum, so
// the coordinator has all it needs to make the mistake; it is given the time in which it promotes
// where it may.
func (r *rig) refuses(node string) {
	r.t.Helper()
	before := r.h.Acked()
	r.lasts(3 * time.Second)
	if st := r.Status(node); st.Role == control.RolePrimary || r.h.Acked() > before {
		r.t.Errorf("%s lacks acknowledged writes and serves: %s in epoch %d, %d more writes", node, st.Role, st.Epoch, r.h.Acked()-before)
	}
}
