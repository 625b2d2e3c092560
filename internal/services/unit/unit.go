package unit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// noSuchUnit is systemd's error for a unit that it has not loaded.
const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

// lookAtBus is how often the connection is looked at while a job is waited for: the result of a job is a
// signal, and a connection that has broken brings none.
const lookAtBus = time.Second

// ErrAtBoot is what is wrong with a unit that systemd starts at boot, whoever is primary.
var ErrAtBoot = errors.New("it is enabled: systemd starts it at boot")

// Dial opens a connection to systemd's manager.
type Dial func(ctx context.Context) (*systemd.Conn, error)

// Unit is one unit.
type Unit struct {
	name string
	dial Dial
}

// New returns a Unit of that name. A nil dial is the system's manager.
func New(name string, dial Dial) *Unit {
	if dial == nil {
		dial = systemd.NewWithContext
	}
	return &Unit{name: name, dial: dial}
}

// Start returns once the unit is active.
func (u *Unit) Start(ctx context.Context) error {
	return u.with(ctx, "start", func(c *systemd.Conn) error {
		if err := u.job(ctx, c, c.StartUnitContext); err != nil {
			return err
		}
		return u.active(ctx, c)
	})
}

// Stop returns once the unit is stopped.
func (u *Unit) Stop(ctx context.Context) error {
	return u.with(ctx, "stop", func(c *systemd.Conn) error {
		err := u.job(ctx, c, c.StopUnitContext)
		var remote dbus.Error
		if errors.As(err, &remote) && remote.Name == noSuchUnit {
			return nil
		}
		return err
	})
}

// Monitor returns nil if the unit is active.
func (u *Unit) Monitor(ctx context.Context) error {
	return u.with(ctx, "monitor", func(c *systemd.Conn) error { return u.active(ctx, c) })
}

// Examine returns ErrAtBoot, or what would hinder a start.
func (u *Unit) Examine(ctx context.Context) error {
	return u.with(ctx, "look at", func(c *systemd.Conn) error {
		load, err := u.property(ctx, c, "LoadState")
		if err != nil {
			return err
		}
		if load != "loaded" {
			return fmt.Errorf("systemd says that it is %s", load)
		}
		state, err := u.property(ctx, c, "UnitFileState")
		if err == nil && (state == "enabled" || state == "enabled-runtime") {
			err = ErrAtBoot
		}
		return err
	})
}

// property returns a property of the unit that is a string.
func (u *Unit) property(ctx context.Context, c *systemd.Conn, name string) (string, error) {
	p, err := c.GetUnitPropertyContext(ctx, u.name, name)
	if err != nil {
		return "", err
	}
	text, _ := p.Value.Value().(string)
	return text, nil
}

func (u *Unit) with(ctx context.Context, what string, fn func(*systemd.Conn) error) error {
	c, err := u.dial(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: reach systemd: %w", what, u.name, err)
	}
	defer c.Close()
	if err := fn(c); err != nil {
		return fmt.Errorf("%s %s: %w", what, u.name, err)
	}
	return nil
}

// job queues a job and waits for its result.
func (u *Unit) job(ctx context.Context, c *systemd.Conn, queue func(context.Context, string, string, chan<- string) (int, error)) error {
	result := make(chan string, 1)
	if _, err := queue(ctx, u.name, "replace", result); err != nil {
		return err
	}
	tick := time.NewTicker(lookAtBus)
	defer tick.Stop()
	for {
		select {
		case r := <-result:
			if r != "done" {
				return fmt.Errorf("systemd says: %s; see: systemctl status %s", r, u.name)
			}
			return nil
		case <-tick.C:
			if !c.Connected() {
				return errors.New("the connection to systemd has broken; what became of the job is not known")
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// active returns an error if the unit is not active.
func (u *Unit) active(ctx context.Context, c *systemd.Conn) error {
	state, err := u.property(ctx, c, "ActiveState")
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"active", "reloading", "refreshing"}, state) {
		return fmt.Errorf("the unit is %q; see: systemctl status %s", state, u.name)
	}
	return nil
}
