package fencing

import (
	"bytes"
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

	"github.com/lockstep-ha/lockstep/internal/writepath"
)

const (
	// tailBytes is how much of a program's output is kept for the history.
	tailBytes = 4 << 10
	// answerBytes is how much of its stdout is read as an answer (metadata, list).
	answerBytes = 1 << 20
	// drainWait is how long output is waited for after the program and its group are gone: a
	// child that left the group may hold the pipe open for good.
	drainWait = 500 * time.Millisecond
	// killWait is how long a killed program is waited for. Only one in uninterruptible sleep takes
	// longer.
	killWait = 3 * time.Second
)

// command is one run of a program.
type command struct {
	path    string
	env     []string // in addition to the daemon's
	stdin   string
	secrets []string // cut out of what is kept
	timeout time.Duration
}

// ran is how a run ended.
type ran struct {
	code   int    // its exit code
	stdout []byte // the first answerBytes of it
	output string // the end of stdout and stderr, without secrets
}

// run runs a program in a process group of its own and returns once all of the group is gone. An
// error means that there is no exit code: it did not start, was killed, or had no time left.
func run(ctx context.Context, c command) (ran, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, ErrTimeout)
	defer cancel()
	if ctx.Err() != nil {
		return ran{}, context.Cause(ctx)
	}
	all := &tail{limit: tailBytes, secrets: c.secrets}
	out := &head{limit: answerBytes}
	cmd := exec.Command(c.path)
	cmd.Dir = "/"
	cmd.Env = append(inherited(), c.env...)
	cmd.Stdout, cmd.Stderr = both{out, all}, all
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drainWait
	if err := writepath.Start(cmd); err != nil {
		return ran{}, fmt.Errorf("%w: %w", ErrBroken, err)
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
		case <-limit.C:
			return ran{output: all.String()}, fmt.Errorf("%w; it was killed and is still there", context.Cause(ctx))
		}
		return ran{output: all.String()}, context.Cause(ctx)
	}
	r := ran{code: cmd.ProcessState.ExitCode(), stdout: out.Bytes(), output: all.String()}
	var exit *exec.ExitError
	switch {
	case r.code < 0: // by a signal, so it said nothing
		return r, fmt.Errorf("%w: %s", ErrUnproven, cmd.ProcessState)
	case err == nil || errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay):
		return r, nil
	}
	return r, fmt.Errorf("%w: %w", ErrBroken, err)
}

// inherited is the daemon's environment without what is meant for the daemon alone: a child that tells
// systemd it is alive would speak for its parent.
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

// kill kills everybody in the group.
func (g *group) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		unix.Kill(-g.id, unix.SIGKILL) // only ESRCH is possible: all have ended
	}
}

// end kills what the leader left behind and forbids further signals.
func (g *group) end() {
	g.kill()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// both writes to two buffers that take everything.
type both struct {
	a *head
	b *tail
}

func (w both) Write(p []byte) (int, error) {
	w.a.Write(p)
	return w.b.Write(p)
}

// head keeps the first bytes of what is written. It may be read while somebody writes.
type head struct {
	mu    sync.Mutex
	limit int
	b     bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(p[:min(len(p), h.limit-h.b.Len())])
	return len(p), nil
}

func (h *head) Bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.b.Bytes())
}

// tail keeps the last bytes of what is written. It may be read while somebody writes.
type tail struct {
	mu      sync.Mutex
	limit   int
	secrets []string
	b       []byte
	cut     bool // something was thrown away
}

// reach is how many bytes are kept beyond the limit, so that a secret at the cut is still recognised.
func (t *tail) reach() int {
	n := 0
	for _, s := range t.secrets {
		n = max(n, len(s))
	}
	return n
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if keep := t.limit + t.reach(); len(t.b) > 2*keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
		t.cut = true
	}
	return len(p), nil
}

// String returns what was kept, as text without secrets and control characters.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := hide(string(t.b), t.secrets)
	if t.cut { // what is left of a secret that was cut in two
		text = text[min(len(text), t.reach()):]
	}
	cut := t.cut
	if len(text) > t.limit {
		text, cut = text[len(text)-t.limit:], true
	}
	text = printable(text)
	if cut {
		text = "(earlier output left out)\n" + text
	}
	return strings.TrimRight(text, "\n")
}

// printable replaces what could upset a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= 0x20 && r != 0x7f {
			return r
		}
		return '.'
	}, strings.ToValidUTF8(s, "."))
}

// lastLine returns the last line of a program's output that is not empty, for a message.
func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	if line == "" {
		return "it printed nothing"
	}
	if len(line) > 200 {
		line = strings.ToValidUTF8(line[:200], "") + "..."
	}
	return line
}
