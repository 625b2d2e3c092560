package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tailBytes is how much of the output is kept: the end of it says what went wrong.
	tailBytes = 4 << 10
	// drainWait is how long output is waited for after the program has ended: what it started may hold
	// the pipe open for good.
	drainWait = 500 * time.Millisecond
	// killWait is how long a killed program is waited for.
	killWait = 3 * time.Second
)

// ErrStuck says that a program was killed and is still there, in uninterruptible sleep.
var ErrStuck = errors.New("it was killed and is still there")

// ErrNotRun says that a program could not even be begun: it is not there, or is none.
var ErrNotRun = errors.New("it cannot be run")

// Command is one run of a program.
type Command struct {
	Path string
	Args []string
	Env  []string // in addition to the daemon's
}

// Result is how a run ended.
type Result struct {
	Code   int    // the exit code
	Output string // the end of stdout and stderr
}

// Run runs c until it ends or ctx does. An error means that there is no exit code: it did not start, or
// was killed.
func Run(ctx context.Context, c Command) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, context.Cause(ctx)
	}
	out := &tail{}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir = "/"
	cmd.Env = append(inherited(), c.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drainWait
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	g := &group{id: cmd.Process.Pid}
	done := make(chan error, 1)
	go func() {
		g.awaitLeader()
		g.end()
		done <- cmd.Wait()
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		g.kill()
		limit := time.NewTimer(killWait)
		defer limit.Stop()
		select {
		case <-done:
			return Result{Code: -1, Output: out.String()}, context.Cause(ctx)
		case <-limit.C:
			return Result{Code: -1, Output: out.String()}, fmt.Errorf("%w: %w", context.Cause(ctx), ErrStuck)
		}
	}
	r := Result{Code: cmd.ProcessState.ExitCode(), Output: out.String()}
	var exit *exec.ExitError
	switch {
	case r.Code < 0:
		return r, fmt.Errorf("it was ended: %s", cmd.ProcessState)
	case err == nil || errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay):
		return r, nil
	}
	return r, err
}

// LastLine returns the last line of the output that is not empty, for a message.
func (r Result) LastLine() string {
	lines := strings.Split(strings.TrimSpace(r.Output), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	if line == "" {
		return "it printed nothing"
	}
	return strings.ToValidUTF8(line[:min(len(line), 300)], "")
}

// inherited is the daemon's environment without what is meant for the daemon alone.
func inherited() []string {
	var out []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "NOTIFY_SOCKET", strings.HasPrefix(name, "WATCHDOG_"), strings.HasPrefix(name, "LISTEN_"), strings.HasPrefix(name, "LOCKSTEP_"):
		default:
			out = append(out, kv)
		}
	}
	return out
}

// group is the process group of a program. Its number stays taken as long as its leader was not
// collected, which is what makes it safe to signal.
type group struct {
	id    int
	mu    sync.Mutex
	ended bool
}

// awaitLeader returns when the leader has ended, and leaves it to be collected.
func (g *group) awaitLeader() {
	for {
		err := unix.Waitid(unix.P_PID, g.id, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (g *group) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		unix.Kill(-g.id, unix.SIGKILL) // only ESRCH is possible: all have ended
	}
}

// end forbids further signals: what the leader leaves behind when it ends by itself is the service.
func (g *group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// tail keeps the last bytes of what is written. It may be read while somebody writes.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String returns what was kept, without what could upset a terminal.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= 0x20 && r != 0x7f {
			return r
		}
		return '.'
	}, strings.ToValidUTF8(string(t.b), "."))
}
