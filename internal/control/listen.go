package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenUnix listens on a unix socket that only its owner can use (mode 0600). A socket left behind
// by a process that is gone is replaced; one that still answers is ErrBusy, and anything else that
// stands at path is an error. Closing the listener removes the socket.
func ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The mode is set on the socket before it is bound, and the kernel gives it to the file it
	// makes. A chmod after the bind would leave a moment in which anybody can connect; the umask
	// belongs to the whole process.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, modeErr)
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("socket %s has mode %04o, so others may use it", path, st.Mode().Perm())
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	return ln, nil
}

// removeStale removes a socket at path that nobody answers.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on control socket: %s exists and is no socket", path)
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return Errorf(CodeBusy, "another process answers on %s", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen on control socket: %s is in the way: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	return nil
}
