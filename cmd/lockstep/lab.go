package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

// labTimeout bounds what a lab command waits for.
const labTimeout = 2 * time.Minute

func (a *app) labCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a cluster of processes on this machine, to try and to drill",
		Long: `Lab runs a whole cluster as processes of this machine, with its files in one directory. Kill its nodes,
start them again, and look at what lockstep does about it.

Nodes share the loopback interface, unless the lab is made with --netns, as root: then each has a
network of its own, whose cables you can pull. What this looks like is told in docs/lab.md.`,
		Args: cobra.ArbitraryArgs,
		RunE: a.group,
	}
	cmd.AddCommand(
		a.labUpCmd(), a.labInfoCmd(), a.labStatusCmd(), a.labStartCmd(), a.labDownCmd(),
		a.labKillCmd(), a.labPauseCmd(), a.labResumeCmd(),
		a.labCutCmd(), a.labIsolateCmd(), a.labLinkCmd(), a.labHealCmd(), a.labExecCmd(),
		a.labFenceAgentCmd(),
	)
	return cmd
}

// labVerb finishes a lab command: --dir, which must be given, and a deadline.
func (a *app) labVerb(cmd *cobra.Command, fn func(ctx context.Context, dir string, args []string) error) *cobra.Command {
	return a.labLongVerb(cmd, func(ctx context.Context, dir string, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, labTimeout)
		defer cancel()
		return fn(ctx, dir, args)
	})
}

// labLongVerb is labVerb for a command that takes as long as its user wants.
func (a *app) labLongVerb(cmd *cobra.Command, fn func(ctx context.Context, dir string, args []string) error) *cobra.Command {
	dir := cmd.Flags().String("dir", "", "`DIR` of the lab (required)")
	_ = cmd.MarkFlagDirname("dir")
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		if *dir == "" {
			return control.Usagef("a lab needs a directory: --dir DIR")
		}
		err := fn(ctx, *dir, args)
		if errors.Is(err, lab.ErrNoLab) {
			return control.Errorf(control.CodeNotFound, "%v", err).WithHint("lockstep lab up --dir %s", *dir)
		}
		return err
	})
	return cmd
}

func (a *app) labUpCmd() *cobra.Command {
	opts := lab.Options{}
	size := 256 * config.MiB
	cmd := &cobra.Command{
		Use:   "up --dir DIR",
		Short: "Make a lab, or start one that is stopped, and wait until it is ready",
		Args:  cobra.NoArgs,
	}
	f := cmd.Flags()
	f.Var(&size, "size", "size of the resource")
	f.IntVar(&opts.DataNodes, "data-nodes", 2, "nodes with data, 1 to 7: n1, n2, ...")
	f.BoolVar(&opts.Witness, "witness", true, "a further node, w, that votes and holds no data")
	f.StringVar(&opts.Resource, "resource", "r0", "`NAME` of the resource")
	f.BoolVar(&opts.Netns, "netns", false, "give each node a network namespace of its own, to break the network; needs root")
	f.BoolVar(&opts.TLS, "tls", false, "form it with cluster init, token and join: mutual TLS instead of a shared key")
	f.BoolVar(&opts.Fence, "fence", false, "give the nodes a fence agent that kills the others for real")
	return a.labVerb(a.withJSON(cmd), func(ctx context.Context, dir string, _ []string) error {
		opts.Dir, opts.SizeBytes = dir, int64(size)
		if opts.DataNodes == 0 { // which the library takes for its default
			return control.Usagef("a lab has 1 to 7 data nodes")
		}
		opts.Logf = func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
		l, err := lab.Up(ctx, opts)
		if err != nil {
			return err
		}
		st := l.State()
		if a.json {
			return a.printJSON(st)
		}
		primary := st.Nodes[0].Name
		if now, err := l.Client(primary).Status(ctx, st.Resource); err == nil && len(now.Resources) > 0 && now.Resources[0].Primary != "" {
			primary = now.Resources[0].Primary
		}
		_, err = fmt.Fprint(a.out, labHints(&st, primary))
		return err
	})
}

// labHints tells what to try with a lab that is up.
func labHints(st *lab.State, primary string) string {
	at, other := st.Nodes[0], ""
	var data []string
	for _, n := range st.Nodes {
		switch {
		case n.Name == primary:
			at = n
		case other == "" && !n.Witness:
			other = n.Name
		}
		if !n.Witness {
			data = append(data, n.Name)
		}
	}
	dir := shellQuote(st.Dir)
	var b strings.Builder
	fmt.Fprintf(&b, "%s is up: %v on %s, primary %s. Try:\n\n", st.Resource, config.Size(st.SizeBytes), strings.Join(data, ", "), at.Name)
	fmt.Fprintf(&b, "  export LOCKSTEP_SOCKET=%s\n", shellQuote(at.ControlSocket))
	fmt.Fprintf(&b, "  lockstep status --watch\n")
	fmt.Fprintf(&b, "  nbdinfo %s\n", shellQuote(at.NBDUnixURI))
	if st.Net == nil { // else it can be reached from within the lab only
		fmt.Fprintf(&b, "  nbdcopy FILE %s\n", shellQuote(at.NBDTCPURI))
	}
	if st.Net != nil && other != "" {
		fmt.Fprintf(&b, "  lockstep lab exec client --dir %s -- nbdinfo %s\n", dir, shellQuote(at.NBDTCPURI))
		fmt.Fprintf(&b, "  lockstep lab cut %s %s --dir %s\n", at.Name, other, dir)
		fmt.Fprintf(&b, "  lockstep lab heal --dir %s\n", dir)
	}
	if other != "" {
		fmt.Fprintf(&b, "  lockstep lab kill %s --dir %s\n", other, dir)
		fmt.Fprintf(&b, "  lockstep lab start %s --dir %s\n", other, dir)
		fmt.Fprintf(&b, "  lockstep switchover %s --to %s\n", st.Resource, other)
	}
	fmt.Fprintf(&b, "  lockstep lab info --json --dir %s\n", dir)
	fmt.Fprintf(&b, "  lockstep lab down --dir %s\n", dir)
	return b.String()
}

// shellQuote quotes s for a shell where that is needed.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:=+,@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (a *app) labInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info --dir DIR", Short: "Tell the processes, addresses and files of a lab", Args: cobra.NoArgs}
	return a.labVerb(a.withJSON(cmd), func(_ context.Context, dir string, _ []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		st, err := l.Live()
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(st)
		}
		for _, n := range st.Nodes {
			state := "stopped"
			if n.PID != 0 {
				state = fmt.Sprintf("running as process %d", n.PID)
			}
			fmt.Fprintf(a.out, "%s %s\n  socket %s\n  log    %s\n", n.Name, state, n.ControlSocket, n.Log)
			if !n.Witness {
				fmt.Fprintf(a.out, "  data   %s\n  nbd    %s\n         %s\n", n.DataPath, n.NBDUnixURI, n.NBDTCPURI)
			}
			if n.Namespace != "" {
				fmt.Fprintf(a.out, "  netns  %s\n", n.Namespace)
			}
		}
		return nil
	})
}

func (a *app) labStartCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start NODE --dir DIR",
		Short: "Start a node again and wait until it is ready",
		Long: `Start starts a node that was killed, with its host where that was killed, and waits until it is ready.
What is cut stays cut.`,
		Args: cobra.ExactArgs(1),
	}
	return a.labVerb(a.withJSON(cmd), func(ctx context.Context, dir string, args []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Start(ctx, args[0]); err != nil {
			return err
		}
		return a.done("%s is ready", args[0])
	})
}

func (a *app) labDownCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down --dir DIR",
		Short: "Stop every node; the files stay",
		Long: `Down sends SIGTERM to every node and, after 10 s, SIGKILL. The files stay; lab up starts the nodes again.
Network namespaces go, with all that was broken in them.`,
		Args: cobra.NoArgs,
	}
	return a.labVerb(a.withJSON(cmd), func(ctx context.Context, dir string, _ []string) error {
		l, err := lab.Open(dir)
		if err != nil {
			return err
		}
		if err := l.Down(ctx); err != nil {
			return err
		}
		return a.done("the lab is down; its files are in %s", l.State().Dir)
	})
}
