//go:build !race

package nbd_test

import (
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// Not with the race detector, under which sync.Pool forgets at random.
func TestRequest_NoAllocationInSteadyState(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, memoryExports(mib))
	c := nbdtest.Open(t, addr, "m")
	run := pipeline(t, c, 16)
	run()
	if n := testing.AllocsPerRun(200, run) / 32; n > 0.1 {
		t.Errorf("%.2f allocations per request", n)
	}
}
