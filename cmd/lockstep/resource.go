package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) resourceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resource",
		Short: "Create, list, change and delete resources",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.group,
	}
	cmd.AddCommand(a.createCmd(), a.listCmd(), a.resizeCmd(), a.setCmd(), a.clearCmd(), a.deleteCmd())
	return cmd
}

func (a *app) createCmd() *cobra.Command {
	var size config.Size
	var replicas, metas []string
	var source string
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE --replica NODE=PATH...",
		Short: "Create a resource and its replicas",
		Long: `Create makes a resource with one replica per --replica, and returns when the cluster has recorded it.

Without --source, every PATH must be free: the files are made, read as zeros, and are in sync at once.
With --source, that node's PATH is an existing file or device whose data is taken in, and the other
replicas are copied from it.

The metadata of a replica lies in PATH.meta unless --meta says otherwise. SIZE is a whole number of
bytes or of KiB, MiB, GiB or TiB (K, M, G and T mean the same), and a multiple of 4KiB.`,
		Example: `  lockstep resource create r0 --size 1GiB --replica n1=/srv/r0.img --replica n2=/srv/r0.img
  lockstep resource create r1 --size 40GiB --source n1 --replica n1=/dev/vg0/db --replica n2=/dev/vg0/db \
      --meta n1=/var/lib/lockstep/r1.meta --meta n2=/var/lib/lockstep/r1.meta`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of the device, for example 1GiB (required)")
	f.StringArrayVar(&replicas, "replica", nil, "`NODE=PATH` of a replica; give it once for each (required)")
	f.StringArrayVar(&metas, "meta", nil, "`NODE=PATH` of a replica's metadata (default PATH.meta)")
	f.StringVar(&source, "source", "", "`NODE` whose existing data is taken in")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		req := control.CreateRequest{Resource: args[0], SizeBytes: int64(size), Source: source}
		var err error
		if req.Replicas, err = parseReplicas(replicas, metas); err != nil {
			return err
		}
		if err := req.Validate(); err != nil {
			return err
		}
		if err := a.client().CreateResource(ctx, req); err != nil {
			return err
		}
		return a.done("created %s, %v on %d nodes; next: lockstep promote %s", req.Resource, size, len(req.Replicas), req.Resource)
	})
	return a.remote(a.withJSON(cmd))
}

// parseReplicas reads NODE=PATH pairs.
func parseReplicas(replicas, metas []string) ([]control.ReplicaCreate, error) {
	var out []control.ReplicaCreate
	for _, text := range replicas {
		node, path, ok := strings.Cut(text, "=")
		if !ok || path == "" {
			return nil, control.Usagef("--replica %q is not NODE=PATH", text)
		}
		out = append(out, control.ReplicaCreate{Node: node, DataPath: path, MetaPath: path + ".meta"})
	}
	given := map[string]bool{}
next:
	for _, text := range metas {
		node, path, ok := strings.Cut(text, "=")
		if !ok || path == "" {
			return nil, control.Usagef("--meta %q is not NODE=PATH", text)
		}
		if given[node] {
			return nil, control.Usagef("--meta is given twice for node %s", node)
		}
		given[node] = true
		for i := range out {
			if out[i].Node == node {
				out[i].MetaPath = path
				continue next
			}
		}
		return nil, control.Usagef("--meta names node %s, which has no --replica", node)
	}
	return out, nil
}

func (a *app) listCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List resources",
		Args:    cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			st, err := a.client().Status(ctx, "")
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(st.Resources)
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "RESOURCE\tSIZE\tPRIMARY\tEPOCH\tI/O\tIN SYNC")
			for _, r := range st.Resources {
				primary := r.Primary
				if primary == "" {
					primary = "-"
				}
				fmt.Fprintf(w, "%s\t%v\t%s\t%d\t%s\t%s\n", r.Name, config.Size(r.SizeBytes), primary, r.Epoch, r.IO.State, strings.Join(r.InSync, ","))
			}
			return w.Flush()
		}),
	}))
}

func (a *app) resizeCmd() *cobra.Command {
	var size config.Size
	cmd := &cobra.Command{
		Use:               "resize NAME --size SIZE",
		Short:             "Grow a resource",
		Long:              "Resize grows a resource to SIZE, on line or off line. The new space reads as zeros. Shrinking is refused.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	cmd.Flags().Var(&size, "size", "new size, for example 2GiB (required)")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := control.CheckSize(int64(size)); err != nil {
			return err
		}
		c, err := a.onPrimary(ctx, args[0])
		if err != nil {
			return err
		}
		if err := c.ResizeResource(ctx, args[0], int64(size)); err != nil {
			return err
		}
		return a.done("resized %s to %v", args[0], size)
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) deleteCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Forget a resource; its files stay",
		Long: `Delete makes the cluster forget a resource that is primary nowhere. Data and metadata files stay where they
are. A resource that is attached is not deleted, unless --force ends its attachments first.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	force := cmd.Flags().Bool("force", false, "end its attachments first; devices that show it fail")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		c := a.client()
		if *force {
			if err := dropAll(ctx, c, args[0]); err != nil {
				return err
			}
		}
		if err := c.DeleteResource(ctx, args[0]); err != nil {
			return err
		}
		return a.done("deleted %s; its data and metadata files are still there", args[0])
	})
	return a.remote(a.withJSON(cmd))
}
