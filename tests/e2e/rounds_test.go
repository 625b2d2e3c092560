package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
)

func TestSwitchovers_UnderLoad_NoClientSeesAnError(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	var gaps []time.Duration
	for range rounds(10, 50) {
		from, to := r.roles()
		at := r.h.Now()
		r.MustCLI(from, "switchover", "r0", "--to", to)
		r.flows(100)
		gaps = append(gaps, r.h.LongestGap(at, r.h.Now()))
		if now := r.primary(); now != to {
			t.Fatalf("after a switchover to %s, %s serves", to, now)
		}
		r.whole()
	}
	logGaps(t, gaps)
	r.finish()
}

func TestFailovers_UnderLoad_NothingIsLost(t *testing.T) {
	t.Parallel()
	r := start(t, cluster.Options{})
	var gaps []time.Duration
	for range rounds(5, 50) {
		primary := r.primary()
		at := r.h.Now()
		r.Kill(primary)
		r.flows(100)
		gaps = append(gaps, r.h.LongestGap(at, r.h.Now()))
		r.Start(primary)
		r.whole()
	}
	logGaps(t, gaps)
	r.finish()
}

func logGaps(t *testing.T, gaps []time.Duration) {
	slices.Sort(gaps)
	t.Logf("longest time without an acknowledged write: median %v, worst %v", gaps[len(gaps)/2], gaps[len(gaps)-1])
}
