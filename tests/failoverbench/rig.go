package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/history"
	"github.com/lockstep-ha/lockstep/tests/internal/load"
)

const (
	resource   = "r0"
	deviceSize = 64 << 20
	// limit bounds one run: a service that is not back by then does not come back.
	limit = time.Minute
)

// rig is a cluster under load.
type rig struct {
	dir  string
	lab  *lab.Lab
	data []string // nodes with a replica
	p    progress // of whatever writes; nil in an idle lab, as are the following
	h    *history.History
	l    *load.Load
	m    *mounted
	kept bool
}

// progress is what is known of a load: how many writes were acknowledged so far, and when none was.
type progress interface {
	Now() time.Duration
	Acked() int
	LongestGap(from, to time.Duration) time.Duration
}

// up starts a cluster without load.
func up(ctx context.Context, o options, netns bool) (*rig, error) {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-bench-")
	if err != nil {
		return nil, err
	}
	r := &rig{dir: dir}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.lab, err = lab.Up(ctx, lab.Options{
		Dir: dir, SizeBytes: deviceSize, DataNodes: 2, Witness: true, Netns: netns, Command: []string{o.lockstep, "node"},
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for _, n := range r.lab.State().Nodes {
		if !n.Witness {
			r.data = append(r.data, n.Name)
		}
	}
	return r, nil
}

// start starts a cluster and a load that follows its primary.
func start(ctx context.Context, o options, s scenario) (*rig, error) {
	netns := s.netns
	r, err := up(ctx, o, netns)
	if err != nil {
		return nil, err
	}
	if s.mounted {
		if r.m, err = mount(ctx, r); err != nil {
			r.close()
			return nil, err
		}
		r.p = r.m
		return r, nil
	}
	r.h = history.New(deviceSize / history.Block)
	lo := load.Options{History: r.h, Pause: 4 * time.Millisecond, Seed: 1}
	for _, n := range r.lab.State().Nodes {
		if n.Witness {
			continue
		}
		s := load.Server{Name: n.Name, URI: n.NBDTCPURI}
		if netns {
			s.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				return r.lab.Dial(ctx, "client", network, addr)
			}
		}
		lo.Servers = append(lo.Servers, s)
	}
	r.p, r.l = r.h, load.Start(lo)
	return r, nil
}

// close stops everything; the files go unless they are kept.
func (r *rig) close() {
	if r.l != nil {
		r.l.Stop()
	}
	if r.m != nil {
		r.m.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := r.lab.Down(ctx)
	if !r.kept {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failoverbench:", err)
	}
}

// keep leaves the cluster's files behind and says where.
func (r *rig) keep() error {
	r.kept = true
	return fmt.Errorf("logs and files are kept in %s", r.dir)
}

// until polls check until it returns nil or ctx ends.
func until(ctx context.Context, what string, check func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// flows returns when so many more writes were acknowledged.
func (r *rig) flows(ctx context.Context, more int) error {
	want := r.p.Acked() + more
	return until(ctx, "acknowledged writes", func() error {
		if n := r.p.Acked(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// whole returns the primary when it serves, all replicas are in sync and writes flow.
func (r *rig) whole(ctx context.Context) (primary string, err error) {
	if primary, err = r.settled(ctx); err == nil {
		err = r.flows(ctx, 100)
	}
	return primary, err
}

// settled returns the primary when it serves and all replicas are in sync.
func (r *rig) settled(ctx context.Context) (primary string, err error) {
	err = until(ctx, "all replicas in sync", func() (err error) {
		errs := []error{errors.New("nobody serves")}
		for _, n := range r.data {
			err := r.inSync(ctx, n)
			if err == nil {
				primary = n
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", n, err))
		}
		return errors.Join(errs...)
	})
	return primary, err
}

// inSync returns nil if node serves and says that all replicas are in sync.
func (r *rig) inSync(ctx context.Context, node string) error {
	st, err := r.lab.Client(node).Status(ctx, resource)
	if err != nil {
		return err
	}
	if len(st.Resources) != 1 {
		return fmt.Errorf("%d resources", len(st.Resources))
	}
	res := st.Resources[0]
	if res.Role != control.RolePrimary || res.IO.State != control.IORunning {
		return fmt.Errorf("%s, io %s %s", res.Role, res.IO.State, res.IO.Reason)
	}
	for _, p := range res.Replicas {
		if !p.InSync || p.DiskState != control.DiskUpToDate || p.DirtyBytes != 0 || p.Resync != nil {
			return fmt.Errorf("replica %+v", p)
		}
	}
	return nil
}

// judge ends the load and says what the checks found.
func (r *rig) judge(ctx context.Context) (string, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := r.whole(wait); err != nil {
		return "SERVICE DID NOT COME BACK", err
	}
	if r.m != nil {
		return r.m.judge(wait, r)
	}
	r.l.Stop()
	if _, err := r.settled(wait); err != nil {
		return "REPLICAS OUT OF SYNC", err
	}
	if errs := r.h.Errors(); len(errs) > 0 {
		return fmt.Sprintf("%d ERROR ANSWERS", len(errs)), errors.Join(errs[:min(len(errs), 5)]...)
	}
	for _, n := range r.lab.State().Nodes {
		if n.Witness {
			continue
		}
		if err := r.h.Content("the file of "+n.Name, n.DataPath); err != nil {
			return "REPLICA NOT READ", err
		}
		if err := cluster.SameContent(r.lab.State().Nodes[0].DataPath, n.DataPath); err != nil {
			return "REPLICAS DIFFER", err
		}
	}
	if err := r.h.Direct(); err != nil {
		return "DATA LOST", err
	}
	undecided, err := r.h.Linearizable(limit)
	if err != nil {
		return "NOT LINEARIZABLE", err
	}
	said := "right: " + r.h.Counts()
	if undecided > 0 {
		said += fmt.Sprintf("; %d blocks undecided by porcupine", undecided)
	}
	return said, nil
}
