// Package proc runs programs for tests: in a process group of their own, with their output kept
// and shown when a test fails, and gone when the test ends.
package proc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
)

// Limit is how long a program or a condition is waited for before the test gives up. It is no
// assertion about speed, only a bound on a test that hangs.
const Limit = 90 * time.Second

// Proc is a program that runs beside the test.
type Proc struct {
	Cmd  *exec.Cmd
	out  buffer
	done chan struct{}
	err  error // valid once done is closed
}

// buffer is a bytes.Buffer that the program's copier and the test may use at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start runs a program beside the test and stops it, with all it started, at the end of the test.
func Start(t testing.TB, name string, args ...string) *Proc {
	t.Helper()
	if p, err := need.Find(name); err == nil {
		name = p
	}
	p := &Proc{Cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.Cmd.Stdout, p.Cmd.Stderr = &p.out, &p.out
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.Cmd.WaitDelay = 5 * time.Second
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s:\n%s", p.Cmd, p.out.String())
		}
	})
	return p
}

// stop ends the program's whole process group, gently first.
func (p *Proc) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-p.done:
			return
		default:
		}
		syscall.Kill(-p.Cmd.Process.Pid, sig)
		select {
		case <-p.done:
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// Stop ends the program before the test does.
func (p *Proc) Stop() { p.stop() }

// Wait returns the program's output and how it ended.
func (p *Proc) Wait(t testing.TB) (string, error) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(Limit):
		t.Fatalf("%s still runs after %v:\n%s", p.Cmd, Limit, p.out.String())
	}
	return p.out.String(), p.err
}

// Running reports whether the program has not ended yet.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Output returns what the program has printed so far.
func (p *Proc) Output() string { return p.out.String() }

// WaitForSocket returns when something accepts connections on a unix socket.
func (p *Proc) WaitForSocket(t testing.TB, path string) {
	t.Helper()
	Eventually(t, "a server on "+path, func() error {
		if !p.Running() {
			t.Fatalf("%s ended: %v\n%s", p.Cmd, p.err, p.out.String())
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// Run runs a program to its end and fails the test unless it succeeds. It returns its output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a program to its end and returns its output and how it ended.
func Try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	if p, err := need.Find(name); err == nil {
		name = p
	}
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(err, errors.New("still running after "+Limit.String()))
	}
	return string(out), err
}

// Eventually polls until check returns nil, and fails the test with its last error when that does
// not happen within Limit.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	if err := Poll(Limit, check); err != nil {
		t.Fatalf("waited %v for %s: %v", Limit, what, err)
	}
}

// Poll calls check until it returns nil and then returns nil, or its last error after limit.
func Poll(limit time.Duration, check func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return err
		case <-tick.C:
		}
	}
}

// SparseFile makes an empty file of size bytes in the test's own directory.
func SparseFile(t testing.TB, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return p
}
