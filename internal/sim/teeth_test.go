//go:build plantedbugs

package sim

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

var (
	bugFlag   = flag.String("bug", "", "plant only bugs of these names, separated by commas")
	teethFlag = flag.Uint64("teeth", 20000, "seeds to try for a bug that no known seed finds")
	shardFlag = flag.String("shard", "0/1", "of those bugs, every n-th beginning with the i-th: i/n")
)

// finder is how a planted bug is found, as testdata/teeth.txt says.
type finder struct {
	seeds []uint64 // that found it before: tried first
	other string   // "scenario": by its file in testdata; else the package whose own test finds it
}

func readFinders(t *testing.T) map[string]finder {
	f, err := os.Open("testdata/teeth.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]finder{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		words := strings.Fields(sc.Text())
		if len(words) < 2 || words[0] == "#" {
			continue
		}
		var by finder
		for _, w := range words[1:] {
			if n, err := strconv.ParseUint(w, 10, 64); err == nil {
				by.seeds = append(by.seeds, n)
			} else {
				by.other = w
			}
		}
		all[words[0]] = by
	}
	return all
}

// TestTeeth plants one bug after the other and demands that a seed finds each, but for those that
// testdata/teeth.txt leaves to a scenario or to the tests of another package.
func TestTeeth(t *testing.T) {
	debug.SetGCPercent(800)
	defer planted.Plant(planted.None)
	finders := readFinders(t)
	var i, n int
	if _, err := fmt.Sscanf(*shardFlag, "%d/%d", &i, &n); err != nil {
		t.Fatal(err)
	}
	found := 0
	for k, bug := range planted.All() {
		name := bug.String()
		if *bugFlag != "" && !slices.Contains(strings.Split(*bugFlag, ","), name) || k%n != i {
			continue
		}
		by := finders[name]
		if by.other != "" {
			continue
		}
		planted.Plant(bug)
		if seed, runs, f := hunt(by.seeds, *teethFlag); f != nil {
			found++
			text := strings.SplitN(f.Text, "\n", 2)[0]
			fmt.Printf("rule %2d %-28s seed %-6d run %-5d %s\n", bug.Info().Rule, name, seed, runs, text[:min(len(text), 110)])
		} else {
			fmt.Printf("rule %2d %-28s SURVIVES %d seeds: %s\n", bug.Info().Rule, name, runs, bug.Info().Sentence)
			t.Errorf("%s survives %d seeds", name, runs)
		}
		planted.Plant(planted.None)
	}
	t.Logf("%d bugs found", found)
}

// hunt runs seeds until one finds something.
func hunt(known []uint64, most uint64) (seed uint64, runs int, f *Failure) {
	try := func(s uint64) bool {
		runs++
		seed, f = s, Run(Draw(s), false).Failure()
		return f != nil
	}
	for _, s := range known {
		if try(s) {
			return seed, runs, f
		}
	}
	for s := uint64(1); s <= most; s++ {
		if try(s) {
			return seed, runs, f
		}
	}
	return 0, runs, nil
}
