package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// callLimit bounds one question to a node.
const callLimit = 10 * time.Second

// TryStatus asks a node for a resource.
func (c *Cluster) TryStatus(node, resource string) (control.Resource, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	st, err := c.Lab.Client(node).Status(ctx, resource)
	if err != nil {
		return control.Resource{}, err
	}
	if len(st.Resources) != 1 {
		return control.Resource{}, fmt.Errorf("status of %s on %s lists %d resources", resource, node, len(st.Resources))
	}
	return st.Resources[0], nil
}

// WaitQuorum returns when a node says that its ledger has a quorum.
func (c *Cluster) WaitQuorum(node string) {
	c.t.Helper()
	proc.Eventually(c.t, node+" to have a quorum", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		defer cancel()
		st, err := c.Lab.Client(node).Status(ctx, "")
		if err == nil && !st.Ledger.Quorum {
			err = errors.New("its ledger has none")
		}
		return err
	})
}

// Status asks a node for r0 and fails the test when it does not answer.
func (c *Cluster) Status(node string) control.Resource {
	c.t.Helper()
	r, err := c.TryStatus(node, "r0")
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// Eventually polls the status of r0 on node until check returns nil.
func (c *Cluster) Eventually(node, what string, check func(control.Resource) error) control.Resource {
	c.t.Helper()
	return c.EventuallyOf(node, "r0", what, check)
}

// EventuallyOf is Eventually for any resource.
func (c *Cluster) EventuallyOf(node, resource, what string, check func(control.Resource) error) control.Resource {
	c.t.Helper()
	var last control.Resource
	proc.Eventually(c.t, fmt.Sprintf("%s (as %s sees %s)", what, node, resource), func() error {
		r, err := c.TryStatus(node, resource)
		if err != nil {
			return err
		}
		last = r
		return check(r)
	})
	return last
}

// WaitInSync returns when the primary says that r0 is in sync on all data nodes with nothing left
// to copy.
func (c *Cluster) WaitInSync(primary string) control.Resource {
	c.t.Helper()
	return c.WaitInSyncOf(primary, "r0", c.DataNodes()...)
}

// WaitInSyncOf is WaitInSync for any resource and the given nodes.
func (c *Cluster) WaitInSyncOf(primary, resource string, nodes ...string) control.Resource {
	c.t.Helper()
	return c.EventuallyOf(primary, resource, "all replicas in sync", func(r control.Resource) error {
		if r.Role != control.RolePrimary || r.IO.State != control.IORunning {
			return fmt.Errorf("role %s, io %s (%s)", r.Role, r.IO.State, r.IO.Reason)
		}
		for _, n := range nodes {
			p, ok := Replica(r, n)
			if !ok || !p.InSync || p.DiskState != control.DiskUpToDate || p.DirtyBytes != 0 || p.Resync != nil {
				return fmt.Errorf("replica on %s: %+v", n, p)
			}
			if n != primary && p.Connection != control.ConnConnected {
				return fmt.Errorf("replica on %s: %s", n, p.Connection)
			}
		}
		return nil
	})
}

// WaitAlone returns when the primary serves without peer: the ledger has dropped it.
func (c *Cluster) WaitAlone(primary, peer string) control.Resource {
	c.t.Helper()
	return c.Eventually(primary, peer+" dropped", func(r control.Resource) error {
		p, ok := Replica(r, peer)
		if !ok || p.InSync || r.IO.State != control.IORunning {
			return fmt.Errorf("io %s (%s), replica %+v", r.IO.State, r.IO.Reason, p)
		}
		return nil
	})
}

// WaitPrimary returns when node says that it is primary and serves.
func (c *Cluster) WaitPrimary(node string) control.Resource {
	c.t.Helper()
	return c.Eventually(node, node+" serves", func(r control.Resource) error {
		if r.Role != control.RolePrimary || r.IO.State != control.IORunning {
			return fmt.Errorf("role %s, io %s (%s), primary %q", r.Role, r.IO.State, r.IO.Reason, r.Primary)
		}
		return nil
	})
}

// Events returns all events that a node still keeps.
func (c *Cluster) Events(node string) []control.Event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	var out []control.Event
	err := c.Lab.Client(node).Events(ctx, 0, false, func(ev control.Event) error {
		out = append(out, ev)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}
