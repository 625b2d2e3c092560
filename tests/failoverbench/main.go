package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	lockstep string
	runs     int
	only     string
	idle     time.Duration
	rest     time.Duration
	jsonPath string
}

func main() {
	var o options
	flag.StringVar(&o.lockstep, "lockstep", "bin/lockstep", "the program to measure")
	flag.IntVar(&o.runs, "runs", 50, "losses of each kind")
	flag.StringVar(&o.only, "only", "", "what to measure, separated by commas; empty: all")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long the idle lab is watched")
	flag.DurationVar(&o.rest, "rest", 11*time.Second, "how long the cluster is left alone before each loss of a primary")
	flag.StringVar(&o.jsonPath, "json", "", "write each gap to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "failoverbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	var err error
	if o.lockstep, err = filepath.Abs(o.lockstep); err != nil {
		return err
	}
	if o.runs < 1 {
		return fmt.Errorf("-runs %d: at least 1", o.runs)
	}
	var rep report
	var bad []error
	for _, s := range scenarios {
		if !chosen(o.only, s.name) {
			continue
		}
		res, err := measure(ctx, o, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", s.name, err))
		}
		rep.Results = append(rep.Results, res)
	}
	if chosen(o.only, "attach") {
		if rep.Attach, err = attachTimes(ctx, o); err != nil {
			bad = append(bad, fmt.Errorf("attach: %w", err))
		}
	}
	if chosen(o.only, "idle") {
		if rep.Idle, err = idle(ctx, o); err != nil {
			bad = append(bad, fmt.Errorf("idle: %w", err))
		}
	}
	rep.print(os.Stdout)
	if o.jsonPath != "" {
		b, err := json.MarshalIndent(rep, "", " ")
		if err == nil {
			err = os.WriteFile(o.jsonPath, append(b, '\n'), 0o644)
		}
		bad = append(bad, err)
	}
	return errors.Join(bad...)
}

// chosen reports whether name is in a list of names; an empty list has all.
func chosen(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}
