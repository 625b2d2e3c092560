package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// onFlag adds --on, which means the same as --node and reads better with some verbs.
func (a *app) onFlag(cmd *cobra.Command, help string) *string {
	on := cmd.Flags().String("on", "", help)
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeNodes)
	return on
}

// mergeOn makes --on the node to ask.
func (a *app) mergeOn(on string) error {
	if on != "" && a.node != "" && on != a.node {
		return control.Usagef("--on %s and --node %s name two nodes", on, a.node)
	}
	if on != "" {
		a.node = on
	}
	return nil
}

func (a *app) promoteCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "promote NAME",
		Short: "Make a node primary",
		Long: `Promote makes a node primary, in a new epoch. Where another node is recorded as primary, it is
refused: lockstep switchover moves the role without losing a write.

--confirm-peer-down is your word that the recorded primary is down and will not write again, because
you have seen it without power or have cut it off. If that is not so, two nodes write at once, and one
of the two histories will have to be thrown away.

--force promotes a replica that may lack acknowledged writes, when those that have them cannot be had
back. Without --confirm-down it only tells what would be lost, and whose word is missing: --confirm-down
NODE, once for each, is yours that this node is down and will not write again. A node that a fence has
proven to be down needs none. The ledger records both. If such a node returns after all, it has
diverged: nothing is merged, and lockstep resolve settles which history is kept.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	on := a.onFlag(cmd, "`NODE` to promote (default: the one that is asked)")
	takeOver := cmd.Flags().Bool("confirm-peer-down", false, "the recorded primary is down and will not write again")
	force := cmd.Flags().Bool("force", false, "promote a replica that may lack acknowledged writes")
	var down []string
	cmd.Flags().StringArrayVar(&down, "confirm-down", nil, "`NODE` is down and will not write again; only with --force")
	_ = cmd.RegisterFlagCompletionFunc("confirm-down", a.completeNodes)
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := a.mergeOn(*on); err != nil {
			return err
		}
		switch {
		case *force && *takeOver:
			return control.Usagef("--confirm-peer-down is for a promotion that loses nothing; with --force, name each node: --confirm-down NODE")
		case *force:
			return a.force(ctx, args[0], down)
		case len(down) > 0:
			return control.Usagef("--confirm-down is for --force")
		}
		if err := a.client().Promote(ctx, args[0], control.PromoteOptions{TakeOver: *takeOver}); err != nil {
			return err
		}
		where := "this node"
		if a.node != "" {
			where = a.node
		}
		return a.done("promoted %s: %s is primary", args[0], where)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) demoteCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "demote NAME",
		Short: "Make the primary secondary, and keep it so",
		Long: `Demote takes the role from the primary. Its clients are disconnected, and no node is promoted by the
cluster itself until lockstep promote names one.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: a.do(func(ctx context.Context, args []string) error {
			c, err := a.onPrimary(ctx, args[0])
			if err != nil {
				return err
			}
			if err := c.Demote(ctx, args[0]); err != nil {
				return err
			}
			return a.done("demoted %s; it stays without a primary until: lockstep promote %s", args[0], args[0])
		}),
	}))
}

func (a *app) switchoverCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "switchover NAME --to NODE",
		Short: "Move the primary role to another node",
		Long: `Switchover moves the role to an in-sync node. Requests wait for the move and none is lost; clients
reconnect to the new primary.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	to := cmd.Flags().String("to", "", "`NODE` that becomes primary (required)")
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeNodes)
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if *to == "" {
			return control.Usagef("switchover needs --to NODE")
		}
		c, err := a.onPrimary(ctx, args[0])
		if err != nil {
			return err
		}
		if err := c.Switchover(ctx, args[0], *to); err != nil {
			return err
		}
		return a.done("switched %s over: %s is primary", args[0], *to)
	})
	return a.remote(a.withJSON(cmd))
}
