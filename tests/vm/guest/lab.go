package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

// labUp is `lockstep lab up` with timings that are longer than those of a wide area: three daemons with the default
// ones keep an emulated machine busy with beacons alone, and such a machine stands still for seconds where the one
// that emulates it has other work, which must not move the role. -protect gives the daemons the
// protection under memory pressure that labs go without: here their host does keep its files on their device.
func labUp(args []string) error {
	f := flag.NewFlagSet("lab", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	size := f.Int64("mib", 64, "")
	dog := f.String("watchdog", "", "device of the watchdog of n1")
	protect := f.Bool("protect", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := lab.Up(context.Background(), lab.Options{
		Dir: *dir, SizeBytes: *size << 20, Witness: true, Command: []string{"/bin/lockstep", "node"},
		Configure: func(n *config.Node) {
			n.Timing = "wan"
			n.ApplyTiming()
			n.BeaconInterval, n.Lease = time.Second, 4*time.Second
			if *protect {
				n.Memory = config.DefaultNode().Memory
			}
			if n.Name == "n1" && *dog != "" {
				n.Watchdog = config.Watchdog{Device: *dog}
			}
		},
		Logf: func(format string, args ...any) { fmt.Printf(format+"\n", args...) },
	})
	if err != nil {
		for _, n := range l.State().Nodes {
			if b, rerr := os.ReadFile(n.Log); rerr == nil {
				err = errors.Join(err, fmt.Errorf("%s: %s", n.Name, b[max(0, len(b)-3000):]))
			}
		}
	}
	return err
}
