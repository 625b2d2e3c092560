package sim

import (
	"flag"
	"fmt"
	"runtime/debug"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed only")
	seedsFlag = flag.Uint64("seeds", 200, "number of seeds to run")
	firstFlag = flag.Uint64("first", 1, "first seed to run")
)

func TestSeeds(t *testing.T) {
	debug.SetGCPercent(800)
	first, n := *firstFlag, *seedsFlag
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	start := time.Now()
	total := Stats{}
	failures := 0
	for seed := first; seed < first+n; seed++ {
		w := Run(Draw(seed), testing.Verbose() && n == 1)
		s := w.Stats()
		total.Events += s.Events
		total.Acked += s.Acked
		total.Reads += s.Reads
		total.Promotions += s.Promotions
		total.Drops += s.Drops
		total.Joins += s.Joins
		total.LossPoints += s.LossPoints
		total.Forces += s.Forces
		total.Resends += s.Resends
		total.Crashes += s.Crashes
		if f := w.Failure(); f != nil {
			if n == 1 {
				t.Log(w.Log().String())
				t.Log(w.Config)
				t.Log(w.describe())
			}
			text := f.Error()
			if n > 1 {
				text = text[:min(len(text), 400)]
			}
			fmt.Printf("seed %d: %s\n", seed, text)
			t.Errorf("seed %d: %s", seed, text)
			if failures++; failures > 10 {
				break
			}
		}
	}
	t.Logf("%+v in %v", total, time.Since(start))
}
