package tests

import (
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDocs_EachTestTheyNameExists(t *testing.T) {
	known := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	must(t, filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			for _, m := range decl.FindAllStringSubmatch(string(read(t, path)), -1) {
				known[m[1]] = true
			}
		}
		return err
	}))
	name := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, doc := range []string{"../docs/scenarios.md", "../docs/histories.md"} {
		for _, m := range name.FindAllStringSubmatch(string(read(t, doc)), -1) {
			if !known[m[1]] {
				t.Errorf("%s names %s, which does not exist", doc, m[1])
			}
		}
	}
}

// A scenario file that no page names is one that nobody finds, so both directions are checked.
func TestDocs_EachScenarioFileTheyNameExists_AndEachIsNamed(t *testing.T) {
	const dir = "../internal/sim/testdata"
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.txt"))
	must(t, err)
	unnamed := map[string]bool{}
	for _, f := range files {
		rel, err := filepath.Rel(dir, f)
		must(t, err)
		unnamed[filepath.ToSlash(rel)] = true
	}
	if len(unnamed) == 0 {
		t.Fatalf("no scenario below %s", dir)
	}
	known := maps.Clone(unnamed)
	name := regexp.MustCompile("`((?:histories|scenarios)/[\\w-]+\\.txt)`")
	for _, doc := range []string{"../docs/scenarios.md", "../docs/histories.md"} {
		for _, m := range name.FindAllStringSubmatch(string(read(t, doc)), -1) {
			if delete(unnamed, m[1]); !known[m[1]] {
				t.Errorf("%s names %s, which does not exist", doc, m[1])
			}
		}
	}
	for _, f := range slices.Sorted(maps.Keys(unnamed)) {
		t.Errorf("neither page names %s", f)
	}
}

func TestDocs_LinksBetweenPagesLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	pages, err := filepath.Glob("../docs/*.md")
	must(t, err)
	for _, page := range append(pages, "../README.md") {
		for _, m := range link.FindAllStringSubmatch(string(read(t, page)), -1) {
			target := filepath.Join(filepath.Dir(page), m[1])
			if _, err := statSys(target); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
		}
	}
}
