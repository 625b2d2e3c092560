package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/nbd"
)

const (
	// window is how many bytes of payload all connections of a device may have unanswered.
	window = 64 << 20
	// maxRequests is how many requests one connection may; the kernel's driver has 128 at a time.
	maxRequests = 256
	// socketBuffer is asked for on both ends of a pair, in bytes; the host's limit may be lower.
	socketBuffer = 4 << 20
)

// ioTimeout is what queue/io_timeout of a device is set to.
//
// It decides how soon a restarted relay is sent again what its predecessor left unanswered: the driver
// (nbd_xmit_timeout) looks at a request only when this timer fires, and then requeues it if the socket
// that it was sent on has been replaced. With one connection nothing else comes of it but a line in the
// kernel's log for each request that waits so long, so the time is short. With several the driver takes a
// request that is so old for a sign that its connection is dead, shuts that down and uses another; the
// relay replaces it, but during a long failover that is work for nothing.
func ioTimeout(connections int) time.Duration {
	if connections == 1 {
		return 5 * time.Second
	}
	return 30 * time.Second
}

// forever is how long the kernel waits for a relay where there is no deadline: it knows no "for ever", and
// 0 would mean not at all.
const forever = 10 * 365 * 24 * time.Hour

// errGoodbye ends a device that somebody has disconnected.
var errGoodbye = errors.New("the device was disconnected by somebody else")

// device is the kernel's side: its sockets, and who serves them.
type device struct {
	kernel Kernel
	relay  *Relay
	index  uint32
	id     string // backend identifier
	conns  int
	export nbd.Export
	log    *slog.Logger
	// leaving: the device has been disconnected.
	leaving atomic.Bool
	sizes   chan int64 // capacity 1: the newest size that the kernel has not been told
}

func newDevice(k Kernel, r *Relay, st *State, log *slog.Logger) *device {
	index, _ := st.Spec.Index() // validated
	d := &device{kernel: k, relay: r, index: index, id: st.backend(), conns: st.Spec.Connections, log: log, sizes: make(chan int64, 1)}
	d.export = nbd.Export{
		Name: st.Spec.Resource,
		// The kernel keeps to its device's size, the server to the resource's. A limit here would have
		// to change under open connections when the resource grows.
		Size:     math.MaxInt64,
		ReadOnly: st.Spec.ReadOnly,
		Features: featuresOf(st.Flags),
		Backend:  r,
	}
	return d
}

// featuresOf returns what is served to the kernel of what the server offers.
func featuresOf(flags uint16) (f nbd.Features) {
	for _, m := range []struct {
		flag    uint16
		feature nbd.Features
	}{
		{txFlush, nbd.FeatureFlush}, {txFUA, nbd.FeatureFUA}, {txTrim, nbd.FeatureTrim}, {txWriteZeroes, nbd.FeatureWriteZeroes},
	} {
		if flags&m.flag != 0 {
			f |= m.feature
		}
	}
	return f
}

// kernelFlags returns what the kernel is told. Several connections are always safe here: all of them end
// in one session, where a flush covers whatever was answered before it.
func kernelFlags(flags uint16, readOnly bool) uint16 {
	out := flags&(txFlush|txFUA|txTrim|txWriteZeroes) | txHasFlags | txMultiConn
	if readOnly {
		out |= txReadOnly
	}
	return out
}

// blockSize is the device's logical block: what the export prefers, as far as the kernel can have it and
// the size is a multiple of it.
func blockSize(asked uint32, x Info) (uint32, error) {
	b := min(max(x.Block.Preferred, x.Block.Min, 512), 4096)
	if asked != 0 {
		b = asked
	} else if x.Size%int64(b) != 0 {
		b = max(x.Block.Min, 512)
	}
	switch {
	case b < x.Block.Min || b > 4096:
		return 0, fmt.Errorf("blocks of %d bytes: the export wants %d at least, and the kernel takes 512 to 4096", b, x.Block.Min)
	case x.Size%int64(b) != 0 || x.Size == 0:
		return 0, fmt.Errorf("a size of %d bytes cannot be a device with blocks of %d", x.Size, b)
	}
	return b, nil
}

// pair returns a connection for the relay, and the kernel's end of it as a file to be closed once the
// kernel has it.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	for _, fd := range fds {
		// Best effort: with the default a large request takes some more turns.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "relay"), os.NewFile(uintptr(fds[1]), "kernel")
	nc, err := net.FileConn(ours)
	ours.Close() // FileConn has a copy
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return nc, theirs, nil
}

// connect makes the device, and returns the relay's ends of its connections.
func (d *device) connect(q ConnectRequest) (conns []net.Conn, err error) {
	defer func() {
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
		}
	}()
	for range d.conns {
		nc, theirs, err := pair()
		if err != nil {
			return conns, err
		}
		defer theirs.Close()
		conns = append(conns, nc)
		q.Sockets = append(q.Sockets, int(theirs.Fd()))
	}
	q.Index, q.Backend = d.index, d.id
	return conns, d.kernel.Connect(q)
}

// reconnect gives the kernel one socket in place of a dead one.
func (d *device) reconnect() (net.Conn, error) {
	nc, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	err = d.kernel.Reconfigure(ReconfigureRequest{Index: d.index, Backend: d.id, Sockets: []int{int(theirs.Fd())}})
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// serve serves the kernel's connections until ctx ends or the device is gone; conns are those that stand
// already, nil where there is one to be made.
func (d *device) serve(ctx context.Context, conns []net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	var slots, helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	for _, nc := range conns {
		slots.Go(func() { d.slot(ctx, nc) })
	}
	helpers.Go(func() { d.resize(ctx) })
	helpers.Go(func() {
		err := d.kernel.LinkDead(ctx, func(index uint32) {
			if index == d.index {
				d.log.Warn("the kernel gave up a connection of the device; it gets another", "device", d.index)
			}
		})
		if err != nil {
			d.log.Warn("dead connections are not announced; the relay sees them all the same", "err", err)
		}
	})
	slots.Wait()
	if d.leaving.Load() {
		return errGoodbye
	}
	return nil
}

const (
	slotFirst = 20 * time.Millisecond // before a connection is replaced that ended at once
	slotLast  = time.Second
)

// slot keeps one connection of the kernel alive. What the kernel is given and does not take, for it has
// no dead connection just then, it closes: that looks like any other end, and is tried again.
//
// The kernel says goodbye on one connection after the other. Whoever hears it leaves the others alone, so
// that the kernel finds them open.
func (d *device) slot(ctx context.Context, nc net.Conn) {
	wait := slotFirst
	for ctx.Err() == nil && (nc != nil || !d.leaving.Load()) {
		if nc == nil {
			var err error
			if nc, err = d.reconnect(); err != nil {
				if _, connected, kerr := d.kernel.Backend(d.index); kerr == nil && !connected {
					d.leaving.Store(true)
					return
				}
				d.log.Warn("the kernel does not take a connection", "device", d.index, "err", err)
			}
		}
		began := time.Now()
		if nc != nil {
			cfg := nbd.Config{MaxRequests: maxRequests, MaxBytes: int64(window / d.conns), Logger: d.log}
			err := nbd.ServeTransmission(ctx, nc, &d.export, cfg, d.relay.ConnEnded)
			if err == nil {
				d.leaving.Store(true)
				return
			}
			nc = nil
			d.log.Debug("a connection of the kernel has ended", "device", d.index, "reason", err)
		}
		if time.Since(began) > slotLast {
			wait = slotFirst
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait = min(2*wait, slotLast)
	}
}

// onSize is Config.OnSize: the newest size replaces one that the kernel has not been told yet.
func (d *device) onSize(bytes int64) {
	for {
		select {
		case d.sizes <- bytes:
			return
		default:
		}
		select {
		case <-d.sizes:
		default:
		}
	}
}

// resize tells the kernel sizes until ctx ends.
func (d *device) resize(ctx context.Context) {
	retry := time.NewTicker(slotLast)
	defer retry.Stop()
	pending := int64(0)
	for {
		select {
		case pending = <-d.sizes:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		if pending == 0 {
			continue
		}
		if err := d.kernel.Reconfigure(ReconfigureRequest{Index: d.index, Backend: d.id, Size: pending}); err != nil {
			d.log.Error("the kernel does not take the new size; it is tried again", "device", d.index, "size", pending, "err", err)
			continue
		}
		d.log.Info("the device has a new size", "device", d.index, "size", pending)
		pending = 0
	}
}
