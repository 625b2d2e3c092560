package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

func (a *app) labKillCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kill NODE --dir DIR",
		Short: "Send a signal to a node, or take its whole host away",
		Long: `Kill sends a signal to a node, SIGKILL unless --signal says otherwise, and for KILL and TERM waits for
its end. STOP and CONT make a node that hangs.

With --host, in a lab with --netns, the node goes as in a power failure: first its network link, then
its process. No peer sees a connection close, now or when the node is started again. What it had
written and not yet synced is NOT lost, as the page cache is this machine's: such losses are tried in
the simulator only (docs/simulator.md).`,
		Args: cobra.ExactArgs(1),
	}
	signal := cmd.Flags().String("signal", "KILL", "name or number")
	host := cmd.Flags().Bool("host", false, "take the whole host away, connections unclosed; needs --netns")
	cmd.MarkFlagsMutuallyExclusive("signal", "host")
	return a.labVerb(a.withJSON(cmd), func(ctx context.Context, dir string, args []string) error {
		sig, err := lab.ParseSignal(*signal)
		if err != nil {
			return control.Usagef("%v", err)
		}
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if *host {
			if err := l.KillHost(ctx, args[0]); err != nil {
				return err
			}
			return a.done("the host %s is off", args[0])
		}
		if err := l.Kill(ctx, args[0], sig); err != nil {
			return err
		}
		name := unix.SignalName(sig)
		if name == "" {
			name = fmt.Sprintf("signal %d", int(sig))
		}
		return a.done("sent %s to %s", name, args[0])
	})
}

func (a *app) labPauseCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause NODE [DURATION] --dir DIR",
		Short: "Let a node's process stand still, as one that hangs",
		Long: `Pause stops the process of a node (SIGSTOP). Its connections stay, and its kernel goes on acknowledging
what arrives. With a duration, such as 10s, the node goes on after it, and at once when this command is
interrupted; without, it stands still until lab resume.`,
		Args: cobra.RangeArgs(1, 2),
	}
	return a.labLongVerb(a.withJSON(cmd), func(ctx context.Context, dir string, args []string) error {
		var d time.Duration
		if len(args) > 1 {
			var err error
			if d, err = time.ParseDuration(args[1]); err != nil || d <= 0 {
				return control.Usagef("%q is no duration; write for example 500ms, 10s or 2m", args[1])
			}
		}
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if d == 0 {
			if err := l.Pause(ctx, args[0]); err != nil {
				return err
			}
			return a.done("%s stands still", args[0])
		}
		if err := l.PauseFor(ctx, args[0], d); err != nil {
			return err
		}
		return a.done("%s stood still for %v and goes on", args[0], d)
	})
}

func (a *app) labResumeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "resume NODE --dir DIR", Short: "Let a paused node go on", Args: cobra.ExactArgs(1)}
	return a.labVerb(a.withJSON(cmd), func(ctx context.Context, dir string, args []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Resume(ctx, args[0]); err != nil {
			return err
		}
		return a.done("%s goes on", args[0])
	})
}

func (a *app) labStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status --dir DIR",
		Short: "Tell what of a lab runs and what is broken",
		Long: `Status tells which nodes run, stand still or are stopped and, in a lab with --netns, whose link is down
and between whom packets are lost. What the nodes make of it, lockstep status tells.`,
		Args: cobra.NoArgs,
	}
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, _ []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		st, err := l.Status()
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(st)
		}
		_, err = fmt.Fprint(a.out, labStatus(&st))
		return err
	})
}
