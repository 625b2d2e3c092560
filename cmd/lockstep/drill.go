package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/drill"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

// drillFlags are what drill is told besides what every command is.
type drillFlags struct {
	resource, like, lab string
	only                []string
	maxPause            time.Duration
	allowFence, yes     bool
}

func (a *app) drillCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Break the cluster on purpose, under a load that knows what it wrote",
		Long: `Drill makes a small scratch resource beside an existing one, on the same nodes and with the same policy,
writes to it, and then moves its role, kills daemons and isolates its primary, one after the other. After each
event it reads every block back, and tells how long writes stood still and whether every acknowledged one is
there. At the end it compares the replicas and removes the scratch resource.

No data of yours is written to. But what is done to a node is done to all it serves: when its daemon is killed,
its other resources fail over with it. It looks first whether each of them would survive that, and refuses
otherwise; lockstep doctor tells the same. Then it asks; --yes answers.

  switchover  the role is moved to another node, and back
  kill        the daemon of the primary kills itself; systemd starts it again
  isolation   the primary stands still, answers nobody, and then goes on as if nothing had been
  secondary   the daemon of a secondary kills itself

With --resource NAME nothing is made: the role of NAME itself is moved there and back, while its blocks are
read. With --lab DIR the nodes are those of a lab, which kills and starts them; in a lab with --netns,
isolation cuts the network.

The exit code is 0 when everything passed, and 6 otherwise. More is in docs/drill.md.`,
		Args: cobra.NoArgs,
	}
	var o drillFlags
	f := cmd.Flags()
	f.StringVar(&o.like, "like", "", "`NAME` of the resource whose nodes are drilled (default: the only one)")
	f.StringVar(&o.resource, "resource", "", "move the role of this resource itself; `NAME`")
	f.StringArrayVar(&o.only, "only", nil, "`EVENT` to drill; give it once for each (default: all)")
	f.DurationVar(&o.maxPause, "max-pause", 5*time.Second, "an event that lets writes wait for longer has not passed")
	f.BoolVar(&o.allowFence, "allow-fence", false, "nodes may be turned off or reset for real")
	f.StringVar(&o.lab, "lab", "", "`DIR` of a lab that the nodes belong to")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	_ = cmd.MarkFlagDirname("lab")
	_ = cmd.RegisterFlagCompletionFunc("like", a.completeResourceFlag)
	_ = cmd.RegisterFlagCompletionFunc("resource", a.completeResourceFlag)
	var events []string
	for _, e := range drill.Events() {
		events = append(events, string(e))
	}
	_ = cmd.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(events, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = a.stream(func(ctx context.Context, _ []string) error { return a.drill(ctx, &o) })
	a.remote(a.withJSON(cmd))
	for _, name := range []string{"timeout", "node"} {
		if err := f.MarkHidden(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

// completeResourceFlag completes a flag with the names of resources.
func (a *app) completeResourceFlag(cmd *cobra.Command, _ []string, line string) ([]string, cobra.ShellCompDirective) {
	return a.completeResources(cmd, nil, line)
}

func (a *app) drill(ctx context.Context, o *drillFlags) error {
	cfg, err := a.drillConfig(o)
	if err != nil {
		return err
	}
	plan, err := drill.Prepare(ctx, cfg)
	if err != nil {
		return err
	}
	if !o.yes {
		fmt.Fprint(a.err, plan.Text())
		if err := a.confirm("Go on?"); err != nil {
			return err
		}
	}
	rep, err := drill.Run(ctx, cfg, plan)
	if rep.Leftover != "" {
		fmt.Fprintf(a.err, "lockstep: %s\n", rep.Leftover)
	}
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = a.out.Write(renderDrill(&rep, painter(a.tty && a.getenv("NO_COLOR") == "")))
	}
	if err == nil && !rep.Passed {
		err = errDifference
	}
	return err
}

// drillConfig makes sense of the flags.
func (a *app) drillConfig(o *drillFlags) (*drill.Config, error) {
	switch {
	case a.node != "":
		return nil, control.Usagef("a drill strikes several nodes; --node has no meaning for it")
	case o.resource != "" && o.like != "":
		return nil, control.Usagef("--resource %s drills the resource itself, --like %s a scratch one; give one of them", o.resource, o.like)
	case a.json && !o.yes:
		return nil, control.Usagef("--json asks nobody; add --yes")
	case o.maxPause <= 0:
		return nil, control.Usagef("--max-pause %v is not above 0", o.maxPause)
	}
	cfg := &drill.Config{Like: o.like, MaxPause: o.maxPause, AllowFence: o.allowFence}
	if o.resource != "" {
		cfg.Like, cfg.Live, cfg.Events = o.resource, true, []drill.Event{drill.Switchover}
	}
	for _, e := range drill.Events() {
		if o.wants(e) && !cfg.Live {
			cfg.Events = append(cfg.Events, e)
		}
	}
	for _, name := range o.only {
		if !isEvent(name) {
			return nil, control.Usagef("--only %q is no event; these are: %s", name, eventNames())
		}
		if cfg.Live && name != string(drill.Switchover) {
			return nil, control.Usagef("--only %s is drilled on a scratch resource; leave --resource out", name)
		}
	}
	var l *lab.Lab
	if o.lab != "" {
		var err error
		if l, err = lab.Open(o.lab); err != nil {
			return nil, control.Errorf(control.CodeNotFound, "%v", err).WithHint("lockstep lab up --dir %s", o.lab)
		}
		if a.socket == defaultSocket || a.socket == "" {
			a.socket = l.State().Nodes[0].ControlSocket
		}
	}
	cfg.Client = a.client()
	cfg.On = func(node string) *control.Client { return cfg.Client.On(node) }
	cfg.Carrier = drill.Daemons{On: cfg.On}
	if l != nil {
		cfg.Client = l.Client(l.State().Nodes[0].Name)
		cfg.On = l.Client // a node that is isolated is still asked
		cfg.Carrier = drill.Lab{Lab: l, Daemons: drill.Daemons{On: cfg.On}}
	}
	if !a.json {
		cfg.Say = func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
	}
	return cfg, nil
}

// wants reports whether an event was asked for.
func (o *drillFlags) wants(e drill.Event) bool {
	for _, name := range o.only {
		if name == string(e) {
			return true
		}
	}
	return len(o.only) == 0
}

func isEvent(name string) bool {
	for _, e := range drill.Events() {
		if name == string(e) {
			return true
		}
	}
	return false
}

func eventNames() string {
	var out []string
	for _, e := range drill.Events() {
		out = append(out, string(e))
	}
	return strings.Join(out, ", ")
}

// renderDrill writes what came of a drill, in the order in which it happened.
func renderDrill(r *drill.Report, p painter) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "drill on %s", r.Resource)
	if r.Scratch {
		fmt.Fprintf(&b, ", a scratch resource like %s", r.Like)
	}
	b.WriteByte('\n')
	for _, x := range r.Results {
		fmt.Fprintf(&b, "\n%s  %s: %s\n", verdict(p, x.Passed), x.Event, x.Done)
		fmt.Fprintf(&b, "  longest pause %v; as before after %v; %s is primary now\n", short(x.Pause), short(x.Whole), joinOrNone([]string{x.Primary}))
		if r.Scratch {
			fmt.Fprintf(&b, "  %s read back, %d wrong; %d requests answered, %d wrongly\n", count(x.BlocksChecked, "block"), x.Mismatches, x.Answered, x.WrongAnswers)
		} else {
			fmt.Fprintf(&b, "  %d reads answered, %d wrongly\n", x.Answered, x.WrongAnswers)
		}
		b.WriteString(wrap("  ", x.Meaning))
		for _, d := range x.Details {
			b.WriteString(wrap("  - ", d))
		}
	}
	b.WriteByte('\n')
	if r.Scratch && r.Problem == "" {
		fmt.Fprintf(&b, "the replicas were compared at the end: %s\n", count(r.Differences, "difference"))
	}
	if r.Problem != "" {
		b.WriteString(wrap("ended early: ", r.Problem))
	}
	fmt.Fprintf(&b, "%s\n", verdict(p, r.Passed))
	return b.Bytes()
}

func verdict(p painter, passed bool) string {
	if passed {
		return p.paint(colourGood, "PASSED")
	}
	return p.paint(colourBad, "FAILED")
}
