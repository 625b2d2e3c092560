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
	mode := unix.O_RDWR
	if readOnly {
		mode = unix.O_RDONLY
	}
	fd, err := unix.Open(path, mode|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return nil, fmt.Errorf("%s: %w: unmount it first, or detach with --force, which fails whatever uses it", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	synced := make(chan error, 1)
	go func() { synced <- unix.Fsync(fd) }()
	select {
	case err := <-synced:
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("%s: what was written to it cannot be made stable: %w", path, err)
		}
		return func() { unix.Close(fd) }, nil
	case <-ctx.Done():
		// The descriptor stays until fsync returns; a kernel that waits for a primary cannot be told to
		// stop waiting.
		go func() { <-synced; unix.Close(fd) }()
		return nil, fmt.Errorf("%s: what was written to it was not stable in time, for want of a primary: %w", path, context.Cause(ctx))
	}
}
