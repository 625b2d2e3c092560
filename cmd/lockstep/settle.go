package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// force promotes by force and prints what was given up.
func (a *app) force(ctx context.Context, name string, down []string) error {
	res, err := a.client().ForcePromote(ctx, name, control.ForceOptions{ConfirmDown: down})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(res)
	}
	where := "this node"
	if a.node != "" {
		where = a.node
	}
	fmt.Fprintf(a.out, "promoted %s by force: %s is primary of epoch %d and alone in sync\n", name, where, res.Epoch)
	_, err = fmt.Fprintf(a.out, "given up: %s\n", lossText(res.Lost))
	return err
}

func (a *app) resolveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resolve NAME --keep NODE",
		Short: "Settle which of two histories is kept",
		Long: `Resolve keeps the data of NODE and gives up every replica that holds another history; lockstep status
shows both timelines. Nothing is ever merged. What is given up is copied anew from the primary.

Before, a copy of each backing file that is given up is made beside it, as FILE.undo-GENERATION. That
takes no time and no space where the file system can share blocks between files (btrfs, xfs); elsewhere
nothing is done without --copy, which copies the bytes, or --no-undo, which keeps nothing.

If the ledger records the other history, its primary must be demoted first. NODE then becomes primary by
force, and the ledger records that, too.

It shows what will be lost and asks; --yes answers. It runs until it is through. If it is interrupted, the
same command goes on with what is left.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	f := cmd.Flags()
	keep := f.String("keep", "", "`NODE` whose data is kept (required)")
	_ = cmd.RegisterFlagCompletionFunc("keep", a.completeNodes)
	var opts control.ResolveOptions
	f.StringVar(&opts.Undo.Dir, "undo-dir", "", "absolute `DIR` for the copy, on the node that makes it (default: beside the backing)")
	f.BoolVar(&opts.Undo.Copy, "copy", false, "copy the bytes where blocks cannot be shared")
	f.BoolVar(&opts.Undo.None, "no-undo", false, "make no copy of what is given up")
	yes := f.BoolP("yes", "y", false, "do not ask")
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		switch {
		case *keep == "":
			return control.Usagef("resolve needs --keep NODE")
		case a.node != "" && a.node != *keep:
			return control.Usagef("--keep %s and --node %s name two nodes; the one that is kept carries it out", *keep, a.node)
		case opts.Undo.None && (opts.Undo.Copy || opts.Undo.Dir != ""):
			return control.Usagef("--no-undo makes no copy; --copy and --undo-dir say how to make one")
		case a.json && !*yes:
			return control.Usagef("--json asks nobody; add --yes")
		}
		return a.resolve(ctx, args[0], *keep, opts, *yes)
	})
	a.remote(a.withJSON(cmd))
	if err := f.MarkHidden("timeout"); err != nil {
		panic(err)
	}
	return cmd
}

func (a *app) resolve(ctx context.Context, name, keep string, opts control.ResolveOptions, yes bool) error {
	c := a.client().On(keep)
	if !yes {
		look := opts
		look.DryRun = true
		plan, err := c.Resolve(ctx, name, look)
		if err != nil {
			return err
		}
		a.printPlan(name, plan, opts.Undo)
		if err := a.confirm("Give that up?"); err != nil {
			return err
		}
		opts.Expect = []control.Expected{}
		for _, l := range plan.Lost {
			e := control.Expected{Node: l.Node, Newest: l.Fork}
			if n := len(l.Generations); n > 0 {
				e.Newest = l.Generations[n-1].ID
			}
			opts.Expect = append(opts.Expect, e)
		}
	}
	res, err := c.Resolve(ctx, name, opts)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(res)
	}
	if res.Forced {
		fmt.Fprintf(a.out, "%s: %s is primary, by force; its history is the recorded one now\n", name, keep)
	}
	for _, l := range res.Lost {
		fmt.Fprintf(a.out, "given up on %s: %s\n", l.Node, lossText(l))
		if l.Undo != "" {
			fmt.Fprintf(a.out, "  undo copy: %s on %s; remove it when you need it no more\n", l.Undo, l.Node)
		}
	}
	printSilent(a.out, res.Silent)
	_, err = fmt.Fprintf(a.out, "%s: the data of %s is kept and copied to the others; watch it with: lockstep status %s --watch\n", name, keep, name)
	return err
}

// printPlan shows what a resolve would do, where the question stands.
func (a *app) printPlan(name string, plan control.ResolveResult, undo control.Undo) {
	fmt.Fprintf(a.err, "%s: the data of %s will be kept.\n", name, plan.Keep)
	if plan.Forced {
		fmt.Fprintf(a.err, "The ledger records the other history: %s becomes primary by force.\n", plan.Keep)
	}
	for _, l := range plan.Lost {
		fmt.Fprintf(a.err, "Given up on %s: %s.\n", l.Node, lossText(l))
	}
	printSilent(a.err, plan.Silent)
	switch {
	case undo.None:
		fmt.Fprintln(a.err, "No copy of it will be kept.")
	case undo.Dir != "":
		fmt.Fprintf(a.err, "A copy of each backing goes to %s on its node first.\n", undo.Dir)
	default:
		fmt.Fprintln(a.err, "A copy of each backing is made beside it first.")
	}
}

// printSilent names the nodes of which nothing is known.
func printSilent(w io.Writer, silent []string) {
	if len(silent) > 0 {
		fmt.Fprintf(w, "Silent, and left as they are: %s. Give the command again when they are back, if they have diverged.\n", strings.Join(silent, ", "))
	}
}

// confirm asks a question that only "yes" answers.
func (a *app) confirm(question string) error {
	fmt.Fprintf(a.err, "%s Type yes: ", question)
	answer := ""
	if a.in != nil {
		line, err := bufio.NewReader(a.in).ReadString('\n')
		if err == nil || line != "" {
			answer = strings.TrimSpace(line)
		}
	}
	if answer != "yes" {
		fmt.Fprintln(a.err)
		return control.Errorf(control.CodeRefused, "not confirmed, so nothing was done").WithHint("the same command again, or with --yes")
	}
	return nil
}

func (a *app) confirmDownCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:   "confirm-down NODE",
		Short: "Say that the other node of a pair is down",
		Long: `Confirm-down is for two nodes without a witness, when one is lost: neither alone is a majority, so the
other one waits. It is your word that NODE is down and will not write again, because you have seen it
without power or have cut it off. The node that is asked then goes on alone, in a new incarnation of the
ledger. If your word is wrong, both nodes write, and one of the two histories will have to be thrown away.

It is refused unless this very process held every replica equal to that of NODE when the connection
broke, without a restart or a pause since: otherwise NODE may have gone on alone before.

When NODE returns it gives its ledger up, which is kept beside the new one, and is copied to.`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, line string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNodes(cmd, args, line)
		},
		RunE: a.do(func(ctx context.Context, args []string) error {
			if err := a.client().ConfirmDown(ctx, args[0]); err != nil {
				return err
			}
			return a.done("the ledger goes on without %s; where it was primary: lockstep promote NAME --confirm-peer-down", args[0])
		}),
	}))
}

func (a *app) ledgerCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Decide between two ledgers of one cluster",
		Args:  cobra.ArbitraryArgs,
		RunE:  a.group,
	}
	verb := func(use, short, long, done string, keep bool) {
		cmd.AddCommand(a.remote(a.withJSON(&cobra.Command{
			Use: use, Short: short, Long: long, Args: cobra.NoArgs,
			RunE: a.do(func(ctx context.Context, _ []string) error {
				if err := a.client().DecideLedger(ctx, keep); err != nil {
					return err
				}
				return a.done("%s", done)
			}),
		})))
	}
	verb("keep", "Keep the ledger of a node that met another one",
		`When both nodes of a pair went on alone, there are two ledgers, and both nodes stop when they meet. Keep
lets the node that is asked go on with its own; type it on every node of the ledger that is to be kept.`,
		"this node's ledger is kept; on the nodes of the other one: lockstep ledger give-up", true)
	verb("give-up", "Give up the ledger of a node that met another one",
		`Give-up sets the ledger of the node that is asked aside, as ledger.db.INCARNATION, and the node joins the
other one. Replicas keep their data; where their history is another one, lockstep status shows it.`,
		"this node's ledger is set aside; it joins the other one by itself", false)
	return cmd
}
