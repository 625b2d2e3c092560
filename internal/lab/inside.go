package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"syscall"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// In runs fn on a thread in the namespace of a node, or of "client". What fn opens there, for
// instance a listener, stays there. Goroutines that fn starts are not in the namespace.
func (l *Lab) In(name string, fn func() error) error {
	ns, err := l.namespace(name)
	if err != nil {
		return err
	}
	return inNS(ns, fn)
}

// Exec starts cmd in the namespace of a node, or of "client". The caller waits for it.
func (l *Lab) Exec(name string, cmd *exec.Cmd) error {
	return l.In(name, cmd.Start)
}

// Become replaces this process by another program in the namespace of a node, or of "client". It
// returns only when that fails.
func (l *Lab) Become(name string, argv, env []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return control.Errorf(control.CodeNotFound, "%v", err)
	}
	// The thread that calls execve is the one that remains.
	return l.In(name, func() error {
		if err := syscall.Exec(path, argv, env); err != nil {
			return fmt.Errorf("run %s: %w", path, err)
		}
		return nil
	})
}

// Dial connects from the namespace of a node, or of "client". addr is an IP address with a port: a
// name would be looked up elsewhere.
func (l *Lab) Dial(ctx context.Context, from, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", from, err)
	}
	var conn net.Conn
	err := l.In(from, func() (err error) {
		// For an address as such, the socket is made by this goroutine.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// namespace returns the name of a namespace that can be entered now.
func (l *Lab) namespace(name string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.requireNet("a network namespace"); err != nil {
		return "", err
	}
	if err := l.requireEnd(name); err != nil {
		return "", err
	}
	ns := l.state.Net.ns(name)
	have, err := nsExists(ns)
	if err == nil && !have {
		err = control.Errorf(control.CodeFailed, "the host %s is off", name).
			WithHint("lockstep lab start %s --dir %s", name, l.state.Dir)
	}
	return ns, err
}
