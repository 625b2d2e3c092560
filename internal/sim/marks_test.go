package sim

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// demandedSeeds is how many seeds reach every mark that testdata/marks.txt demands.
const demandedSeeds = 2000

// readMarks returns the marks that a long set of seeds has to reach, and the others with the reason why
// they are not demanded.
func readMarks(t *testing.T) (demanded []string, others map[string]string) {
	t.Helper()
	b, err := os.ReadFile("testdata/marks.txt")
	if err != nil {
		t.Fatal(err)
	}
	others = map[string]string{}
	rest := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch name, why, _ := strings.Cut(line, " "); {
		case line == "# not demanded:":
			rest = true
		case line == "" || strings.HasPrefix(line, "#"):
		case rest:
			others[name] = strings.TrimSpace(why)
		default:
			demanded = append(demanded, name)
		}
	}
	return demanded, others
}

// reportMarks prints how often the rare branches were taken, and returns the demanded ones that never
// were. Without the build tag nothing is counted, and nothing is missing.
func reportMarks(t *testing.T, counts map[string]int) (missing []string) {
	demanded, others := readMarks(t)
	if len(counts) == 0 {
		fmt.Println("rare branches are not counted: this program was built without -tags marks")
		return nil
	}
	for _, name := range demanded {
		if counts[name] == 0 {
			missing = append(missing, name)
		}
	}
	fmt.Printf("rare branches: %d of %d reached\n", len(demanded)-len(missing), len(demanded))
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if d := counts[a] - counts[b]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		note := ""
		if _, ok := others[name]; ok {
			note = "  (not demanded)"
		}
		fmt.Printf("%9d  %s%s\n", counts[name], name, note)
	}
	return missing
}

// A mark that no list names is one that nobody would miss.
func TestMarks_EachOfTheCodeIsListedOnce(t *testing.T) {
	inCode := marksOfTheCode(t)
	if len(inCode) == 0 {
		t.Fatal("no mark in the code")
	}
	demanded, others := readMarks(t)
	listed := map[string]bool{}
	for _, name := range append(slices.Clone(demanded), slices.Sorted(maps.Keys(others))...) {
		if listed[name] {
			t.Errorf("testdata/marks.txt lists %s twice", name)
		}
		listed[name] = true
		if inCode[name] == "" {
			t.Errorf("testdata/marks.txt lists %s, which is not in the code", name)
		}
		if why, ok := others[name]; ok && why == "" {
			t.Errorf("testdata/marks.txt does not say why %s is not demanded", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inCode)) {
		if !listed[name] {
			t.Errorf("%s: mark %s is not in testdata/marks.txt", inCode[name], name)
		}
	}
}

// marksOfTheCode returns the marks with the file that each stands in.
func marksOfTheCode(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	call := regexp.MustCompile(`\bmark\.Hit\(("[\w-]+")?`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(src, -1) {
			if len(m[1]) == 0 {
				t.Errorf("%s: a mark whose name is not written out", path)
				continue
			}
			found[strings.Trim(string(m[1]), `"`)] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
