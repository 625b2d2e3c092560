//go:build plantedbugs

package coordinator

import (
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// plant switches a bug on for the rest of the test.
func plant(t *testing.T, b planted.Bug) {
	planted.Plant(b)
	t.Cleanup(func() { planted.Plant(planted.None) })
}

// Each planted bug does what its sentence says, where a test of the healthy code says it must not:
// so those tests would find it.

func TestPlanted_FenceTimeoutIsSuccess(t *testing.T) {
	plant(t, planted.FenceTimeoutIsSuccess)
	g := newRig(t, stonith, "A", "B")
	g.host("W").fences, g.host("B").fences = FenceTimedOut, FenceTimedOut
	g.run(second)
	g.isolate("A") // it lives, and nobody shot it
	g.wantWithin("B", 30*second)
	if !g.s.ProvenDown("A", "boot-A") || !g.host("A").up {
		t.Errorf("not found: A is up: %v, fences %+v", g.host("A").up, g.s.Fences)
	}
}

func TestPlanted_AnyExecutorFires(t *testing.T) {
	plant(t, planted.AnyExecutorFires)
	g := newRig(t, stonith, "A", "B")
	g.run(second)
	g.crash("A")
	g.wantWithin("B", 5*second)
	shots := 0
	for _, l := range g.log {
		if strings.Contains(l, "asks this node") {
			shots++
		}
	}
	if shots < 2 {
		t.Errorf("not found: %d shots", shots)
	}
}
