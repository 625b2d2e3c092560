package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// defaultSocket is the control socket of a node whose file does not name another data_dir.
const defaultSocket = "/var/lib/lockstep/control.sock"

// completionTimeout bounds what a press of the tab key waits for.
const completionTimeout = 2 * time.Second

// app is one run of the program.
type app struct {
	env
	started bool // the command line was accepted; errors are no longer about usage

	socket  string
	node    string
	timeout time.Duration
	json    bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lockstep",
		Short: "Replicated block devices",
		Long: `Lockstep keeps block devices equal on several nodes and lets one node at a time use each of them.

` + exitHelp + `

Environment:
  LOCKSTEP_SOCKET  control socket of the node to ask, when --socket is not given
  NO_COLOR         when set to anything, nothing is coloured`,
		Version:           control.Version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Args:              cobra.ArbitraryArgs,
		RunE:              a.group,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return err })
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(a.extra()...)
	root.AddCommand(a.attachCmds()...)
	root.AddCommand(
		a.resourceCmd(),
		a.promoteCmd(), a.demoteCmd(), a.switchoverCmd(),
		a.pauseFailoverCmd(), a.resumeFailoverCmd(),
		a.statusCmd(), a.eventsCmd(),
		a.doctorCmd(), a.linkCheckCmd(), a.drillCmd(),
		a.fenceCmd(), a.unfenceCmd(),
		a.resolveCmd(), a.confirmDownCmd(), a.ledgerCmd(),
		a.attachmentsCmd(), a.attachmentCmd(),
		a.connectCmd(), a.disconnectCmd(), a.invalidateCmd(), a.replicaCmd(), a.resyncCmd(), a.verifyCmd(),
		a.vipCmd(),
		a.clusterCmd(),
		a.labCmd(),
		a.versionCmd(),
	)
	return root
}

// remote adds the flags of a command that asks a node.
func (a *app) remote(cmd *cobra.Command) *cobra.Command {
	socket := a.getenv("LOCKSTEP_SOCKET")
	f := cmd.Flags()
	f.StringVar(&a.socket, "socket", "", "control `PATH` of the node to ask (default $LOCKSTEP_SOCKET or "+defaultSocket+")")
	f.StringVar(&a.node, "node", "", "have `NAME` carry it out, through the node that is asked")
	f.DurationVar(&a.timeout, "timeout", control.DefaultCallTimeout, "give up after so long; 0 waits for ever")
	_ = cmd.RegisterFlagCompletionFunc("node", a.completeNodes)
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if a.socket == "" {
			a.socket = socket
		}
		if a.socket == "" {
			a.socket = defaultSocket
		}
		return inner(cmd, args)
	}
	return cmd
}

// withJSON adds --json.
func (a *app) withJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON, errors too")
	return cmd
}

// client returns a client of the node that the flags name.
func (a *app) client() *control.Client {
	socket := a.socket
	if socket == "" { // completion runs before the flags are completed
		socket = a.getenv("LOCKSTEP_SOCKET")
	}
	if socket == "" {
		socket = defaultSocket
	}
	c := control.NewClient(socket)
	if a.node != "" {
		c = c.On(a.node)
	}
	return c
}

// onPrimary returns a client whose calls the primary of a resource carries out, unless --node names
// another node. Where no primary is known, the node that is asked gets them and says so itself.
func (a *app) onPrimary(ctx context.Context, resource string) (*control.Client, error) {
	c := a.client()
	if a.node != "" {
		return c, nil
	}
	st, err := c.Status(ctx, resource)
	if err != nil {
		return nil, err
	}
	for _, r := range st.Resources {
		if r.Name == resource && r.Primary != "" && r.Primary != st.Node {
			return c.On(r.Primary), nil
		}
	}
	return c, nil
}

// do makes the RunE of a command: from here on, errors are no longer about usage. The context ends
// with --timeout.
func (a *app) do(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if a.timeout > 0 && cmd.Flags().Lookup("timeout") != nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, a.timeout)
			defer cancel()
		}
		return a.stream(func(context.Context, []string) error { return fn(ctx, args) })(cmd, args)
	}
}

// stream is do for a command that runs until it is interrupted.
func (a *app) stream(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		err := fn(cmd.Context(), args)
		if errors.Is(err, control.ErrUsage) {
			return usageError{cmd: cmd.CommandPath(), err: err}
		}
		return err
	}
}

// group is the RunE of a command that only has commands.
func (a *app) group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += fmt.Sprintf("; did you mean %q?", near[0])
	}
	return errors.New(msg)
}

// done prints the outcome of a change: text for people, or {"ok":true}.
func (a *app) done(format string, args ...any) error {
	if a.json {
		return a.printJSON(struct {
			OK bool `json:"ok"`
		}{true})
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// completeResources completes the first argument with the names of resources.
func (a *app) completeResources(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, r := range a.completionStatus(cmd).Resources {
		names = append(names, r.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeNodes completes a flag with the names of nodes.
func (a *app) completeNodes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, n := range a.completionStatus(cmd).Nodes {
		names = append(names, n.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completionStatus asks for the status; when nobody answers, there is nothing to offer.
func (a *app) completionStatus(cmd *cobra.Command) control.Status {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	c := a.client()
	st, err := c.Status(ctx, "")
	if err != nil {
		return control.Status{}
	}
	return st
}

func (a *app) versionCmd() *cobra.Command {
	return a.withJSON(&cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: a.stream(func(context.Context, []string) error {
			if a.json {
				return a.printJSON(map[string]string{
					"version": control.Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(a.out, "lockstep %s (%s, %s/%s)\n", control.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	})
}
