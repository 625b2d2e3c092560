package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// watchInterval is the time between two looks of status --watch.
const watchInterval = time.Second

func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show resources, replicas and what is wrong",
		Long: `Status shows every resource, or one, as the node that is asked sees it: role, disk states, connections,
epoch, in-sync set, what a peer misses, and the progress of a resync. When something is wrong it says what,
whether the data is safe, and the next safe command.

With --watch it looks again every second until it is interrupted; with --json too, each look is one
object on a line of its own.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeResources,
	}
	watch := cmd.Flags().BoolP("watch", "w", false, "look again every second")
	cmd.RunE = a.stream(func(ctx context.Context, args []string) error {
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		if *watch {
			return a.watchStatus(ctx, name)
		}
		st, err := a.askStatus(ctx, name)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(st)
		}
		_, err = a.out.Write(renderStatus(&st, a.colour()))
		return err
	})
	return a.remote(a.withJSON(cmd))
}

func (a *app) askStatus(ctx context.Context, name string) (control.Status, error) {
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	return a.client().Status(ctx, name)
}

// colour reports whether the output is for a person who may like colours.
func (a *app) colour() bool { return a.tty && a.getenv("NO_COLOR") == "" }

// watchStatus prints the status every second until ctx ends. A node that does not answer is shown
// as such: it may come back.
func (a *app) watchStatus(ctx context.Context, name string) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		st, err := a.askStatus(ctx, name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && (first || !errors.Is(err, control.ErrUnreachable)) {
			return err
		}
		if err := a.printLook(&st, err, first); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printLook prints one look of a watch; lost is why there is no status.
func (a *app) printLook(st *control.Status, lost error, first bool) error {
	var b bytes.Buffer
	switch {
	case a.json && lost != nil:
		return json.NewEncoder(a.out).Encode(map[string]any{"error": control.AsError(lost)})
	case a.json:
		return json.NewEncoder(a.out).Encode(st)
	case a.tty:
		b.WriteString("\x1b[H\x1b[2J") // to the upper left corner, and clear
	case !first:
		b.WriteByte('\n')
	}
	if lost != nil {
		fmt.Fprintf(&b, "lockstep: %v\n", lost)
	} else {
		b.Write(renderStatus(st, a.colour()))
	}
	_, err := a.out.Write(b.Bytes())
	return err
}
