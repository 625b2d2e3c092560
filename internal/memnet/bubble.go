package memnet

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// Bubble runs f in a bubble of testing/synctest. The process panics, and so shows what everybody
// waits for, when f has not ended by limit on the bubble's clock: where something ticks or dials
// again and again, a bubble that waits for what never comes is no deadlock.
func Bubble(t *testing.T, limit time.Duration, f func(t *testing.T)) {
	t.Helper()
	if raceDetector {
		// With Go 1.26, goroutines of a bubble that run timers that are due side by side share one
		// context of the race detector, which crashes the process sooner or later. With one
		// processor they do not run side by side. Races are found by order, so they still are.
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, func(t *testing.T) {
		late := time.AfterFunc(limit, func() { panic(fmt.Sprintf("%s: not at its end after %v", t.Name(), limit)) })
		defer late.Stop()
		f(t)
	})
}

// Pass lets d go by on the bubble's clock, until everybody has done what is due then.
func Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
