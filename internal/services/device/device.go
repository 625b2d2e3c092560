package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/program"
	"github.com/lockstep-ha/lockstep/nbd/attach"
)

// holderSuffix marks the holder of an attachment that follows the primary. No host name has a slash.
const holderSuffix = "/services"

// Holder is who holds an attachment that the services of node have made.
func Holder(node string) string { return node + holderSuffix }

// OfServices reports whether an attachment was made by the services of a node.
func OfServices(holder string) bool { return strings.HasSuffix(holder, holderSuffix) }

const (
	// resumePause is the time between two tries to start a relay for a device that has none.
	resumePause = time.Second
	// settlePause is the time between two looks at a relay that is about to end.
	settlePause = 20 * time.Millisecond
)

// Config says which device of this host shows which resource.
type Config struct {
	Resource string
	Device   string   // /dev/nbdX
	Node     string   // this one
	Socket   string   // of its daemon
	Flags    []string // of lockstep attach, as given by the operator: --connections=4
	Program  string   // lockstep itself
	Dir      string   // state of relays; "": the usual one
	// Release ends what another node's services have attached; with own, what those of this node have, too.
	Release func(ctx context.Context, own bool) error
}

// Device is the block device of a resource on this host.
type Device struct {
	cfg Config
	mu  sync.Mutex // one program at a time
}

// New returns a Device.
func New(cfg Config) *Device {
	if cfg.Dir == "" {
		cfg.Dir = attach.DefaultDir
	}
	return &Device{cfg: cfg}
}

// Start attaches the device, or has a relay take up what one that died has left.
func (d *Device) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.settle(ctx); err != nil {
		return err
	}
	st, err := attach.LoadState(d.cfg.Dir, filepath.Base(d.cfg.Device))
	// Without the key in the state file not even this host can go on with what it had.
	own := errors.Is(err, os.ErrNotExist) || err == nil && st.Ended != ""
	if err := d.cfg.Release(ctx, own); err != nil {
		return fmt.Errorf("the attachment of the last primary: %w", err)
	}
	return d.attach(ctx)
}

// Stop detaches the device, which nobody may use any more.
func (d *Device) Stop(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.settle(ctx); err != nil {
		return err
	}
	gone, err := d.gone()
	if err != nil {
		return err
	}
	if gone {
		d.forget(ctx)
		return nil
	}
	if _, err := attach.Query(ctx, d.cfg.Dir, d.cfg.Device); errors.Is(err, attach.ErrNoRelay) {
		// What was written to it waits in the kernel for a relay.
		if err := d.attach(ctx); err != nil {
			return err
		}
	}
	err = d.run(ctx, "detach", d.cfg.Device, "--state-dir", d.cfg.Dir)
	if err != nil {
		// The device is what matters here: what is recorded of it, the next primary ends.
		if gone, _ := d.gone(); gone {
			return nil
		}
	}
	return err
}

// settle returns when no relay is about to make the device: a start that was broken off has left one, which finds
// that nobody waits for it, and ends.
func (d *Device) settle(ctx context.Context) error {
	for {
		st, err := attach.LoadState(d.cfg.Dir, filepath.Base(d.cfg.Device))
		if err == nil && st.Spec.Resource != d.cfg.Resource {
			return nil // somebody else's
		}
		running, err := attach.Running(d.cfg.Dir, d.cfg.Device)
		if err != nil || !running {
			return err
		}
		if _, err := attach.Query(ctx, d.cfg.Dir, d.cfg.Device); err == nil {
			return nil // it has made it
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return fmt.Errorf("%s: a relay that was started before is neither ready nor ends: %w", d.cfg.Device, context.Cause(ctx))
		}
	}
}

// Monitor returns nil while the device can be used, if only in a while: a relay that waits for a primary is
// as it should be.
func (d *Device) Monitor(ctx context.Context) error {
	st, err := attach.Query(ctx, d.cfg.Dir, d.cfg.Device)
	switch {
	case errors.Is(err, attach.ErrNoRelay):
		return d.revive(ctx)
	case err != nil:
		return err
	case st.Resource != d.cfg.Resource:
		return fmt.Errorf("%s is attached to %s, not %s", d.cfg.Device, st.Resource, d.cfg.Resource)
	case st.State == attach.StateServing || st.State == attach.StateWaiting:
		return nil
	}
	return fmt.Errorf("%s is %s: %s", d.cfg.Device, st.State, st.Cause)
}

// Examine returns an error if the kernel has no such device.
func (d *Device) Examine(context.Context) error {
	info, err := os.Stat(d.cfg.Device)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the kernel has no %s; load its module: modprobe nbd", d.cfg.Device)
	case err == nil && info.Mode()&os.ModeDevice == 0:
		return fmt.Errorf("%s is no device", d.cfg.Device)
	}
	return err
}

// Resume tries until ctx ends to have a relay for a device that is left without: an earlier daemon's, whose
// services are to be stopped now.
func (d *Device) Resume(ctx context.Context) {
	for ctx.Err() == nil {
		gone, err := d.gone()
		if gone {
			return
		}
		if err == nil {
			_, err = attach.Query(ctx, d.cfg.Dir, d.cfg.Device)
		}
		if errors.Is(err, attach.ErrNoRelay) {
			err = d.revive(ctx)
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(resumePause):
		case <-ctx.Done():
		}
	}
}

// revive starts a relay for a device that the kernel has and nobody serves.
func (d *Device) revive(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if gone, err := d.gone(); err != nil {
		return err
	} else if gone {
		return fmt.Errorf("%s is not attached", d.cfg.Device)
	}
	return d.attach(ctx)
}

// gone reports whether nothing of the device is left on this host but, perhaps, a record in the cluster.
func (d *Device) gone() (bool, error) {
	st, err := attach.LoadState(d.cfg.Dir, filepath.Base(d.cfg.Device))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	case st.Spec.Resource != d.cfg.Resource:
		return true, nil // somebody else's
	}
	return !st.Configured, nil
}

// forget takes an attachment that was ended elsewhere off the list of this host. That is for tidiness: if it fails,
// the next start makes the file anew.
func (d *Device) forget(ctx context.Context) {
	st, err := attach.LoadState(d.cfg.Dir, filepath.Base(d.cfg.Device))
	if err == nil && st.Spec.Resource == d.cfg.Resource && st.Ended != "" {
		_ = d.run(ctx, "detach", d.cfg.Device, "--state-dir", d.cfg.Dir)
	}
}

// attach runs lockstep attach, which does nothing where the device is attached.
func (d *Device) attach(ctx context.Context) error {
	args := []string{"attach", d.cfg.Resource, d.cfg.Device, "--state-dir", d.cfg.Dir, "--holder", Holder(d.cfg.Node)}
	return d.run(ctx, append(args, d.cfg.Flags...)...)
}

// run runs lockstep for as long as ctx allows.
func (d *Device) run(ctx context.Context, args ...string) error {
	args = append(args, "--socket", d.cfg.Socket)
	if end, ok := ctx.Deadline(); ok {
		args = append(args, "--timeout", max(time.Until(end)-time.Second/2, time.Second/10).String())
	}
	r, err := program.Run(ctx, program.Command{Path: d.cfg.Program, Args: args})
	if err != nil {
		return fmt.Errorf("lockstep %s: %w", args[0], err)
	}
	if r.Code != 0 {
		return errors.New(said(r.Output))
	}
	return nil
}

// said returns what the program says in the end, and what it advises, in one line.
func said(output string) string {
	var what, next string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "lockstep: "); ok {
			what = text
		} else if text, ok := strings.CutPrefix(line, "next: "); ok {
			next = "; next: " + text
		}
	}
	if what == "" { // it did not come to that
		return program.Result{Output: output}.LastLine()
	}
	return what + next
}
