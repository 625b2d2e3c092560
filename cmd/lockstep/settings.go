package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) setCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change how a resource behaves when something fails",
		Long: `Set changes the settings that are named and leaves the others as they are. It works while the
resource is in use.

  --failover auto      the cluster promotes a fit replica when the primary is lost
             manual    only an operator promotes
  --fencing  lease     a new primary waits until the lease of the old one has run out
             stonith   it also waits for the proof that the old one's node is off
             manual    the same, but nobody is turned off: an operator says that it is down
  --on-no-quorum freeze    a primary that reaches neither peer nor quorum lets requests wait
                 io-error  it answers them with an I/O error
  --freeze-deadline 30s    clients of a primary that is frozen for so long are disconnected; 0: never
  --reads lease    reads are answered under the lease
          confirm  each read asks a peer first: this also covers a host whose clock stands still
  --priority n1=10         of several fit replicas, the one with the highest priority is promoted

` + servicesHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	f := cmd.Flags()
	var text struct{ failover, fencing, onNoQuorum, reads string }
	var deadline, lease time.Duration
	var impact int
	var priorities []string
	f.StringVar(&text.failover, "failover", "", "who promotes: auto or manual")
	f.StringVar(&text.fencing, "fencing", "", "what must be proven before another node takes over: lease, stonith or manual")
	f.StringVar(&text.onNoQuorum, "on-no-quorum", "", "what a primary without peer and quorum does: freeze or io-error")
	f.StringVar(&text.reads, "reads", "", "what a read rests on: lease or confirm")
	f.DurationVar(&deadline, "freeze-deadline", 0, "disconnect the clients of a primary that is frozen for so long; 0: never")
	f.DurationVar(&lease, "lease", 0, "how long a primary may serve after the last word of its peers")
	f.IntVar(&impact, "resync-impact", 0, "how much a resync may raise the latency of applications, in percent")
	follow := servicesFlags(f)
	f.StringArrayVar(&priorities, "priority", nil, "`NODE=NUMBER`; give it once for each node")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		s := control.Settings{
			Failover: ifGiven(f, "failover", text.failover), Fencing: ifGiven(f, "fencing", text.fencing), OnNoQuorum: ifGiven(f, "on-no-quorum", text.onNoQuorum),
			FreezeDeadline: ifGiven(f, "freeze-deadline", deadline), Lease: ifGiven(f, "lease", lease), ResyncImpact: ifGiven(f, "resync-impact", impact),
		}
		if f.Changed("reads") {
			confirm := text.reads == "confirm"
			if !confirm && text.reads != "lease" {
				return control.Usagef("--reads %q is neither lease nor confirm", text.reads)
			}
			s.ReadsConfirm = &confirm
		}
		var err error
		if s.Priorities, err = parsePriorities(priorities); err != nil {
			return err
		}
		if s.Services, err = follow(); err != nil {
			return err
		}
		if err := s.Validate(); err != nil {
			return err
		}
		if err := a.client().Set(ctx, args[0], s); err != nil {
			return err
		}
		return a.done("changed %s", args[0])
	})
	return a.remote(a.withJSON(cmd))
}

// ifGiven returns a pointer to the value of a flag that was given, else nil.
func ifGiven[T any](f *pflag.FlagSet, name string, v T) *T {
	if !f.Changed(name) {
		return nil
	}
	return &v
}

// parsePriorities reads NODE=NUMBER pairs.
func parsePriorities(texts []string) (map[string]int, error) {
	out := map[string]int{}
	for _, text := range texts {
		node, value, ok := strings.Cut(text, "=")
		n, err := strconv.Atoi(value)
		if !ok || err != nil {
			return nil, control.Usagef("--priority %q is not NODE=NUMBER", text)
		}
		if _, twice := out[node]; twice {
			return nil, control.Usagef("--priority is given twice for node %s", node)
		}
		out[node] = n
	}
	return out, nil
}

func (a *app) pauseFailoverCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause-failover NAME",
		Short: "Keep the cluster from promoting by itself, for maintenance",
		Long: `While failover is paused, a resource that loses its primary stays without one until an operator
promotes a node. The primary itself goes on, and loses or takes back replicas as always.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	why := cmd.Flags().String("why", "", "`TEXT` for the next operator")
	cmd.RunE = a.do(func(ctx context.Context, args []string) error {
		if err := a.client().PauseFailover(ctx, args[0], true, *why); err != nil {
			return err
		}
		return a.done("paused failover of %s; next: lockstep resume-failover %s", args[0], args[0])
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) resumeFailoverCmd() *cobra.Command {
	return a.remote(a.withJSON(&cobra.Command{
		Use:               "resume-failover NAME",
		Short:             "Let the cluster promote by itself again",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: a.do(func(ctx context.Context, args []string) error {
			if err := a.client().PauseFailover(ctx, args[0], false, ""); err != nil {
				return err
			}
			return a.done("resumed failover of %s", args[0])
		}),
	}))
}
