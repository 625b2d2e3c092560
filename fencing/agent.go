package fencing

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Exit codes of an agent's status. 2 also means bad arguments.
const (
	statusOn  = 0
	statusOff = 2
)

// agent is a program of the fence-agents family.
type agent struct {
	name     string
	program  string // a bare name or an absolute path
	options  []Option
	password password
	plugs    []Plug
	timeout  time.Duration // of each run
	unfence  bool          // On is wanted although the metadata does not say so

	reading chan struct{} // holds one token, for whoever reads or sets meta
	meta    *metadata     // nil until it was read; it does not change while the daemon runs
}

func (a *agent) Name() string { return a.name }

// Off is two questions: turn it off, and is it off? Both have to be answered with yes.
func (a *agent) Off(ctx context.Context, t Target) (Answer, error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return Answer{}, err
	}
	for _, action := range []string{"off", "status"} {
		if !m.has(action) {
			return Answer{}, fmt.Errorf("%w: %s advertises no %s, so it can prove nothing", ErrBroken, a.program, action)
		}
	}
	off, err := a.act(ctx, m, "off", t)
	if err != nil {
		return Answer{Output: off.output}, fmt.Errorf("off: %w", err)
	}
	if off.code != 0 {
		return Answer{Output: off.output}, fmt.Errorf("%w: off exited %d: %s", ErrUnproven, off.code, lastLine(off.output))
	}
	st, err := a.act(ctx, m, "status", t)
	ans := Answer{Output: joined(off.output, st.output)}
	switch {
	case err != nil:
		return ans, fmt.Errorf("off exited 0, but status: %w", err)
	case st.code == statusOn:
		ans.Power = PowerOn
		return ans, fmt.Errorf("%w: off exited 0, but status says that the node is on", ErrUnproven)
	case st.code != statusOff:
		return ans, fmt.Errorf("%w: off exited 0, but status exited %d: %s", ErrUnproven, st.code, lastLine(st.output))
	}
	ans.Power = PowerOff
	ans.Text = fmt.Sprintf("%s turned it off, and its status says that it is off", a.program)
	return ans, nil
}

// On succeeds when the agent exits 0, which by the agents' contract means done and verified.
func (a *agent) On(ctx context.Context, t Target) (Answer, error) {
	return a.simple(ctx, "on", t)
}

func (a *agent) Monitor(ctx context.Context, t Target) (Answer, error) {
	return a.simple(ctx, "monitor", t)
}

// simple runs an action that has done its work if it exits 0.
func (a *agent) simple(ctx context.Context, action string, t Target) (Answer, error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return Answer{}, err
	}
	if !m.has(action) {
		return Answer{}, fmt.Errorf("%w: %s advertises no %s", ErrUnsupported, a.program, action)
	}
	r, err := a.act(ctx, m, action, t)
	ans := Answer{Output: r.output}
	switch {
	case err != nil:
		return ans, fmt.Errorf("%s: %w", action, err)
	case r.code != 0:
		return ans, fmt.Errorf("%w: %s exited %d: %s", ErrUnproven, action, r.code, lastLine(r.output))
	}
	ans.Text = action + " exited 0"
	return ans, nil
}

func (a *agent) Status(ctx context.Context, t Target) (Answer, error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return Answer{}, err
	}
	if !m.has("status") {
		return Answer{}, fmt.Errorf("%w: %s advertises no status", ErrUnsupported, a.program)
	}
	r, err := a.act(ctx, m, "status", t)
	ans := Answer{Output: r.output}
	switch {
	case err != nil:
		return ans, fmt.Errorf("status: %w", err)
	case r.code == statusOn:
		ans.Power, ans.Text = PowerOn, "status says on"
	case r.code == statusOff:
		ans.Power, ans.Text = PowerOff, "status says off, or that its arguments are wrong: both are exit code 2"
	default:
		return ans, fmt.Errorf("%w: status exited %d: %s", ErrUnproven, r.code, lastLine(r.output))
	}
	return ans, nil
}

func (a *agent) NeedsOn(ctx context.Context) (needed, onTarget bool, err error) {
	m, err := a.metadata(ctx)
	if err != nil {
		return false, false, err
	}
	on, ok := m.action("on")
	if !ok {
		return a.unfence, false, nil
	}
	return a.unfence || on.automatic, on.onTarget, nil
}

// metadata returns what the agent says about itself. A failure is not remembered.
func (a *agent) metadata(ctx context.Context) (*metadata, error) {
	select {
	case a.reading <- struct{}{}:
		defer func() { <-a.reading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("metadata of %s: %w", a.program, context.Cause(ctx))
	}
	if a.meta != nil {
		return a.meta, nil
	}
	path, err := findProgram(a.program)
	if err != nil {
		return nil, err
	}
	r, err := run(ctx, command{path: path, stdin: "action=metadata\n", timeout: a.timeout})
	switch {
	case err != nil:
		return nil, fmt.Errorf("metadata of %s: %w", a.program, err)
	case r.code != 0:
		return nil, fmt.Errorf("%w: metadata of %s: it exited %d: %s", ErrBroken, a.program, r.code, lastLine(r.output))
	}
	m, err := parseMetadata(r.stdout)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, a.program, err)
	}
	a.meta = m
	return m, nil
}

// act runs one action against the target.
func (a *agent) act(ctx context.Context, m *metadata, action string, t Target) (ran, error) {
	path, err := findProgram(a.program)
	if err != nil {
		return ran{}, err
	}
	secret, set, err := a.password.read()
	if err != nil {
		return ran{}, err
	}
	args := a.arguments(m, action, t)
	if set {
		args = append(args, Option{Name: m.passwordName(), Value: secret})
	}
	stdin, err := inputOf(args)
	if err != nil {
		return ran{}, err
	}
	return run(ctx, command{path: path, stdin: stdin, secrets: secretsOf(args, secret), timeout: a.timeout})
}

// arguments returns what the agent is told, without the password. A target that the operator wrote
// into the options stays: it is a device of one node.
func (a *agent) arguments(m *metadata, action string, t Target) []Option {
	args := []Option{{Name: "action", Value: action}, {Name: "nodename", Value: t.Node}}
	if name := m.plugName(); name != "" && !a.fixedPlug() {
		args = append(args, Option{Name: name, Value: plugOf(a.plugs, t.Node)})
	}
	return append(args, a.options...)
}

// fixedPlug reports whether the operator's options name the target.
func (a *agent) fixedPlug() bool {
	for _, o := range a.options {
		if o.Name == "port" || o.Name == "plug" {
			return true
		}
	}
	return false
}

// inputOf writes the lines that an agent reads. There is no quoting, so a line break in a value would
// begin another key.
func inputOf(args []Option) (string, error) {
	var b strings.Builder
	for _, o := range args {
		if err := checkOption(o); err != nil {
			return "", fmt.Errorf("%w: %w", ErrBroken, err)
		}
		b.WriteString(o.Name + "=" + o.Value + "\n")
	}
	return b.String(), nil
}

// checkOption refuses what cannot be told to an agent in one line.
func checkOption(o Option) error {
	if o.Name == "" {
		return errors.New("an option has no name")
	}
	for i := 0; i < len(o.Name); i++ {
		c := o.Name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("option %q: %q is not allowed in its name", o.Name, c)
	}
	if strings.ContainsAny(o.Value, "\n\r\x00") {
		return fmt.Errorf("option %s: its value has a line break or a zero byte in it", o.Name)
	}
	return nil
}

// programDirs are looked into before $PATH: what runs as root to turn machines off should not depend
// on who started the daemon.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// findProgram returns the path of a program, or ErrBroken.
func findProgram(name string) (string, error) {
	if filepath.IsAbs(name) {
		p, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrBroken, err)
		}
		return p, nil
	}
	for _, dir := range programDirs {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not installed; on Debian: apt-get install fence-agents", ErrBroken, name)
	}
	return p, nil
}

// joined puts what two runs printed below each other.
func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n" + b
}
