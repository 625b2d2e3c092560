package attach

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is Env.Claim on Linux. Opening a block device exclusively fails while it is mounted, swapped to,
// or part of another device, and keeps all that away until release. Programs that merely have it open are
// not seen. What has been written through the page cache is made stable first, and udev, which honours locks
// (systemd.io/BLOCK_DEVICE_LOCKING), does not look at the device until release: what it reads of a device that is
// just being disconnected fails, and the kernel logs each of these reads as an I/O error.
//
// It is opened for reading alone: udev looks at a device whenever somebody who could have written closes it.
func Claim(ctx context.Context, path string) (release func(), err error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	// Both calls wait as long as the device does, and nothing interrupts them: the first opening looks for
	// partitions. So they have a goroutine that outlives a caller who has waited enough.
	go func() {
		fd, err := claim(path)
		done <- result{fd, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return func() { unix.Close(r.fd) }, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				unix.Close(r.fd)
			}
		}()
		return nil, fmt.Errorf("%s: what was written to it was not stable in time, for want of a primary: %w", path, context.Cause(ctx))
	}
}

func claim(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return -1, fmt.Errorf("%s: %w: unmount it first, or detach with --force, which fails whatever uses it", path, ErrBusy)
	case err != nil:
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Fsync(fd); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: what was written to it cannot be made stable: %w", path, err)
	}
	lockDevice(fd)
	return fd, nil
}

// lockDevice waits for whoever has a lock on the device, for a while: the lock is worth a tidy log, and no more.
func lockDevice(fd int) {
	for end := time.Now().Add(lockTime); ; time.Sleep(lockTime / 100) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return
		}
	}
}

// lockTime is longer than udev takes to look at a device.
const lockTime = 2 * time.Second
