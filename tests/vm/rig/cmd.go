package rig

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/talk"
)

// Cmd is a command in a machine.
type Cmd struct {
	v      *VM
	id     talk.ID
	script string

	mu      sync.Mutex
	out     bytes.Buffer
	errs    bytes.Buffer
	changed chan struct{} // closed and made anew whenever there is more
	over    bool
	code    int
	err     error
}

// Start starts a shell script in the machine and does not wait for it.
func (v *VM) Start(script string) *Cmd {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last++
	c := &Cmd{v: v, id: v.last, script: script, changed: make(chan struct{})}
	if v.down {
		c.over, c.code, c.err = true, -1, ErrGone
		return c
	}
	v.cmds[c.id] = c
	if err := v.enc.Encode(talk.Request{ID: c.id, Script: script}); err != nil {
		delete(v.cmds, c.id)
		c.over, c.code, c.err = true, -1, errors.Join(ErrGone, err)
	}
	return c
}

// Run runs a script to its end and fails the test unless it succeeds. A script stops at its first command that
// fails. It returns its standard output.
func (v *VM) Run(t testing.TB, script string) string {
	t.Helper()
	out, err := v.Start("set -e\n" + script).Wait()
	if err != nil {
		t.Fatalf("in the guest: %v\n%s", err, out)
	}
	return out
}

// Look runs a script whose output is for whoever reads why a test failed: it has a few seconds, and whatever it
// says in them is returned.
func (v *VM) Look(script string) string {
	c := v.Start("exec 2>&1\n" + script)
	if err := c.until(lookLimit, func() bool { return c.over }); err != nil {
		c.Kill()
	}
	return c.Output()
}

const lookLimit = 20 * time.Second

// Runf is Run with a format.
func (v *VM) Runf(t testing.TB, format string, args ...any) string {
	t.Helper()
	return v.Run(t, fmt.Sprintf(format, args...))
}

// Wait returns the command's standard output, and an error unless it ended with exit code 0.
func (c *Cmd) Wait() (string, error) {
	err := c.until(Limit, func() bool { return c.over })
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
	case c.err != nil:
		err = fmt.Errorf("%s: %w", firstLines(c.script), c.err)
	case c.code != 0:
		err = fmt.Errorf("%s: exit code %d: %s", firstLines(c.script), c.code, c.errs.String())
	}
	return c.out.String(), err
}

// Code is the exit code of a command that has ended: -1 when the machine went first.
func (c *Cmd) Code() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code
}

// Output is what the command has printed so far.
func (c *Cmd) Output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// Await returns when the command's standard output satisfies ready, and an error if it ends before.
func (c *Cmd) Await(what string, ready func(out string) bool) error {
	ok := false
	err := c.until(Limit, func() bool {
		ok = ready(c.out.String())
		return ok || c.over
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && !ok {
		err = fmt.Errorf("%s ended with code %d before %s: %w\n%s%s", firstLines(c.script), c.code, what, errors.Join(c.err), c.out.String(), c.errs.String())
	}
	return err
}

// Kill ends the command with SIGKILL, and the processes that it started in its own session.
func (c *Cmd) Kill() {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	if !c.v.down {
		// Where the machine is going, its end is the command's.
		_ = c.v.enc.Encode(talk.Request{ID: c.id, Kill: true})
	}
}

// until returns when done, which is called with the lock held, says so.
func (c *Cmd) until(atMost time.Duration, done func() bool) error {
	limit := time.NewTimer(atMost)
	defer limit.Stop()
	for {
		c.mu.Lock()
		ok, changed := done(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-limit.C:
			return fmt.Errorf("%s: still not done after %v; it has said:\n%s", firstLines(c.script), atMost, c.Output())
		}
	}
}

func (c *Cmd) take(r talk.Reply) {
	if r.End != nil {
		var err error
		if r.End.Why != "" {
			err = errors.New(r.End.Why)
		}
		c.finish(r.End.Code, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(r.Out)
	c.errs.Write(r.Err)
	c.wake()
}

func (c *Cmd) finish(code int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.code, c.err = true, code, err
	c.wake()
}

// wake tells those who wait that there is more; c.mu is held.
func (c *Cmd) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// firstLines is enough of a script to know it again.
func firstLines(s string) string {
	s = strings.TrimSpace(strings.TrimPrefix(s, "set -e\n"))
	if len(s) > 160 {
		s = s[:160] + "..."
	}
	return s
}
