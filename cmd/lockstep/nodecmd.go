package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) nodeRemoveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a node out of the cluster",
		Long: `Remove takes a node out of the cluster for good: it has no vote, and its certificate is refused from
then on, whatever it does. A node that holds a replica is refused.

Without --force it is also refused when the cluster would be worse off: when too few of the others are
heard of, or when two voters would be left, of which neither can take over from the other by itself.
To bring a host back later, let it join anew with an empty data directory.`,
		Args: cobra.ExactArgs(1),
	}
	force := cmd.Flags().Bool("force", false, "remove it although the cluster is worse off without it")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := a.client().RemoveNode(ctx, control.RemoveNode{Node: args[0], Force: *force}); err != nil {
			return err
		}
		return a.done("removed %s; it may be stopped and its data directory removed", args[0])
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) nodeReplaceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace NAME",
		Short: "Make a token for a node that takes the place of a lost one",
		Long: `Replace is for a node whose data directory was lost. It prints a token with which a host joins under
the same name, as a new voter with a new certificate; the old certificate is refused from then on. The
host begins with an empty data directory:

  lockstep node replace n2 > t                     on a node that is there
  lockstep cluster join ADDR --token-file t --node n2 --listen HOST:PORT
  lockstep node --config /var/lib/lockstep/node.toml

Until the token is used, nothing changes.`,
		Args: cobra.ExactArgs(1),
	}
	ttl := cmd.Flags().Duration("ttl", time.Hour, "how long the token is good for, 1m to 168h")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		return a.printToken(ctx, control.TokenRequest{TTL: *ttl, Node: args[0], Replace: true})
	})
	return a.remote(a.withJSON(cmd))
}
