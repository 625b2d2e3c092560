//go:build plantedbugs

package sim

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Each history says in its first lines which precautions forbid it, as the bugs that take them out:
//
//	# bug: DrainSkippedAtLead
//	# seeds: ReceivedForgotten, needs a crash in the middle of a save
//
// With a bug of the first kind planted, the scenario has to end otherwise than its golden output says.
// One of the second kind does not show in it, for the reason given: testdata/teeth.txt names what finds it.
func TestScenario_PlantedBugs(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenario: %v", err)
	}
	defer planted.Plant(planted.None)
	for _, f := range files {
		for _, name := range bugsOf(t, f) {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".txt")+"/"+name, func(t *testing.T) {
				bug, ok := bugNamed(name)
				if !ok {
					t.Fatalf("%s names %s, which is no bug", f, name)
				}
				planted.Plant(bug)
				how := outcomeOf(f)
				planted.Plant(planted.None)
				if how == "" {
					t.Errorf("%s goes as it should although %s", f, bug.Info().Sentence)
				}
				t.Logf("%s", how)
			})
		}
	}
}

// deviation ends a scenario at its first line that is not as it was.
type deviation string

// judge takes the verdicts of a scenario that is expected to fail.
type judge struct{ testing.TB }

func (judge) Helper()                        {}
func (judge) Failed() bool                   { return false }
func (judge) Log(...any)                     {}
func (judge) Logf(string, ...any)            {}
func (judge) Fatalf(format string, a ...any) { panic(deviation(fmt.Sprintf(format, a...))) }
func (judge) Fatal(a ...any)                 { panic(deviation(fmt.Sprint(a...))) }
func (judge) Errorf(format string, a ...any) { panic(deviation(fmt.Sprintf(format, a...))) }

// outcomeOf says how a scenario deviates, "" if it does not.
func outcomeOf(file string) (how string) {
	defer func() {
		if r := recover(); r != nil {
			how = fmt.Sprint(r)
		}
	}()
	runScenario(judge{}, file)
	return ""
}
