package sim

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// finder is what finds a planted bug, as testdata/teeth.txt says.
type finder struct {
	kind    string   // "seed", "scenario", "test", or "open": nothing does
	seeds   []uint64 // that found it before: tried first
	file    string   // of a scenario, below testdata
	dir     string   // of the package whose test finds it, below the root of the module
	test    string   // its name
	history int      // of docs/histories.md that it stands for; 0: those whose files name the bug
}

func (f finder) String() string {
	switch f.kind {
	case "scenario":
		return "scenario " + f.file
	case "test":
		return fmt.Sprintf("test ./%s %s", f.dir, f.test)
	case "open":
		return "all that there is"
	}
	return "random seeds"
}

// readFinders reads testdata/teeth.txt.
func readFinders(t testing.TB) map[string]finder {
	t.Helper()
	all := map[string]finder{}
	for _, line := range linesOf(t, "testdata/teeth.txt") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		name := words[0]
		if _, twice := all[name]; twice || len(words) < 3 {
			t.Fatalf("testdata/teeth.txt: %q is there twice, or says too little", line)
		}
		by := finder{kind: words[1]}
		words = words[2:]
		if n := len(words); n > 2 && words[n-2] == "history" {
			by.history, words = atoi(t, words[n-1]), words[:n-2]
		}
		switch {
		case by.kind == "seed":
			for _, w := range words {
				by.seeds = append(by.seeds, uint64(atoi(t, w)))
			}
		case by.kind == "scenario" && len(words) == 1:
			by.file = words[0]
		case by.kind == "test" && len(words) == 2:
			by.dir, by.test = words[0], words[1]
		case by.kind == "open":
		default:
			t.Fatalf("testdata/teeth.txt: %q", line)
		}
		all[name] = by
	}
	return all
}

func atoi(t testing.TB, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("testdata/teeth.txt: %v", err)
	}
	return n
}

func linesOf(t testing.TB, file string) (lines []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	return lines
}

// bugsOf returns the bugs that a scenario finds, as its first lines say.
func bugsOf(t testing.TB, file string) (names []string) {
	t.Helper()
	for _, line := range linesOf(t, file) {
		list, ok := strings.CutPrefix(line, "# bug: ")
		if !ok {
			continue
		}
		for _, n := range strings.Split(list, ",") {
			names = append(names, strings.TrimSpace(n))
		}
	}
	return names
}

func bugNamed(name string) (planted.Bug, bool) {
	for _, b := range planted.All() {
		if b.String() == name {
			return b, true
		}
	}
	return planted.None, false
}

// fewestBugs is how many there are at least: somebody who takes one away should have to say so.
const fewestBugs = 100

func TestTeethList_EveryBugHasAFinderThatExists(t *testing.T) {
	finders := readFinders(t)
	if n := len(planted.All()); n < fewestBugs {
		t.Errorf("%d bugs, at least %d are wanted", n, fewestBugs)
	}
	for name := range finders {
		if _, ok := bugNamed(name); !ok {
			t.Errorf("testdata/teeth.txt: no bug is called %s", name)
		}
	}
	for _, b := range planted.All() {
		by, listed := finders[b.String()]
		switch {
		case !listed: // hunted for with seeds
		case by.kind == "scenario":
			if !slices.Contains(bugsOf(t, filepath.Join("testdata", by.file)), b.String()) {
				t.Errorf("%s: testdata/%s does not name it behind \"# bug:\"", b, by.file)
			}
		case by.kind == "test":
			text := strings.Join(linesOf(t, filepath.Join("../..", by.dir, "planted_test.go")), "\n")
			if !strings.Contains(text, "func "+by.test+"(") || !strings.Contains(text, "planted."+b.String()) {
				t.Errorf("%s: %s/planted_test.go has no %s for it", b, by.dir, by.test)
			}
		}
	}
}

// A bug without a guard is a name: planting it changes nothing.
func TestTeethList_EveryBugHasAGuardInTheCode(t *testing.T) {
	guard := regexp.MustCompile(`planted\.On\(planted\.(\w+)\)`)
	guarded := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && d.Name() != "." {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || d.Name() == "doc.go" {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range guard.FindAllStringSubmatch(string(text), -1) {
			guarded[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range planted.All() {
		if !guarded[b.String()] {
			t.Errorf("%s: nothing asks for it", b)
		}
	}
}

// notBuilt is the history whose feature, exclusive attachments in the ledger, is not built: there is no
// precaution to take out.
const notBuilt = 35

func TestTeethList_EveryHistoryHasABug(t *testing.T) {
	const histories = 36
	bugs := map[int][]string{}
	files, err := filepath.Glob("testdata/histories/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		n := atoi(t, filepath.Base(f)[:2])
		bugs[n] = append(bugs[n], bugsOf(t, f)...)
	}
	for name, by := range readFinders(t) {
		bugs[by.history] = append(bugs[by.history], name)
	}
	told := 0
	for _, line := range linesOf(t, "../../docs/histories.md") {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			continue
		}
		told++
		if len(bugs[n]) == 0 && n != notBuilt {
			t.Errorf("history %d: no bug takes its precaution out and is found", n)
		}
	}
	if told != histories {
		t.Errorf("docs/histories.md tells %d histories, want %d", told, histories)
	}
}
