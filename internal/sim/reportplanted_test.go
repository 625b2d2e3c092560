//go:build plantedbugs

package sim

import (
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// The report of a failure is what a person has: it names the seed and the command, and shows the log of
// a run with fewer faults that still fails the same way.
func TestAutopsy_OfAPlantedBug(t *testing.T) {
	tuneGC()
	defer planted.Plant(planted.None)
	planted.Plant(planted.AckBeforePeer)
	seed, _, found := hunt(nil, 300)
	if found == nil {
		t.Fatal("300 seeds do not find AckBeforePeer")
	}
	plan := Draw(seed)
	small := shrunk(plan, found)
	if len(small.Faults) >= len(plan.Faults) && len(plan.Faults) > 1 {
		t.Errorf("none of %d faults was left out", len(plan.Faults))
	}
	f := Run(small, false).Failure()
	if f == nil || kindOf(f.Text) != kindOf(found.Text) {
		t.Fatalf("with %d faults left it finds %v instead of %v", len(small.Faults), f, found)
	}
	text := autopsy(seed, found)
	for _, want := range []string{replayCommand(seed), headline(found.Text), "faults are needed", f.Error(), "X failure", "seconds"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}
