package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) linkCheckCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link-check PEER",
		Short: "Measure the way to another node, and whether its lease would hold",
		Long: `Link-check has the node that is asked send probes to PEER, over the same authenticated connections that
beacons take, and tells how long they take there and back, how many are late or lost, and the longest time for
which a primary would have had to rest on one beacon. A lease has to be longer than that. It disturbs nothing.

Measure for as long as the rarest thing that happens to your network takes, at a time when it is busy. The
exit code is 0 when the link is good for the timing that is set, and 6 otherwise.`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, line string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNodes(cmd, args, line)
		},
	}
	f := cmd.Flags()
	n := f.Int("count", 0, "`NUMBER` of probes")
	duration := f.Duration("duration", 10*time.Second, "how long to send probes, when no --count is given")
	interval := f.Duration("interval", 20*time.Millisecond, "between two probes")
	late := f.Duration("late", 0, "when a probe counts as lost (default: the lease of the node that is asked)")
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		opts := control.LinkOptions{Peer: args[0], Count: *n, Interval: *interval, Timeout: *late}
		if !f.Changed("count") && *interval > 0 {
			opts.Count = int(*duration / *interval)
		}
		if err := opts.Validate(); err != nil {
			return err
		}
		return a.linkCheck(ctx, opts)
	})
	a.remote(a.withJSON(cmd))
	if err := f.MarkHidden("timeout"); err != nil {
		panic(err)
	}
	return cmd
}

func (a *app) linkCheck(ctx context.Context, opts control.LinkOptions) error {
	var last control.LinkReport
	rep, err := a.client().LinkCheck(ctx, opts, func(r control.LinkReport) error {
		last = r
		if a.json {
			return nil
		}
		_, err := fmt.Fprintf(a.err, "%s to %s: %d of %d probes answered, %d late, %d lost; median %v, longest %v\n",
			r.From, r.To, r.Answered+r.Late, opts.Count, r.Late, r.Lost, short(r.Median), short(r.Max))
		return err
	})
	if err != nil && ctx.Err() != nil && last.Sent > 0 && !a.json { // interrupted: what is known is worth showing
		_, _ = a.out.Write(renderLink(&last))
		return control.Errorf(control.CodeFailed, "interrupted after %d probes, so there is no verdict", last.Sent)
	}
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = a.out.Write(renderLink(&rep))
	}
	if err == nil && rep.Verdict != control.LinkGood {
		err = errDifference
	}
	return err
}

// renderLink writes what a link check found.
func renderLink(r *control.LinkReport) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s to %s (%s): %d probes in %v\n", r.From, r.To, r.Addr, r.Sent, r.Elapsed.Round(10*time.Millisecond))
	fmt.Fprintf(&b, "  round trip   min %v  median %v  p99 %v  max %v  jitter %v\n", short(r.Min), short(r.Median), short(r.P99), short(r.Max), short(r.Jitter))
	fmt.Fprintf(&b, "  loss         %.2f %%: %d late, %d lost; %s\n", r.LossPercent, r.Late, r.Lost, count(r.Broken, "broken connection"))
	fmt.Fprintf(&b, "  longest gap  %v: for so long a sender had to rest on one answered probe\n", short(r.LongestGap))
	fmt.Fprintf(&b, "  reliability  %.3f %% of the time the lease would have held (beacons every %v, lease %v, margin %d %%)\n",
		r.Reliability, r.Timing.BeaconInterval, r.Timing.Lease, r.Timing.DriftMargin)
	if r.Verdict != "" {
		fmt.Fprintf(&b, "verdict: %s\n%s", r.Verdict, wrap("  ", r.Text))
	}
	return b.Bytes()
}

// short drops digits that nobody reads.
func short(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
