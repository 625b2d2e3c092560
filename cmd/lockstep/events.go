package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (a *app) eventsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happened, and what happens",
		Long: `Events prints the transitions that a node still remembers, oldest first, and with --follow those to
come until it is interrupted. With --json, each is one object on a line of its own.`,
		Args: cobra.NoArgs,
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "go on with what happens from now on")
	since := cmd.Flags().Uint64("since", 0, "begin after the event with this `NUMBER`")
	cmd.RunE = a.stream(func(ctx context.Context, _ []string) error {
		if !*follow && a.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, a.timeout)
			defer cancel()
		}
		return a.client().Events(ctx, *since, *follow, a.printEvent)
	})
	return a.remote(a.withJSON(cmd))
}

// printEvent prints one event on one line.
func (a *app) printEvent(ev control.Event) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(ev)
	}
	what := ev.Node
	if ev.Resource != "" {
		what += "/" + ev.Resource
	}
	line := fmt.Sprintf("%s  %-12s %s", ev.Time.UTC().Format("2006-01-02T15:04:05.000Z"), what, ev.Text)
	keys := make([]string, 0, len(ev.Attrs))
	for k := range ev.Attrs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		line += fmt.Sprintf(" %s=%s", k, ev.Attrs[k])
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}
