package agent

import (
	"context"
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/services/program"
)

// Hook is a program of the operator's.
type Hook struct {
	Path     string
	Args     []string // after the action
	Resource string
	Node     string

	attempt attempt
}

// Start runs the hook with start.
func (h *Hook) Start(ctx context.Context) error { return h.attempt.started(h.act(ctx, "start")) }

// Stop runs the hook with stop.
func (h *Hook) Stop(ctx context.Context) error { return h.attempt.stopped(h.act(ctx, "stop")) }

// Examine returns an error if the hook cannot be run at all.
func (h *Hook) Examine(context.Context) error { return isProgram(h.Path) }

// Monitor runs the hook with monitor.
func (h *Hook) Monitor(ctx context.Context) error { return h.act(ctx, "monitor") }

func (h *Hook) act(ctx context.Context, action string) error {
	r, err := program.Run(ctx, program.Command{
		Path: h.Path, Args: append([]string{action}, h.Args...),
		Env: []string{"LOCKSTEP_RESOURCE=" + h.Resource, "LOCKSTEP_NODE=" + h.Node, "LOCKSTEP_ACTION=" + action},
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", h.Path, action, err)
	}
	if r.Code != 0 {
		return fmt.Errorf("%s %s: exit %d: %s", h.Path, action, r.Code, r.LastLine())
	}
	return nil
}
