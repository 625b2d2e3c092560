package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// Options of Up.
type Options struct {
	Dir       string // required; made when absent
	SizeBytes int64  // of the resource; 0: 256 MiB
	DataNodes int    // n1, n2, ..., at most 7; 0: 2
	Witness   bool   // a further node, w, that votes and holds no data
	Resource  string // empty: r0
	// Netns gives each node a network namespace, an address and a link of its own, and makes one
	// more for clients. It needs root. A lab that is started again keeps what it was made with.
	Netns bool
	// TLS has the nodes prove who they are by certificates, as a cluster does that is formed with cluster
	// init, token and join; else they share a key. See formed.go.
	TLS bool
	// Fence gives every node a fence agent that kills the others for real; see fence.go.
	Fence bool
	// Command starts a node when "--config FILE" is appended. nil: this executable with "node".
	Command []string
	// Configure changes a node's file before it is written, but for its addresses and paths.
	// nil: nothing.
	Configure func(*config.Node)
	// Logf is told of each step. nil: nobody.
	Logf func(format string, args ...any)
}

// maxAttempts bounds how often Up begins again because a port was taken in between.
const maxAttempts = 5

// errPortTaken means that somebody else took a port before the node did.
var errPortTaken = errors.New("a port was taken by another process")

// Up makes a lab and returns when its resource is UpToDate on all data nodes, with n1 as primary.
// In a directory with a lab whose nodes are all stopped it starts them again; with a lab that runs,
// it is an error. When it fails, it leaves no process behind; the files stay, to be looked at.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	f, err := lock(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := readState(opts.Dir)
	if err == nil {
		l := newLab(st, opts.Logf)
		if opts.Netns && st.Net == nil {
			return l, control.Errorf(control.CodeExists, "the lab in %s was made without --netns and stays so", opts.Dir).
				WithHint("lockstep lab up --netns --dir ANOTHER-DIR")
		}
		if opts.TLS && !st.TLS {
			return l, control.Errorf(control.CodeExists, "the lab in %s was made without --tls and stays so", opts.Dir).
				WithHint("lockstep lab up --tls --dir ANOTHER-DIR")
		}
		return l, l.resume(ctx)
	}
	if !errors.Is(err, ErrNoLab) {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		l, err := create(ctx, opts)
		if errors.Is(err, errPortTaken) && attempt < maxAttempts {
			l.logf("%v: once more with other ports", err)
			continue
		}
		return l, err
	}
}

func (o *Options) complete() error {
	if o.SizeBytes == 0 {
		o.SizeBytes = int64(256 * config.MiB)
	}
	if o.DataNodes == 0 {
		o.DataNodes = 2
	}
	if o.Resource == "" {
		o.Resource = "r0"
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if err := config.CheckName("resource", o.Resource); err != nil {
		return control.Usagef("%v", err)
	}
	if err := control.CheckSize(o.SizeBytes); err != nil {
		return err
	}
	if o.DataNodes < 1 || o.DataNodes > 7 {
		return control.Usagef("%d data nodes; a lab has 1 to 7", o.DataNodes)
	}
	if o.Netns && os.Geteuid() != 0 {
		return control.Errorf(control.CodeFailed, "network namespaces need root").WithHint("run the same with sudo, or without --netns")
	}
	if o.Dir == "" {
		return control.Usagef("a lab needs a directory: --dir D")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	o.Dir = dir
	if o.Command == nil {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		o.Command = []string{exe, "node"}
	}
	return nil
}

// create lays a new lab out and brings it up. The Lab is never nil.
func create(ctx context.Context, opts Options) (*Lab, error) {
	l := newLab(State{Dir: opts.Dir, Resource: opts.Resource, SizeBytes: opts.SizeBytes, Command: opts.Command, TLS: opts.TLS}, opts.Logf)
	l.mu.Lock()
	defer l.mu.Unlock()
	var held ports
	defer held.release()
	if err := l.claimAndLayout(opts, &held); err != nil {
		return l, err
	}
	held.release()
	up := l.bringUp
	if opts.TLS {
		up = func(ctx context.Context) error { return l.form(ctx, opts) }
	}
	if err := up(ctx); err != nil {
		return l, l.giveUp(ctx, err)
	}
	return l, nil
}

// giveUp stops what was started and returns why.
func (l *Lab) giveUp(ctx context.Context, err error) error {
	taken := false
	for _, n := range l.state.Nodes {
		taken = taken || strings.Contains(tail(n.Log, 4000), "address already in use")
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*TermTimeout)
	defer cancel()
	if derr := l.down(stop); derr != nil {
		return errors.Join(err, derr)
	}
	if taken {
		for _, n := range l.state.Nodes {
			os.Remove(n.Log) // its complaint must not be found again
		}
		if l.state.TLS {
			if uerr := l.unmake(); uerr != nil {
				return errors.Join(err, uerr)
			}
		}
		if rerr := os.Remove(filepath.Join(l.state.Dir, stateFile)); rerr != nil {
			return errors.Join(err, rerr)
		}
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// resume starts every node of a stopped lab.
func (l *Lab) resume(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.state.Nodes {
		n := &l.state.Nodes[i]
		if p, err := l.open(n); err == nil {
			p.close()
			return control.Errorf(control.CodeExists, "the lab in %s is up already: node %s runs as process %d", l.state.Dir, n.Name, n.PID).
				WithHint("lockstep lab info --json --dir %s", l.state.Dir)
		}
	}
	names := make([]string, 0, len(l.state.Nodes))
	for _, n := range l.state.Nodes {
		names = append(names, n.Name)
	}
	if err := l.makeRuntimeDir(names); err != nil {
		return err
	}
	if err := l.bringUp(ctx); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*TermTimeout)
		defer cancel()
		return errors.Join(err, l.down(stop))
	}
	return nil
}

// bringUp starts all nodes and makes the resource ready.
func (l *Lab) bringUp(ctx context.Context) error {
	for i := range l.state.Nodes {
		n := &l.state.Nodes[i]
		l.logf("starting node %s, log in %s", n.Name, n.Log)
		if err := l.start(n); err != nil {
			return err
		}
	}
	for i := range l.state.Nodes {
		if err := l.waitReady(ctx, &l.state.Nodes[i]); err != nil {
			return err
		}
	}
	return l.makeResource(ctx)
}

// waitReady waits until the node answers and its ledger has a quorum.
func (l *Lab) waitReady(ctx context.Context, n *Node) error {
	c := control.NewClient(n.ControlSocket)
	last := errors.New("it was not asked yet")
	return l.poll(ctx, n, &last, func() bool {
		st, err := c.Status(ctx, "")
		if err == nil && !st.Ledger.Quorum {
			err = errors.New("its ledger has no quorum")
		}
		if ctx.Err() == nil { // else the error is that the question was cut short
			last = err
		}
		return err == nil
	})
}

// waitAnswer waits until the node answers at its control socket. It may not have heard from the
// ledger yet.
func (l *Lab) waitAnswer(ctx context.Context, n *Node) error {
	c := control.NewClient(n.ControlSocket)
	last := errors.New("it was not asked yet")
	return l.poll(ctx, n, &last, func() bool {
		_, err := c.Status(ctx, "")
		if ctx.Err() == nil {
			last = err
		}
		return err == nil || errors.Is(err, control.ErrNoQuorum)
	})
}

// poll asks done again and again until it says true, n's process ends, or ctx does.
func (l *Lab) poll(ctx context.Context, n *Node, last *error, done func() bool) error {
	var ended chan struct{}
	if c := l.children[n.Name]; c != nil {
		ended = c.done
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done() {
			return nil
		}
		select {
		case <-ended:
			return l.died(n)
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w; at last: %w; its log is %s", n.Name, ctx.Err(), *last, n.Log)
		case <-tick.C:
		}
	}
}

// makeResource creates the resource if there is none, promotes n1 if nobody is primary, and waits
// until it is UpToDate everywhere.
func (l *Lab) makeResource(ctx context.Context) error {
	first := &l.state.Nodes[0]
	c := control.NewClient(first.ControlSocket)
	req := control.CreateRequest{Resource: l.state.Resource, SizeBytes: l.state.SizeBytes}
	for _, n := range l.state.Nodes {
		if !n.Witness {
			req.Replicas = append(req.Replicas, control.ReplicaCreate{Node: n.Name, DataPath: n.DataPath, MetaPath: n.MetaPath})
		}
	}
	last := errors.New("it was not asked yet")
	var fatal error
	err := l.poll(ctx, first, &last, func() bool {
		ready, err := l.nudge(ctx, c, req)
		if ctx.Err() != nil {
			return false // the error is that the question was cut short
		}
		last = err
		if err == nil {
			last = fmt.Errorf("%s has no primary that serves, or is not UpToDate everywhere", req.Resource)
			return ready
		}
		fatal = err
		for _, passing := range []error{control.ErrNoQuorum, control.ErrBusy, control.ErrUnreachable, control.ErrOutcomeUnknown, control.ErrExists} {
			if errors.Is(err, passing) {
				fatal = nil // look again
			}
		}
		return fatal != nil
	})
	return errors.Join(err, fatal)
}

// nudge looks at the resource and takes the next step towards its being ready.
func (l *Lab) nudge(ctx context.Context, c *control.Client, req control.CreateRequest) (ready bool, err error) {
	st, err := c.Status(ctx, req.Resource)
	if errors.Is(err, control.ErrNotFound) {
		l.logf("creating resource %s of %v on %d nodes", req.Resource, config.Size(req.SizeBytes), len(req.Replicas))
		return false, c.CreateResource(ctx, req)
	}
	if err != nil || len(st.Resources) == 0 {
		return false, err
	}
	r := st.Resources[0]
	if r.Primary == "" {
		if r.DiskState != control.DiskUpToDate {
			return false, nil
		}
		l.logf("promoting %s on %s", req.Resource, st.Node)
		return false, c.Promote(ctx, req.Resource, control.PromoteOptions{})
	}
	if r.Primary != st.Node {
		p, err := c.On(r.Primary).Status(ctx, req.Resource)
		if err != nil || len(p.Resources) == 0 {
			return false, err
		}
		r = p.Resources[0] // the primary knows best
	}
	if r.Primary != "" && r.Role == control.RoleSecondary {
		// The ledger names a process of the node that was stopped. The cluster promotes anew by
		// itself or leaves it to an operator; where it did so meanwhile, this is refused.
		l.logf("promoting %s on %s, its last primary", req.Resource, r.Primary)
		err := c.On(r.Primary).Promote(ctx, req.Resource, control.PromoteOptions{})
		if errors.Is(err, control.ErrRefused) || errors.Is(err, control.ErrNotPrimary) {
			err = nil // look again
		}
		return false, err
	}
	return r.IO.State == control.IORunning && equal(&r, req.Replicas), nil
}

// equal reports whether all replicas are in sync and UpToDate.
func equal(r *control.Resource, replicas []control.ReplicaCreate) bool {
	for _, want := range replicas {
		i := slices.IndexFunc(r.Replicas, func(p control.Replica) bool { return p.Node == want.Node })
		if i < 0 || r.Replicas[i].DiskState != control.DiskUpToDate || !slices.Contains(r.InSync, want.Node) {
			return false
		}
	}
	return true
}
