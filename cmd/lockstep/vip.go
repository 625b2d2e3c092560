package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

func (a *app) vipCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vip",
		Short: "Addresses that move by themselves, without data",
		Long: `An address that is on one node of the cluster, and moves to another one when that is lost, as keepalived's do;
but who has it is decided as for data: by a majority, with a lease, so it is never wanted on two nodes.

It is a resource like any other, vip-NAME, of the smallest size and with data that nobody uses. status, switchover,
pause-failover, events and resource set (--priority, --fencing) work on it. An address that is to follow data
belongs to that resource: lockstep resource set --vip.`,
		Args: cobra.NoArgs,
		RunE: a.group,
	}
	cmd.AddCommand(a.vipAddCmd(), a.vipListCmd(), a.vipMoveCmd(), a.vipRemoveCmd())
	return cmd
}

func (a *app) vipAddCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "add NAME ADDRESS/LENGTH",
		Short:   "Have one node of the cluster hold an address",
		Example: "  lockstep vip add web 10.0.0.10/24 --nodes n1,n2",
		Args:    cobra.ExactArgs(2),
	}
	f := cmd.Flags()
	nodes := f.StringSlice("nodes", nil, "`NODES` that may hold it, the first of them to begin with (default: all that hold data)")
	dev := f.String("dev", "", "`INTERFACE` (default: the one that has an address of that network)")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		s := service.Spec{Kind: service.KindVIP, Target: args[1]}
		if *dev != "" {
			s.Options = []string{"dev=" + *dev}
		}
		if err := s.Validate(); err != nil {
			return control.Usagef("%v", err)
		}
		name := control.VIPPrefix + args[0]
		if err := config.CheckName("resource", name); err != nil {
			return control.Usagef("%v", err)
		}
		if err := a.addVIP(ctx, name, *nodes, s); err != nil {
			return err
		}
		return a.done("added %s; next: lockstep status %s", args[1], name)
	})
	return a.remote(a.withJSON(cmd))
}

// addVIP makes the resource that carries an address, and has the first node hold it.
func (a *app) addVIP(ctx context.Context, name string, nodes []string, s service.Spec) error {
	c := a.client()
	st, err := c.Status(ctx, "")
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		for _, n := range st.Nodes {
			if !n.Witness {
				nodes = append(nodes, n.Name)
			}
		}
	}
	req := control.CreateRequest{Resource: name, SizeBytes: control.VIPBytes}
	for _, n := range nodes {
		facts, err := c.On(n).Facts(ctx)
		if err != nil {
			return fmt.Errorf("node %s: %w", n, err)
		}
		data := filepath.Join(facts.DataDir.Path, name+".img")
		req.Replicas = append(req.Replicas, control.ReplicaCreate{Node: n, DataPath: data, MetaPath: data + ".meta"})
	}
	if err := req.Validate(); err != nil {
		return err
	}
	if err := c.CreateResource(ctx, req); err != nil {
		return err
	}
	err = c.Set(ctx, name, control.Settings{Services: &[]service.Spec{s}})
	if err == nil {
		err = c.On(nodes[0]).Promote(ctx, name, control.PromoteOptions{})
	}
	if err != nil {
		return control.AsError(err).WithHint("lockstep vip remove %s, then again", strings.TrimPrefix(name, control.VIPPrefix))
	}
	return nil
}

func (a *app) vipListCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List addresses without data", Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			st, err := a.client().Status(ctx, "")
			if err != nil {
				return err
			}
			all := slices.DeleteFunc(st.Resources, func(r control.Resource) bool { return !strings.HasPrefix(r.Name, control.VIPPrefix) })
			if a.json {
				return a.printJSON(all)
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tADDRESS\tNODE\tSTATE")
			for _, r := range all {
				node, address, state := r.Primary, "-", "-"
				if node == "" {
					node = "-"
				} else if there, err := a.client().On(node).Status(ctx, r.Name); err == nil {
					address, state = addressOf(&there.Resources[0])
				} else {
					state = "unknown"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", strings.TrimPrefix(r.Name, control.VIPPrefix), address, node, state)
			}
			return w.Flush()
		}),
	}))
}

// addressOf returns the address that r carries, and its state on the node that was asked.
func addressOf(r *control.Resource) (address, state string) {
	if r.Services == nil {
		return "-", "-"
	}
	for _, s := range r.Services.List {
		if text, ok := strings.CutPrefix(s.Name, string(service.KindVIP)+" "); ok {
			address, _, _ = strings.Cut(text, ",")
			return address, s.State
		}
	}
	return "-", "-"
}

func (a *app) vipMoveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "move NAME --to NODE", Short: "Move an address to another node", Args: cobra.ExactArgs(1),
	}
	to := cmd.Flags().String("to", "", "`NODE` that is to hold it (required)")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if *to == "" {
			return control.Usagef("vip move needs --to NODE")
		}
		c, name := a.client(), control.VIPPrefix+args[0]
		st, err := c.Status(ctx, name)
		if err != nil {
			return err
		}
		if primary := st.Resources[0].Primary; primary != "" {
			c = c.On(primary) // who has it has to give it away
		}
		if err := c.Switchover(ctx, name, *to); err != nil {
			return err
		}
		return a.done("moved %s to %s", args[0], *to)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) vipRemoveCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Take an address away", Args: cobra.ExactArgs(1),
		RunE: a.do(func(ctx context.Context, args []string) error {
			name := control.VIPPrefix + args[0]
			if err := a.removeVIP(ctx, name); err != nil {
				return err
			}
			if st, err := a.client().Status(ctx, name); err == nil && len(st.Resources) > 0 {
				return a.done("removed %s; the name is free when every node has let go of it", args[0])
			}
			return a.done("removed %s", args[0])
		}),
	}))
}

// removeVIP takes the address from whoever holds it, and removes the resource that carries it.
func (a *app) removeVIP(ctx context.Context, name string) error {
	c := a.client()
	st, err := c.Status(ctx, name)
	if err != nil {
		return err
	}
	r := &st.Resources[0]
	if r.SizeBytes != control.VIPBytes {
		return control.Errorf(control.CodeRefused, "%s has data of its own: it was not made by lockstep vip", name).
			WithHint("lockstep resource delete %s, if you do not want it", name)
	}
	if r.Primary != "" {
		if err := c.On(r.Primary).Demote(ctx, name); err != nil {
			return err
		}
	}
	return c.DeleteResource(ctx, name)
}
