package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/quorum"
)

// fencer turns nodes off.
type fencer interface {
	// Can reports whether this node has a way to turn node off.
	Can(node string) bool
	// Fence turns a node off and returns what proved that it is. An error proves nothing; one that wraps
	// fencing.ErrTimeout came of an agent that said nothing in time.
	Fence(ctx context.Context, req fencing.Request) (proof string, err error)
}

// armory is what operators ask of a fencer besides.
type armory interface {
	fencer
	Test(ctx context.Context, t fencing.Target) fencing.Report
	Unfence(ctx context.Context, t fencing.Target) ([]fencing.Attempt, error)
	History() []fencing.Attempt
}

// devices is the fencer of the node file.
//
// No declaration of a watchdog (fencing.Armed) is ever passed on: the ledger has no place for one, and a
// declaration that comes by another way may be of an earlier process of the same boot, which has disarmed
// since. So a device that waits for the target's watchdog proves nothing yet, and a node that has no
// other device cannot be turned off from here.
type devices struct {
	*fencing.Fencer
	can map[string]bool
}

// newDevices makes the fencer of a node file.
func newDevices(cfg config.Node, log *slog.Logger) (*devices, error) {
	f, err := fencing.New(fencingConfig(cfg, log))
	if err != nil {
		return nil, err
	}
	watchdogs := map[string]bool{}
	for _, d := range cfg.Fences {
		watchdogs[d.Name] = d.Watchdog
	}
	d := &devices{Fencer: f, can: map[string]bool{}}
	for _, n := range cfg.Fencing.Nodes {
		works := func(level []string) bool {
			return !slices.ContainsFunc(level, func(name string) bool { return watchdogs[name] })
		}
		d.can[n.Node] = f.CanFence(n.Node) && slices.ContainsFunc(n.Levels, works)
	}
	return d, nil
}

// fencingConfig is what package fencing is told of the node file.
func fencingConfig(n config.Node, log *slog.Logger) fencing.Config {
	cfg := fencing.Config{Node: n.Name, Limit: n.Fencing.Limit, Margin: n.DriftMargin, Log: log}
	for _, f := range n.Fences {
		d := fencing.DeviceConfig{
			Name: f.Name, Agent: f.Agent, Exec: f.Exec, Watchdog: f.Watchdog,
			PasswordFile: f.PasswordFile, PasswordEnv: f.PasswordEnv, Timeout: f.Timeout, Retries: f.Retries, Unfence: f.Unfence,
		}
		for _, o := range f.Options {
			d.Options = append(d.Options, fencing.Option(o))
		}
		for _, p := range f.Plugs {
			d.Plugs = append(d.Plugs, fencing.Plug(p))
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	for _, x := range n.Fencing.Nodes {
		cfg.Nodes = append(cfg.Nodes, fencing.NodeConfig(x))
	}
	return cfg
}

// Can reports whether a device that can prove something is configured for node.
func (d *devices) Can(node string) bool { return d.can[node] }

// Fence turns a node off.
func (d *devices) Fence(ctx context.Context, req fencing.Request) (string, error) {
	r := d.Fencer.Fence(ctx, req)
	switch {
	case r.Proof == nil && r.Err == nil:
		return "", fmt.Errorf("%w: the fence of %s ended without a word", fencing.ErrUnproven, req.Node)
	case r.Proof == nil:
		return "", r.Err
	case r.Proof.Node != req.Node || r.Proof.Boot != req.Boot:
		return "", fmt.Errorf("%w: the proof is about boot %s of %s", fencing.ErrUnproven, r.Proof.Boot, r.Proof.Node)
	}
	return r.Proof.Text, nil
}

// targetOf is what a fence of one boot of node is about. The resource is one that the node is primary of:
// agents and whoever reads the history are told on whose behalf it was.
func targetOf(st *quorum.State, node, boot, reason string) fencing.Target {
	t := fencing.Target{Node: node, Boot: boot, Reason: reason}
	if st == nil {
		return t
	}
	for i := range st.Resources {
		if r := &st.Resources[i]; !r.Deleted && r.Primary.Node == node {
			t.Resource = r.Name
			break
		}
	}
	return t
}
