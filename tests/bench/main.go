package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// options are the command line.
type options struct {
	lockstep string
	runtime  int // seconds of each fio run
	rounds   int
	sizeMiB  int
	jobs     string
	entries  string
	jsonPath string
	serve    bool
	outage   int // seconds
}

func main() {
	var o options
	flag.StringVar(&o.lockstep, "lockstep", "bin/lockstep", "the program to measure")
	flag.IntVar(&o.runtime, "runtime", 4, "seconds of each fio run")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.IntVar(&o.sizeMiB, "size", 512, "size of the device in MiB")
	flag.StringVar(&o.jobs, "jobs", "", "jobs to run, separated by commas; empty: all")
	flag.StringVar(&o.entries, "entries", "", "entries to run, separated by commas; empty: all")
	flag.StringVar(&o.jsonPath, "json", "", "write the raw results to this file")
	flag.BoolVar(&o.serve, "serve", false, "start a cluster, print its NBD URI, stay")
	flag.IntVar(&o.outage, "outage", 10, "seconds for which the secondary is away before the resync that is measured; 0: no such measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.lockstep, err = filepath.Abs(o.lockstep); err != nil {
		return err
	}
	if o.serve {
		return serve(ctx, o, dir)
	}
	res, err := compare(ctx, o, dir)
	if err != nil {
		return err
	}
	res.print(os.Stdout)
	res.Extra, err = alone(ctx, o, dir)
	if err != nil {
		return err
	}
	res.printExtra(os.Stdout)
	if o.jsonPath != "" {
		b, err := json.MarshalIndent(res, "", " ")
		if err != nil {
			return err
		}
		return os.WriteFile(o.jsonPath, append(b, '\n'), 0o644)
	}
	return nil
}

// serve is an entry for other harnesses.
func serve(ctx context.Context, o options, dir string) error {
	s, err := startLockstep(ctx, o, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Println(s.uri)
	<-ctx.Done()
	return nil
}

// compare runs all jobs on all entries.
func compare(ctx context.Context, o options, dir string) (*results, error) {
	golden := filepath.Join(dir, "golden")
	if err := randomFile(golden, int64(o.sizeMiB)<<20); err != nil {
		return nil, err
	}
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, e := range entries {
		if !chosen(o.entries, e.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "# starting %s\n", e.name)
		sub := filepath.Join(dir, e.name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
		s, err := e.start(ctx, o, sub, golden)
		if err != nil {
			fmt.Fprintf(os.Stderr, "# SKIPPED %s: %v\n", e.name, err)
			continue
		}
		s.entry = e
		servers = append(servers, s)
	}
	if err := os.Remove(golden); err != nil {
		return nil, err
	}
	res := newResults(o)
	for _, s := range servers {
		res.Entries = append(res.Entries, s.name)
	}
	for round := range o.rounds {
		for _, j := range jobs {
			if !chosen(o.jobs, j.name) {
				continue
			}
			order := slices.Clone(servers)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, s := range order {
				m, err := fio(ctx, s, j, o)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				fmt.Fprintf(os.Stderr, "# round %d %-14s %-14s %s\n", round+1, j.name, s.name, m.brief(err))
				res.add(j.name, s.name, round, m, err)
			}
		}
	}
	return res, nil
}

// chosen reports whether name is in a list of names; an empty list has all.
func chosen(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}
