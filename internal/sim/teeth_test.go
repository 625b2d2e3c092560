//go:build plantedbugs

package sim

import (
	"flag"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

var (
	bugFlag   = flag.String("bug", "", "plant only bugs of these names, separated by commas; they are hunted for with seeds, whatever finds them else")
	teethFlag = flag.Uint64("teeth", 2000, "seeds to try for a bug that no known seed finds")
	shardFlag = flag.String("shard", "0/1", "of all bugs, every n-th beginning with the i-th: i/n")
)

// TestTeeth plants one bug after the other and demands that each is found: by a random run, or by what
// testdata/teeth.txt names because a history that needs it is too rare for random runs.
func TestTeeth(t *testing.T) {
	debug.SetGCPercent(800)
	defer planted.Plant(planted.None)
	finders := readFinders(t)
	var i, n int
	if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &i, &n); err != nil || n < 1 {
		t.Fatalf("-shard %s: %v", *shardFlag, err)
	}
	found := 0
	for k, bug := range planted.All() {
		by := finders[bug.String()]
		if *bugFlag != "" {
			if !slices.Contains(strings.Split(*bugFlag, ","), bug.String()) {
				continue
			}
			by.kind = "seed"
		}
		if k%n != i {
			continue
		}
		how := find(bug, by)
		if how == "" {
			how = "SURVIVES " + by.String()
			t.Errorf("%s survives: %s", bug, bug.Info().Sentence)
		} else {
			found++
		}
		fmt.Printf("rule %2d %-28s %s\n", bug.Info().Rule, bug, how)
	}
	t.Logf("%d bugs found", found)
}

// find plants a bug and says what finds it, "" if nothing does. Tests of other packages are run by
// themselves: that they exist is checked here.
func find(bug planted.Bug, by finder) string {
	switch by.kind {
	case "open":
		return ""
	case "test":
		return fmt.Sprintf("found by %s", by)
	case "scenario":
		planted.Plant(bug)
		how := outcomeOf(filepath.Join("testdata", by.file))
		planted.Plant(planted.None)
		if how == "" {
			return ""
		}
		return fmt.Sprintf("found by %s", by)
	}
	planted.Plant(bug)
	seed, runs, f := huntFor(by.seeds, *teethFlag, func(s uint64) bool {
		planted.Plant(planted.None)
		defer planted.Plant(bug)
		return Run(Draw(s), false).Failure() == nil
	})
	planted.Plant(planted.None)
	if f == nil {
		return ""
	}
	text := strings.SplitN(f.Text, "\n", 2)[0]
	return fmt.Sprintf("found by seed %d, run %d: %s", seed, runs, text[:min(len(text), 110)])
}

// hunt runs seeds until one finds something.
func hunt(known []uint64, most uint64) (seed uint64, runs int, f *Failure) {
	return huntFor(known, most, func(uint64) bool { return true })
}

// huntFor runs seeds until one finds something and credit holds for it: a seed that fails without the
// planted bug, too, has found something else.
func huntFor(known []uint64, most uint64, credit func(seed uint64) bool) (seed uint64, runs int, f *Failure) {
	try := func(s uint64) bool {
		runs++
		f = Run(Draw(s), false).Failure()
		return f != nil && credit(s)
	}
	for _, s := range known {
		if try(s) {
			return s, runs, f
		}
	}
	for s := uint64(1); s <= most; s++ {
		if try(s) {
			return s, runs, f
		}
	}
	return 0, runs, nil
}
