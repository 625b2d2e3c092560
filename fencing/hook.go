package fencing

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// hook is a program of the operator's. It is told what to do in its environment, and its exit code 0
// is the whole proof: whatever off has to wait for or look at, the program does.
type hook struct {
	name     string
	program  string // absolute path
	options  []Option
	password password
	plugs    []Plug
	timeout  time.Duration
	unfence  bool // it has an action on, which a node needs before it comes back
}

func (h *hook) Name() string { return h.name }

func (h *hook) Off(ctx context.Context, t Target) (Answer, error) {
	ans, err := h.act(ctx, "off", t)
	if err == nil {
		ans.Power = PowerOff
		ans.Text = h.program + " says that it is off"
	}
	return ans, err
}

func (h *hook) On(ctx context.Context, t Target) (Answer, error) {
	if !h.unfence {
		return Answer{}, fmt.Errorf("%w: %s is not set up with unfence = true", ErrUnsupported, h.name)
	}
	return h.act(ctx, "on", t)
}

func (h *hook) Monitor(ctx context.Context, t Target) (Answer, error) {
	return h.act(ctx, "monitor", t)
}

// Status is not asked of a hook: its off has to know.
func (h *hook) Status(context.Context, Target) (Answer, error) {
	return Answer{}, fmt.Errorf("%w: a hook has no status", ErrUnsupported)
}

func (h *hook) NeedsOn(context.Context) (needed, onTarget bool, err error) {
	return h.unfence, false, nil
}

func (h *hook) Check(ctx context.Context, t Target) []Finding {
	f := &findings{device: h.name}
	if _, err := h.Monitor(ctx, t); err != nil {
		f.add(Fault, "%v", err)
		return f.list
	}
	f.add(Good, "%s exits 0 for monitor; whether its off works only a trial shows", h.program)
	return f.list
}

// act runs the program for one action.
func (h *hook) act(ctx context.Context, action string, t Target) (Answer, error) {
	path, err := findProgram(h.program)
	if err != nil {
		return Answer{}, err
	}
	secret, set, err := h.password.read()
	if err != nil {
		return Answer{}, err
	}
	env := []string{
		"LOCKSTEP_ACTION=" + action,
		"LOCKSTEP_DEVICE=" + h.name,
		"LOCKSTEP_NODE=" + t.Node,
		"LOCKSTEP_PLUG=" + plugOf(h.plugs, t.Node),
		"LOCKSTEP_BOOT_ID=" + t.Boot,
		"LOCKSTEP_RESOURCE=" + t.Resource,
		"LOCKSTEP_REASON=" + t.Reason,
	}
	for _, o := range h.options {
		env = append(env, "LOCKSTEP_OPTION_"+strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))+"="+o.Value)
	}
	if set {
		env = append(env, "LOCKSTEP_PASSWORD="+secret)
	}
	r, err := run(ctx, command{path: path, env: env, secrets: secretsOf(h.options, secret), timeout: h.timeout})
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
