package watchdog

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// magic disarms a device when it is the last thing written before it is closed.
const magic = "V"

// handle is an open watchdog device. Tests have one of their own.
type handle interface {
	Support() (unix.WatchdogInfo, error) // WDIOC_GETSUPPORT
	SetTimeout(sec int32) (int32, error) // WDIOC_SETTIMEOUT; returns what the driver made of it
	Timeout() (int32, error)             // WDIOC_GETTIMEOUT
	Keepalive() error                    // WDIOC_KEEPALIVE
	Write(b []byte) (int, error)
	Close() error
}

// device is a Timer of the kernel.
type device struct {
	h    handle
	path string
	info Info
}

// OpenDevice opens a watchdog device, which arms it, and asks for a timeout. Drivers round or limit
// it: Info has the one that counts. Whole seconds are asked for, rounded up.
func OpenDevice(path string, timeout time.Duration) (Timer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %s is not there; modprobe the driver of this machine's watchdog, or softdog", ErrNoWatchdog, path)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %s has another user: %w", ErrNoWatchdog, path, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoWatchdog, err)
	}
	return arm(&kernelHandle{f}, path, timeout)
}

// arm sets up a device that was just opened. On error it is disarmed and closed.
func arm(h handle, path string, timeout time.Duration) (Timer, error) {
	d := &device{h: h, path: path}
	if err := d.setUp(timeout); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrNoWatchdog, path, err), d.Disarm())
	}
	return d, nil
}

func (d *device) setUp(timeout time.Duration) error {
	support, err := d.h.Support()
	if err != nil {
		return fmt.Errorf("it does not answer as a watchdog: %w", err)
	}
	want := int32((timeout + time.Second - 1) / time.Second)
	got, err := d.h.SetTimeout(want)
	if err != nil { // some drivers have a fixed timeout
		if got, err = d.h.Timeout(); err != nil {
			return fmt.Errorf("its timeout can neither be set nor read: %w", err)
		}
	}
	if got <= 0 {
		return fmt.Errorf("it says that its timeout is %d s", got)
	}
	d.info = Info{
		Name:    unix.ByteSliceToString(support.Identity[:]),
		Timeout: time.Duration(got) * time.Second,
		Resets:  true,
		// Without magic close any close disarms, that of a killed process too.
		Survives: support.Options&unix.WDIOF_MAGICCLOSE != 0,
	}
	return nil
}

func (d *device) Info() Info { return d.info }

func (d *device) Pet() error {
	if err := d.h.Keepalive(); err != nil {
		// A write is the older way to say the same.
		if _, werr := d.h.Write([]byte{0}); werr != nil {
			return fmt.Errorf("pet %s: %w", d.path, errors.Join(err, werr))
		}
	}
	return nil
}

func (d *device) Disarm() error {
	_, err := d.h.Write([]byte(magic))
	if err = errors.Join(err, d.h.Close()); err != nil {
		return fmt.Errorf("disarm %s: %w", d.path, err)
	}
	return nil
}

// abandoned keeps handles that must stay open from being closed by the garbage collector.
var abandoned struct {
	mu   sync.Mutex
	list []handle
}

// Abandon closes without the magic. A driver that disarms at any close is left open instead, for as
// long as this process lives.
func (d *device) Abandon() error {
	if !d.info.Survives {
		abandoned.mu.Lock()
		defer abandoned.mu.Unlock()
		abandoned.list = append(abandoned.list, d.h)
		return nil
	}
	if err := d.h.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	return nil
}

// kernelHandle asks the kernel.
type kernelHandle struct{ f *os.File }

func (k *kernelHandle) Support() (unix.WatchdogInfo, error) {
	info, err := unix.IoctlGetWatchdogInfo(int(k.f.Fd()))
	if err != nil {
		return unix.WatchdogInfo{}, os.NewSyscallError("WDIOC_GETSUPPORT", err)
	}
	return *info, nil
}

// SetTimeout goes past the wrappers of the unix package, which throw away the value that the kernel
// writes back.
func (k *kernelHandle) SetTimeout(sec int32) (int32, error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, k.f.Fd(), unix.WDIOC_SETTIMEOUT, uintptr(unsafe.Pointer(&sec)))
	if errno != 0 {
		return 0, os.NewSyscallError("WDIOC_SETTIMEOUT", errno)
	}
	return sec, nil
}

func (k *kernelHandle) Timeout() (int32, error) {
	var sec int32
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, k.f.Fd(), unix.WDIOC_GETTIMEOUT, uintptr(unsafe.Pointer(&sec)))
	if errno != 0 {
		return 0, os.NewSyscallError("WDIOC_GETTIMEOUT", errno)
	}
	return sec, nil
}

func (k *kernelHandle) Keepalive() error {
	return os.NewSyscallError("WDIOC_KEEPALIVE", unix.IoctlWatchdogKeepalive(int(k.f.Fd())))
}

func (k *kernelHandle) Write(b []byte) (int, error) { return k.f.Write(b) }

func (k *kernelHandle) Close() error { return k.f.Close() }
