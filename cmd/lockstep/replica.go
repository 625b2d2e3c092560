package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) connectCmd() *cobra.Command {
	return a.peerCmd("connect", "Let the session with a peer be tried again",
		"Connect undoes lockstep disconnect: the node tries to reach the peer again, and copies to it what it missed.",
		"connecting %s with %s", (*control.Client).Connect)
}

func (a *app) disconnectCmd() *cobra.Command {
	return a.peerCmd("disconnect", "End the session with a peer and keep it down",
		"Disconnect ends a session. The peer leaves the in-sync set, and what it misses is kept in the bitmap, until\nlockstep connect.",
		"disconnected %s from %s", (*control.Client).Disconnect)
}

// peerCmd makes connect or disconnect; done is printed with the resource and the peer.
func (a *app) peerCmd(verb, short, long, done string, call func(*control.Client, context.Context, string, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:               verb + " NAME --peer NODE",
		Short:             short,
		Long:              long,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	peer := cmd.Flags().String("peer", "", "`NODE` at the other end (required)")
	_ = cmd.RegisterFlagCompletionFunc("peer", a.completeNodes)
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if *peer == "" {
			return control.Usagef("%s needs --peer NODE", verb)
		}
		if err := call(a.client(), ctx, args[0], *peer); err != nil {
			return err
		}
		return a.done(done, args[0], *peer)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) invalidateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "invalidate NAME --on NODE",
		Short: "Give up a replica and copy it anew",
		Long: `Invalidate declares the replica of NODE worthless: it leaves the in-sync set and is copied whole from
the primary. The last in-sync replica is refused. Nothing is kept of what was there: for a replica that has
diverged, lockstep resolve makes a copy of it first.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	on := a.onFlag(cmd, "`NODE` whose replica is given up (required)")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := a.mergeOn(*on); err != nil {
			return err
		}
		if a.node == "" {
			return control.Usagef("invalidate needs --on NODE: the replica to give up is never guessed")
		}
		if err := a.client().Invalidate(ctx, args[0]); err != nil {
			return err
		}
		return a.done("invalidated the replica of %s on %s; it will be copied anew", args[0], a.node)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) replicaCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "replica", Short: "Replace a replica whose disk is lost", Args: cobra.ArbitraryArgs, RunE: a.group}
	cmd.AddCommand(a.replicaReplaceCmd())
	return cmd
}

func (a *app) replicaReplaceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace NAME --on NODE",
		Short: "Make the replica of a node anew, on a new disk",
		Long: `Replace makes a new replica at the paths of one whose disk has failed or is gone, and has it copied whole from
the primary. Put the new disk in place first: a file system where the old one was mounted, or a block device
under the same name. Files that are still at the paths are renamed; a block device is overwritten.

A replica that is in sync is refused. The node stays a member and keeps its vote; for a node that has lost its
data directory, too, there is lockstep node replace.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	on := a.onFlag(cmd, "`NODE` whose replica is made anew (required)")
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := a.mergeOn(*on); err != nil {
			return err
		}
		if a.node == "" {
			return control.Usagef("replica replace needs --on NODE: the replica to give up is never guessed")
		}
		if !*yes {
			if err := a.confirm(fmt.Sprintf("What the replica of %s on %s holds is given up.", args[0], a.node)); err != nil {
				return err
			}
		}
		if err := a.client().ReplaceReplica(ctx, args[0]); err != nil {
			return err
		}
		return a.done("made the replica of %s on %s anew; it is copied from the primary", args[0], a.node)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) resyncCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resync",
		Short: "Pause and resume the copying of missed blocks",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.group,
	}
	cmd.AddCommand(
		a.resyncVerb("pause", "Pause resync; missed blocks go on to be tracked", "paused resync of %s", (*control.Client).PauseResync),
		a.resyncVerb("resume", "Resume resync", "resumed resync of %s", (*control.Client).ResumeResync),
	)
	return cmd
}

func (a *app) resyncVerb(verb, short, done string, call func(*control.Client, context.Context, string) error) *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:               verb + " NAME",
		Short:             short,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: a.do(func(ctx context.Context, args []string) error {
			c, err := a.onPrimary(ctx, args[0])
			if err != nil {
				return err
			}
			if err := call(c, ctx, args[0]); err != nil {
				return err
			}
			return a.done(done, args[0])
		}),
	}))
}

// maxListed bounds the differences that verify prints for people.
const maxListed = 20

func (a *app) verifyCmd() *cobra.Command {
	var opts control.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify NAME",
		Short: "Compare the replicas, and repair on request",
		Long: `Verify compares the replicas block by block while the device is in use, and lists what differs.
Nothing is changed unless --repair is given; then what differs is copied from --source.

It runs until it is through, however long that takes; lockstep status shows how far it is, and
an interrupt ends it. The exit code is 6 when a difference was found, repaired or not.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	f := cmd.Flags()
	f.BoolVar(&opts.Repair, "repair", false, "copy what differs from the source")
	f.StringVar(&opts.Source, "source", "", "`NODE` whose copy is right (default: the primary); only with --repair")
	_ = cmd.RegisterFlagCompletionFunc("source", a.completeNodes)
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		if opts.Source != "" && !opts.Repair {
			return control.Usagef("--source is for --repair; without it, verify only compares")
		}
		c, err := a.onPrimary(ctx, args[0])
		if err != nil {
			return err
		}
		res, err := c.Verify(ctx, args[0], opts)
		if err != nil {
			return err
		}
		if err := a.printVerify(args[0], res, opts); err != nil {
			return err
		}
		if len(res.Differences) > 0 {
			return errDifference
		}
		return nil
	})
	a.remote(a.withJSON(cmd))
	if err := f.MarkHidden("timeout"); err != nil {
		panic(err)
	}
	return cmd
}

// printVerify prints the outcome of a verify.
func (a *app) printVerify(name string, res control.VerifyResult, opts control.VerifyOptions) error {
	if a.json {
		return a.printJSON(res)
	}
	if len(res.Differences) == 0 {
		_, err := fmt.Fprintf(a.out, "%s: all replicas are equal, %s compared\n", name, bytesText(res.CheckedBytes))
		return err
	}
	more := ""
	if res.Truncated {
		more = " or more"
	}
	fmt.Fprintf(a.out, "%s: %d differences%s in %s compared\n", name, len(res.Differences), more, bytesText(res.CheckedBytes))
	for i, d := range res.Differences {
		if i == maxListed {
			fmt.Fprintf(a.out, "  and %d more; --json lists them all\n", len(res.Differences)-i)
			break
		}
		state := ""
		if d.Repaired {
			state = "  repaired"
		}
		fmt.Fprintf(a.out, "  %s  offset %d  length %v%s\n", d.Node, d.OffBytes, config.Size(d.LenBytes), state)
	}
	if opts.Repair {
		_, err := fmt.Fprintf(a.out, "%s repaired; look for the cause: a disk that loses or misplaces writes will do it again\n", bytesText(res.RepairedBytes))
		return err
	}
	_, err := fmt.Fprintf(a.out, "nothing was changed; when you know which copy is right: lockstep verify %s --repair --source NODE\n", name)
	return err
}
