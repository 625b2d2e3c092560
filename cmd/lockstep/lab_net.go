package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

func (a *app) labCutCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cut NODE NODE --dir DIR",
		Short: "Lose all packets between two nodes, silently",
		Long: `Cut loses every packet between two nodes, or between a node and the client. Nobody is told: established
connections stall and go on after lab heal. The nodes still reach all others. It needs a lab made with
--netns.`,
		Args: cobra.ExactArgs(2),
	}
	oneWay := cmd.Flags().Bool("one-way", false, "lose only what the first sends to the second")
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, args []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Cut(args[0], args[1], *oneWay); err != nil {
			return err
		}
		if *oneWay {
			return a.done("what %s sends to %s is lost", args[0], args[1])
		}
		return a.done("what %s and %s send to each other is lost", args[0], args[1])
	})
}

func (a *app) labIsolateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "isolate NODE --dir DIR",
		Short: "Lose all packets between a node and everybody else, silently",
		Long: `Isolate loses every packet between a node and all others, the client among them. To leave it the client,
cut it off from the other nodes one by one. It needs a lab made with --netns.`,
		Args: cobra.ExactArgs(1),
	}
	sent := cmd.Flags().Bool("send-only", false, "lose only what the node sends; it still hears the others")
	received := cmd.Flags().Bool("receive-only", false, "lose only what is sent to the node; the others still hear it")
	cmd.MarkFlagsMutuallyExclusive("send-only", "receive-only")
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, args []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		what, text := lab.BothWays, "what %s sends and what is sent to it is lost"
		switch {
		case *sent:
			what, text = lab.Sent, "what %s sends is lost"
		case *received:
			what, text = lab.Received, "what is sent to %s is lost"
		}
		if err := l.Isolate(args[0], what); err != nil {
			return err
		}
		return a.done(text, args[0])
	})
}

func (a *app) labLinkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link NODE up|down --dir DIR",
		Short: "Pull a node's network cable, or plug it in",
		Long: `Link takes the network link of a node down, as when its cable is pulled: the node sees that its carrier
is gone. It needs a lab made with --netns.`,
		Args: cobra.ExactArgs(2),
	}
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, args []string) error {
		if args[1] != "up" && args[1] != "down" {
			return control.Usagef("a link goes up or down, not %q", args[1])
		}
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Link(args[0], args[1] == "up"); err != nil {
			return err
		}
		return a.done("the link of %s is %s", args[0], args[1])
	})
}

func (a *app) labHealCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "heal [NODE [NODE]] --dir DIR",
		Short: "Mend the network: all of it, that of a node, or between two",
		Long: `Heal ends what lab cut, lab isolate and lab link broke: without a node everything; with one, what is lost
from it and to it, and its link; with two, what is lost between them. Nodes that are paused or killed
stay so.`,
		Args: cobra.MaximumNArgs(2),
	}
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, args []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Heal(args...); err != nil {
			return err
		}
		switch len(args) {
		case 0:
			return a.done("the network is whole")
		case 1:
			return a.done("nothing of %s's is lost any more", args[0])
		}
		return a.done("nothing between %s and %s is lost any more", args[0], args[1])
	})
}

func (a *app) labExecCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE --dir DIR -- COMMAND...",
		Short: "Run a command in the network of a node, or of the client",
		Long: `Exec runs a command with the network of a node or, for NODE "client", of a client that reaches all nodes.
Files and processes are this machine's. The exit code is the command's. It needs a lab made with --netns.`,
		Args: cobra.MinimumNArgs(2),
	}
	return a.labLongVerb(cmd, func(_ context.Context, dir string, args []string) error {
		if at := cmd.ArgsLenAtDash(); at >= 0 && at != 1 {
			return control.Usagef("one node, then --, then the command")
		}
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		return l.Become(args[0], args[1:], os.Environ())
	})
}

// labStatus shows a lab to people.
func labStatus(st *lab.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s\n", st.Dir, st.Network)
	for _, n := range st.Nodes {
		what := string(n.Process)
		if n.PID != 0 {
			what += fmt.Sprintf(" (process %d)", n.PID)
		}
		if n.Link == "" {
			fmt.Fprintf(&b, "  %-6s %s\n", n.Name, what)
			continue
		}
		line := fmt.Sprintf("  %-6s %-13s link %-4s %s", n.Name, n.Addr, n.Link, what)
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
	}
	for _, x := range st.Lost {
		fmt.Fprintf(&b, "  lost: %s\n", x)
	}
	return b.String()
}
