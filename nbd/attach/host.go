package attach

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Env is what a relay's process has of the world.
type Env struct {
	Kernel   Kernel
	Logger   *slog.Logger
	Discover func(context.Context) ([]Server, error) // nil: Spec.Servers alone
	TLS      func() (*tls.Config, error)             // nil: none
	// Claim takes a device for this process alone, so that nobody mounts it, and returns when what was
	// written to it is on its way no more. ErrBusy: somebody uses it.
	Claim func(ctx context.Context, path string) (release func(), err error)
}

// Limits of what ends an attachment.
const (
	undoTime   = 3 * time.Second  // to end a registration of which no device came
	detachTime = 20 * time.Second // to end one on an operator's order, if he names no other
)

// host is one device's relay at work.
type host struct {
	env     Env
	state   State
	relay   *Relay
	device  *device
	detach  chan detachOrder
	started time.Time

	mu    sync.Mutex // guards state, but for Spec and Key, which stay as they are
	ended string
}

// change changes the state, in the file too.
func (h *host) change(f func(*State)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.state)
	return h.state.save()
}

// detachOrder is an operator's wish; done gets its outcome once.
type detachOrder struct {
	ctx   context.Context
	force bool
	done  chan error
}

// Serve attaches a device, or takes one up again that an earlier relay left, and serves it until ctx
// ends. ready is called when the device can be used. When ctx ends the device stays: its requests wait
// for the next relay. Serve returns nil then, and after Detach.
func Serve(ctx context.Context, spec Spec, env Env, ready func(Status)) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	lk, err := lock(spec.Dir, spec.name())
	if err != nil {
		return err
	}
	defer lk.Close()
	h := &host{env: env, detach: make(chan detachOrder), started: time.Now()}
	taken, err := h.prepare(spec)
	if err != nil {
		return err
	}
	conns, err := h.bringUp(ctx, taken)
	if err != nil {
		return err
	}
	return h.serve(ctx, conns, ready)
}

// prepare decides what there is to take up: taken means that the kernel has our device already.
func (h *host) prepare(spec Spec) (taken bool, err error) {
	boot, err := bootID()
	if err != nil {
		return false, err
	}
	holder := spec.Holder
	if holder == "" {
		if holder, err = os.Hostname(); err != nil {
			return false, err
		}
	}
	index, err := spec.Index()
	if err != nil {
		return false, err
	}
	if err := h.env.Kernel.Check(); err != nil {
		return false, err
	}
	id, connected, err := h.env.Kernel.Backend(index)
	if err != nil {
		return false, err
	}
	st, err := LoadState(spec.Dir, spec.name())
	known := err == nil && st.Boot == boot && st.Ended == ""
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false, err
	case connected && id == "": // by a program that gives it no name, such as nbd-client
		return false, fmt.Errorf("%s: %w: another program has connected it", spec.Device, ErrBusy)
	case connected && (!known || id != st.backend()):
		return false, fmt.Errorf("%s: %w: the kernel has it connected to %q", spec.Device, ErrBusy, id)
	case known && !sameUse(st.Spec, spec):
		return false, fmt.Errorf("%s: %w: it is attached to %s, and its relay is gone; next: lockstep detach %s", spec.Device, ErrBusy, st.Spec.Resource, spec.Device)
	case !known:
		st = newState(spec, boot)
	}
	if connected {
		spec.Connections, spec.BlockSize = st.Spec.Connections, st.Spec.BlockSize // as the kernel has them
	}
	st.Spec, st.Configured = spec, connected
	key, err := st.key()
	if err != nil {
		return false, err
	}
	servers, err := ParseServers(spec.Servers)
	if err != nil {
		return false, err
	}
	h.state = st
	h.relay = NewRelay(Config{
		Who:     nbd.Attach{Resource: spec.Resource, Key: key, Shared: spec.Shared, Holder: holder, Device: spec.Device, Boot: boot},
		Servers: servers, Discover: h.env.Discover, TLS: h.env.TLS, Deadline: spec.Deadline, Logger: h.env.Logger,
		OnSize: h.onSize,
	})
	// Before anything is registered: a key that is lost holds the resource until an operator comes.
	return connected, h.state.save()
}

// sameUse reports whether a relay for b can go on where one for a stopped.
func sameUse(a, b Spec) bool {
	return a.Resource == b.Resource && a.Shared == b.Shared && a.ReadOnly == b.ReadOnly
}

// onSize hands a new size on to the kernel. In the file it is only to be known that the device must not
// become smaller than it; if it cannot be written, the former size serves for that.
func (h *host) onSize(bytes int64) {
	h.device.onSize(bytes)
	if err := h.change(func(st *State) { st.Size = bytes }); err != nil {
		h.env.Logger.Warn("the new size is not in the state file", "err", err)
	}
}

// bringUp registers and makes the device, and returns its connections; or takes it up, which needs no
// server: the kernel has the size, and requests wait as they do in any outage.
func (h *host) bringUp(ctx context.Context, taken bool) ([]net.Conn, error) {
	if taken {
		h.relay.takeUp(h.state.Size, h.state.Number)
		h.device = newDevice(h.env.Kernel, h.relay, &h.state, h.env.Logger)
		h.env.Logger.Info("device taken up again", "device", h.state.Spec.Device, "resource", h.state.Spec.Resource)
		return make([]net.Conn, h.state.Spec.Connections), nil
	}
	conns, err := h.attach(ctx)
	if err == nil && ctx.Err() != nil { // nobody waits for it any more
		err = context.Cause(ctx)
	}
	if err == nil {
		return conns, nil
	}
	if h.state.Configured {
		err = errors.Join(err, h.env.Kernel.Disconnect(h.device.index))
		for _, c := range conns {
			c.Close()
		}
	}
	// The registration may stand even if no answer came.
	if !slices.ContainsFunc([]error{ErrHeld, ErrUnknown, ErrNotLockstep, ErrNeedsTLS}, func(e error) bool { return errors.Is(err, e) }) {
		uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		if uerr := h.relay.Detach(uctx); uerr != nil {
			h.env.Logger.Warn("an attachment that came to nothing may still be registered", "err", uerr)
			return nil, err // the state file keeps the key: the same command, or detach, uses it
		}
	}
	return nil, errors.Join(err, h.state.remove())
}

// attach registers and makes the device.
func (h *host) attach(ctx context.Context) ([]net.Conn, error) {
	octx := ctx
	if d := h.state.Spec.Wait; d > 0 {
		var cancel context.CancelFunc
		octx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	info, err := h.relay.Open(octx, false)
	if err != nil {
		return nil, err
	}
	block, err := blockSize(h.state.Spec.BlockSize, info)
	if err != nil {
		return nil, err
	}
	st := &h.state
	st.Number, st.Size, st.Flags = info.Number, info.Size, info.Flags
	h.device = newDevice(h.env.Kernel, h.relay, st, h.env.Logger)
	dead := st.Spec.Deadline
	if dead == 0 {
		dead = forever
	}
	conns, err := h.device.connect(ConnectRequest{
		Size: info.Size, BlockSize: block, Flags: kernelFlags(info.Flags, st.Spec.ReadOnly), DeadTimeout: max(dead, time.Second),
	})
	if err != nil {
		return nil, err
	}
	st.Configured = true
	if err := h.env.Kernel.SetIOTimeout(h.device.index, ioTimeout(st.Spec.Connections)); err != nil {
		h.env.Logger.Warn("queue/io_timeout cannot be set: a relay that is restarted is sent its requests again only after half a minute", "err", err)
	}
	return conns, st.save()
}

// serve runs everything until ctx ends, the attachment ends, or an operator ends it.
func (h *host) serve(ctx context.Context, conns []net.Conn, ready func(Status)) error {
	run, cancel := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	ctl, err := h.listen()
	if err != nil {
		return err
	}
	parts.Go(func() { h.answer(run, ctl) })
	relayDone, deviceDone := make(chan error, 1), make(chan error, 1)
	parts.Go(func() { relayDone <- h.relay.Run(run) })
	parts.Go(func() { deviceDone <- h.device.serve(run, conns) })
	ready(h.status())
	for {
		select {
		case o := <-h.detach:
			over := func() { // relay and connections have ended
				cancel(nil)
				<-relayDone
				<-deviceDone
			}
			if err := h.disconnect(o, over); err != nil {
				o.done <- err
				if o.force {
					return err // there is nothing left to go on with; the next relay can
				}
				continue
			}
			err := h.unregister(o.ctx)
			o.done <- err
			return err
		case err := <-relayDone: // for good, or ctx has ended
			return h.end(err)
		case err := <-deviceDone:
			if err == nil { // ctx has ended
				return nil
			}
			h.env.Logger.Warn("the attachment ends", "device", h.state.Spec.Device, "reason", err)
			cancel(nil)
			<-relayDone
			uctx, stop := context.WithTimeout(context.WithoutCancel(ctx), detachTime)
			defer stop()
			return h.unregister(uctx)
		}
	}
}

// disconnect takes the device from the kernel, and calls over; unless forced, only when nobody uses it and
// everything written to it is answered.
func (h *host) disconnect(o detachOrder, over func()) error {
	if o.force {
		// The connections first: the kernel says goodbye on each of them, and waits for good on one that
		// is full of requests which nobody reads, for want of a server.
		over()
		return h.disconnected(h.env.Kernel.Disconnect(h.device.index))
	}
	if h.env.Claim != nil {
		release, err := h.env.Claim(o.ctx, h.state.Spec.Device)
		if err != nil {
			return err
		}
		defer release()
	}
	if err := h.disconnected(h.env.Kernel.Disconnect(h.device.index)); err != nil {
		return err
	}
	over()
	return nil
}

// disconnected takes in that the kernel has disconnected the device.
func (h *host) disconnected(err error) error {
	if err != nil {
		return err
	}
	if err := h.change(func(st *State) { st.Configured = false }); err != nil {
		h.env.Logger.Warn("the state file is behind", "err", err) // it goes with the registration
	}
	return nil
}

// unregister ends the registration of a device that is gone.
func (h *host) unregister(ctx context.Context) error {
	if err := h.relay.Detach(ctx); err != nil {
		return fmt.Errorf("the device is gone, but its registration is not: %w; next: lockstep detach %s", err, h.state.Spec.Device)
	}
	return h.state.remove()
}

// end is the end for good: whoever uses the device gets errors, and it goes.
func (h *host) end(why error) error {
	if why == nil {
		return nil
	}
	h.mu.Lock()
	h.ended = why.Error()
	h.mu.Unlock()
	err := h.env.Kernel.Disconnect(h.device.index)
	return errors.Join(why, err, h.change(func(st *State) { st.Ended, st.Configured = why.Error(), err != nil }))
}

// Remove does what a relay's Detach does, where no relay runs. Without force it refuses to give up
// what the kernel has not been able to write.
func Remove(ctx context.Context, dir, device string, force bool, env Env) error {
	spec := Spec{Device: device, Dir: dir}
	index, err := spec.Index()
	if err != nil {
		return err
	}
	lk, err := lock(dir, spec.name())
	if err != nil {
		return err
	}
	defer lk.Close()
	h := &host{env: env}
	if h.state, err = LoadState(dir, spec.name()); err != nil {
		return err
	}
	h.state.Spec.Dir = dir
	id, connected, err := env.Kernel.Backend(index)
	if err != nil {
		return err
	}
	if connected && id == h.state.backend() {
		if !force {
			return fmt.Errorf("%s: %w: no relay serves it, so what was written to it may not be on any disk; next: lockstep attach %s %s, or detach with --force",
				device, ErrBusy, h.state.Spec.Resource, device)
		}
		if err := env.Kernel.Disconnect(index); err != nil {
			return err
		}
	}
	if h.state.Ended != "" { // there is no registration
		return h.state.remove()
	}
	key, err := h.state.key()
	if err != nil {
		return err
	}
	servers, err := ParseServers(h.state.Spec.Servers)
	if err != nil {
		return err
	}
	if env.Discover != nil {
		list, err := env.Discover(ctx)
		if err != nil && len(servers) == 0 {
			return err
		}
		servers = append(servers, list...)
	}
	h.relay = NewRelay(Config{Who: nbd.Attach{Resource: h.state.Spec.Resource, Key: key}, Servers: servers, TLS: env.TLS, Logger: env.Logger})
	return h.unregister(ctx)
}
