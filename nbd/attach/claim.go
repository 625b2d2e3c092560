package attach

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Claim is Env.Claim on Linux. Opening a block device exclusively fails while it is mounted, swapped to,
// or part of another device, and keeps all that away until release. Programs that merely have it open are
// not seen. What has been written through the page cache is made stable first.
func Claim(ctx context.Context, path string, readOnly bool) (release func(), err error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	// Both calls wait as long as the device does, and nothing interrupts them: the first opening looks for
	// partitions. So they have a goroutine that outlives a caller who has waited enough.
	go func() {
		fd, err := claim(path, readOnly)
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

func claim(path string, readOnly bool) (fd int, err error) {
	mode := unix.O_RDWR
	if readOnly {
		mode = unix.O_RDONLY
	}
	fd, err = unix.Open(path, mode|unix.O_EXCL|unix.O_CLOEXEC, 0)
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
	return fd, nil
}
