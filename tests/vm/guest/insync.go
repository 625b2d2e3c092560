package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// inSync asks n1 and n2 until one of them serves r0 with both in the set, and prints its name; with -services, until
// what follows the primary of r0 runs on that node; with -socket, it asks only the node behind that, which has to be the
// primary. One program that asks is cheaper than a script that starts one
// for each question: in an emulated machine a start takes longer than an answer.
func inSync(args []string) error {
	f := flag.NewFlagSet("insync", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	services := f.String("services", "", "")
	socket := f.String("socket", "", "of the only node to ask; empty: those below dir")
	within := f.Duration("within", 95*time.Second, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	ready, nodes := serves, both
	if *services != "" {
		ready, nodes = servicesRun, []string{*services}
	}
	sockets := map[string]string{}
	for _, n := range nodes {
		sockets[n] = filepath.Join(*dir, n, "control.sock")
	}
	if *socket != "" {
		sockets = map[string]string{"this node": *socket}
	}
	over := time.After(*within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var why error
		for n, socket := range sockets {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			st, err := control.NewClient(socket).Status(ctx, "r0")
			cancel()
			if err == nil && len(st.Resources) == 1 {
				if err = ready(st.Resources[0]); err == nil {
					fmt.Println(n)
					return nil
				}
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", n, err)
			}
			why = errors.Join(why, err)
		}
		select {
		case <-tick.C:
		case <-over:
			return fmt.Errorf("not so after %v: %w", *within, why)
		}
	}
}

var both = []string{"n1", "n2"}

func serves(r control.Resource) error {
	set := slices.Sorted(slices.Values(r.InSync))
	if r.Role == control.RolePrimary && r.IO.State == control.IORunning && slices.Equal(set, both) {
		return nil
	}
	return fmt.Errorf("role %s, io %s %s, set %v", r.Role, r.IO.State, r.IO.Reason, set)
}

func servicesRun(r control.Resource) error {
	if r.Services == nil || len(r.Services.List) == 0 {
		return errors.New("no services")
	}
	for _, s := range r.Services.List {
		if s.State != "running" {
			return fmt.Errorf("service %s is %s: %s", s.Name, s.State, s.Fault)
		}
	}
	return nil
}
