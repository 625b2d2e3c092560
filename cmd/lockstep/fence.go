package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) fenceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence NODE",
		Short: "Turn a node off and prove it, or test whether that would work",
		Long: `Fence turns NODE off with the devices of the node file, and returns when it is proven and recorded that it is
off. It is asked of the cluster: the ledger names the node that fires, and nobody else does. What waits for
the proof, such as a promotion under the policy stonith, goes on at once. A node does not turn itself off:
ask another one.

When NODE has been started again it registers by itself and is copied to. If it runs although it is
recorded as off, mend the device first; then: lockstep unfence NODE.

Without a proof nothing is recorded but that it failed: the node may be off, and it may be serving.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeOneNode,
	}
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	by := cmd.Flags().String("by", "", "have `NAME` fire (default: the node that is asked, or one that can)")
	_ = cmd.RegisterFlagCompletionFunc("by", a.completeNodes)
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		node := args[0]
		if !*yes {
			if err := a.confirm(fmt.Sprintf("%s will be turned off, with all that runs on it.", node)); err != nil {
				return err
			}
		}
		rec, err := a.client().Fence(ctx, node, control.FenceOptions{By: *by})
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(rec)
		}
		_, err = fmt.Fprintf(a.out, "%s is off, as %s proved: %s\n", rec.Node, rec.By, rec.Text)
		return err
	})
	a.remote(a.withJSON(cmd))
	cmd.AddCommand(a.fenceTestCmd(), a.fenceHistoryCmd())
	return cmd
}

// completeOneNode completes the first argument with the names of nodes.
func (a *app) completeOneNode(cmd *cobra.Command, args []string, line string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeNodes(cmd, args, line)
}

func (a *app) fenceTestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test [NODE]",
		Short: "Find out whether nodes could be turned off, without firing",
		Long: `Test asks every device for NODE what it can be asked without firing, and tells what it found: whether the
device answers, knows the node, and says that it is on. Without NODE, all other nodes are tested. Do it while
they run, and from every node that may have to fire: --node NAME.

The exit code is 0 if each node could be turned off, and 6 otherwise.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeOneNode,
	}
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		c := a.client()
		if len(args) == 0 {
			st, err := c.Status(ctx, "")
			if err != nil {
				return err
			}
			for _, n := range st.Nodes {
				if n.Name != st.Node {
					args = append(args, n.Name)
				}
			}
		}
		reports := make([]control.FenceReport, 0, len(args))
		for _, node := range args {
			rep, err := c.FenceTest(ctx, node)
			if err != nil {
				return err
			}
			reports = append(reports, rep)
		}
		return a.printFenceReports(reports)
	})
	return a.remote(a.withJSON(cmd))
}

// printFenceReports tells what a test found; errDifference if a node could not be turned off.
func (a *app) printFenceReports(reports []control.FenceReport) error {
	var bad error
	for _, r := range reports {
		if !r.Works {
			bad = errDifference
		}
	}
	if a.json {
		if err := a.printJSON(reports); err != nil {
			return err
		}
		return bad
	}
	for _, r := range reports {
		verdict := fmt.Sprintf("%s can turn %s off, as far as can be told without firing", r.By, r.Node)
		if !r.Works {
			verdict = fmt.Sprintf("%s can NOT turn %s off", r.By, r.Node)
		}
		fmt.Fprintln(a.out, verdict)
		for _, f := range r.Findings {
			device := ""
			if f.Device != "" {
				device = f.Device + ": "
			}
			fmt.Fprintf(a.out, "  %-7s  %s%s\n", f.Severity, device, f.Text)
		}
	}
	return bad
}

func (a *app) fenceHistoryCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "history",
		Short: "Tell which nodes are recorded as off, and what was fired",
		Long: `History tells what the ledger records about fences, and every try of every device since each daemon was
started. With --node, it tells of the tries of that node alone.`,
		Args: cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			c := a.client()
			first, err := c.FenceHistory(ctx)
			if err != nil {
				return err
			}
			all, silent := []control.FenceHistory{first}, []string{}
			if a.node == "" {
				st, err := c.Status(ctx, "")
				if err != nil {
					return err
				}
				for _, n := range st.Nodes {
					if n.Name == first.Node {
						continue
					}
					h, err := c.On(n.Name).FenceHistory(ctx)
					if err != nil {
						silent = append(silent, n.Name)
						continue
					}
					all = append(all, h)
				}
			}
			if a.json {
				return a.printJSON(struct {
					Nodes  []control.FenceHistory `json:"nodes"`
					Silent []string               `json:"silent"`
				}{all, silent})
			}
			return printFenceHistory(a.out, all, silent)
		}),
	}))
}

// printFenceHistory shows the record of the first node, which was asked, and the tries of all.
func printFenceHistory(w io.Writer, all []control.FenceHistory, silent []string) error {
	recorded := all[0].Recorded
	if len(recorded) == 0 {
		fmt.Fprintln(w, "The ledger records no fence.")
	}
	for _, f := range recorded {
		text := ""
		if f.Text != "" {
			text = ": " + f.Text
		}
		fmt.Fprintf(w, "%s  %s, by %s, boot %s%s\n", f.Node, f.Phase, f.By, f.Boot, text)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, h := range all {
		for i, t := range h.Attempts {
			if i == 0 {
				fmt.Fprintf(tw, "\nfired by %s\n", h.Node)
			}
			result := t.Text
			if t.Failure != "" {
				result = "failed: " + t.Failure
			}
			fmt.Fprintf(tw, "  %s\t%s %s\tlevel %d, %s, try %d\t%s\t%s\n", t.Begun.UTC().Format(time.DateTime), t.Action, t.Node, t.Level, t.Device, t.Try,
				t.Ended.Sub(t.Begun).Round(time.Millisecond), strings.ReplaceAll(result, "\n", "; "))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(silent) > 0 {
		fmt.Fprintf(w, "\nNot reached, so their tries are not shown: %s.\n", strings.Join(silent, ", "))
	}
	return nil
}

func (a *app) unfenceCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "unfence NODE",
		Short: "Let a node back that was turned off",
		Long: `Unfence has the devices that hold NODE off let it go, where they need to be told, and then has the ledger
forget that it is off. A node that was turned off and has booted since needs none: it registers its new boot by
itself.

Where NODE runs although it is recorded as off, what turns it off has lied, and everything that relied on
the proof may be wrong: mend the device before. A request that nobody has answered yet is taken back, too.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeOneNode,
		RunE: a.do(func(ctx context.Context, args []string) error {
			res, err := a.client().Unfence(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(res)
			}
			for _, t := range res.Attempts {
				fmt.Fprintf(a.out, "%s: %s\n", t.Device, t.Text)
			}
			if res.Was == nil {
				_, err = fmt.Fprintf(a.out, "the ledger records nothing about %s\n", args[0])
			} else {
				_, err = fmt.Fprintf(a.out, "the ledger forgot the fence of %s, which was %s\n", args[0], res.Was.Phase)
			}
			return err
		}),
	}))
}
