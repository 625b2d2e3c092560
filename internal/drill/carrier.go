package drill

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

// Carrier does to a node what a drill wants done.
type Carrier interface {
	// Kill ends the daemon of a node, as a crash would.
	Kill(ctx context.Context, node string) error
	// Return sees to it that a daemon that was killed starts again.
	Return(ctx context.Context, node string) error
	// Isolate takes a node away from the others for d, and returns when it is back.
	Isolate(ctx context.Context, node string, d time.Duration) error
	// Restarts reports whether Return works for a node that says f of itself.
	Restarts(f *control.Facts) bool
	// How says how Isolate does it, for people.
	How() string
}

// Daemons has the daemons do it to themselves, for clusters of real hosts.
type Daemons struct {
	On func(node string) *control.Client
}

// Kill has the daemon kill itself.
func (d Daemons) Kill(ctx context.Context, node string) error {
	return d.strike(ctx, node, control.DrillOrder{Op: control.DrillExit})
}

// Return has nothing to do: whoever supervises the daemon starts it.
func (d Daemons) Return(context.Context, string) error { return nil }

// Restarts reports whether somebody supervises the daemon.
func (d Daemons) Restarts(f *control.Facts) bool { return f.Supervisor != "" }

// Isolate has the daemon stand still.
func (d Daemons) Isolate(ctx context.Context, node string, t time.Duration) error {
	if err := d.strike(ctx, node, control.DrillOrder{Op: control.DrillStill, For: t}); err != nil {
		return err
	}
	return wait(ctx, t)
}

// How says how Isolate does it.
func (d Daemons) How() string { return "its daemon stands still" }

// strike arms and fires. The token keeps an order that is lost on its way from being carried out later.
func (d Daemons) strike(ctx context.Context, node string, order control.DrillOrder) error {
	c := d.On(node)
	a, err := c.Drill(ctx, control.DrillOrder{Op: control.DrillArm})
	if err != nil {
		return fmt.Errorf("%s was not struck: %w", node, err)
	}
	order.Token = a.Token
	// A daemon that kills itself may not get its answer out.
	if _, err := c.Drill(ctx, order); err != nil && !errors.Is(err, control.ErrOutcomeUnknown) {
		return fmt.Errorf("%s was not struck: %w", node, err)
	}
	return nil
}

// Lab does it to the processes and networks of a lab.
type Lab struct {
	Lab *lab.Lab
	Daemons
}

// Kill kills the process of a node.
func (l Lab) Kill(ctx context.Context, node string) error {
	return l.Lab.Kill(ctx, node, syscall.SIGKILL)
}

// Return starts the process of a node.
func (l Lab) Return(ctx context.Context, node string) error { return l.Lab.Start(ctx, node) }

// Restarts is true: Return starts it.
func (l Lab) Restarts(*control.Facts) bool { return true }

// Isolate cuts the network of a node, where the lab has networks; else its daemon stands still.
func (l Lab) Isolate(ctx context.Context, node string, d time.Duration) error {
	if l.Lab.State().Net == nil {
		return l.Daemons.Isolate(ctx, node, d)
	}
	if err := l.Lab.Isolate(node, lab.BothWays); err != nil {
		return err
	}
	return errors.Join(wait(ctx, d), l.Lab.Heal(node))
}

// How says how Isolate does it.
func (l Lab) How() string {
	if l.Lab.State().Net == nil {
		return l.Daemons.How()
	}
	return "its network is cut"
}

// wait returns after d, or with the error of ctx.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
