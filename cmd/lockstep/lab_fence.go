package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/lab"
)

// errFenceAgent is the exit code of a fence agent, which is no exit code of this program.
type errFenceAgent int

func (errFenceAgent) Error() string { return "the fence agent has answered" }

// labFenceAgentCmd is what D/fence-agent runs. Programs call it, not people.
func (a *app) labFenceAgentCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "fence-agent",
		Short:  "Be a fence agent for the nodes of a lab",
		Hidden: true,
		Long: `Fence-agent reads key=value lines from its standard input, as the programs of the fence-agents family do:
action (off, on, status, monitor, list, metadata), port (a node of the lab) and dir (of the lab). Off kills the
node with SIGKILL, and in a lab with --netns takes its link first. Status exits 0 for a node that is on, and
2 for one that is off.`,
		Args: cobra.NoArgs,
		RunE: a.stream(func(ctx context.Context, _ []string) error {
			if code := lab.FenceAgent(ctx, a.in, a.out, a.err); code != exitOK {
				return errFenceAgent(code)
			}
			return nil
		}),
	}
}

// fenceAgentCode returns the exit code of a fence agent that has answered.
func fenceAgentCode(err error) (int, bool) {
	var e errFenceAgent
	ok := errors.As(err, &e)
	return int(e), ok
}
