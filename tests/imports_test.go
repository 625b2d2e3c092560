package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lockstep-ha/lockstep/"

// mayImport lists, for each package of the module, which others its code may import; a name covers
// the packages below it, too. Whatever is not listed may import none. docs/architecture.md draws it.
var mayImport = map[string][]string{
	"bitmap":                 {},
	"quorum":                 {"bitmap"},
	"quorum/voter":           {"quorum"},
	"quorum/coordinator":     {"quorum"},
	"replication":            {"bitmap", "replication/wire", "internal/buf"},
	"replication/wire":       {"bitmap", "internal/buf"},
	"replication/peer":       {"bitmap", "replication", "replication/wire", "internal/buf", "internal/outq"},
	"quorum/ledger":          {"quorum", "quorum/voter", "internal/beat"},
	"internal/beat":          {},
	"quorum/membership":      {"quorum"},
	"fencing":                {"internal/writepath"},
	"fencing/watchdog":       {},
	"nbd":                    {"internal/buf", "internal/outq"},
	"internal/buf":           {},
	"nbd/nbdtest":            {"nbd", "internal/buf", "internal/outq"},
	"nbd/attach":             {"nbd", "internal/buf", "internal/outq", "internal/writepath"},
	"internal/outq":          {"internal/buf"},
	"internal/store":         {"bitmap", "replication", "internal/buf"},
	"internal/transport":     {"internal/pki"},
	"internal/config":        {},
	"internal/control":       {"internal/config", "internal/services/service"},
	"internal/services":      {"internal/services", "internal/beat", "nbd/attach"},
	"internal/pki":           {"internal/config"},
	"internal/health":        {},
	"internal/writepath":     {},
	"internal/deploy":        {},
	"internal/lab":           {"internal/config", "internal/control"},
	"internal/doctor":        {"internal/control", "internal/services/service"},
	"internal/linkcheck":     {"internal/control"},
	"internal/drill":         {"internal/control", "internal/doctor", "internal/lab", "internal/pki"},
	"internal/planted":       {},
	"internal/mark":          {},
	"internal/record":        {"quorum", "replication"},
	"internal/memnet":        {},
	"internal/sim":           {"bitmap", "replication", "replication/wire", "quorum", "quorum/voter", "quorum/coordinator", "internal/record", "internal/store"},
	"internal/device":        {"bitmap", "replication", "nbd", "internal/store", "internal/beat", "internal/buf", "internal/outq"},
	"internal/node":          {"bitmap", "replication", "quorum", "nbd", "fencing", "internal"},
	"cmd/lockstep":           {"internal", "nbd/attach"},
	"tests/internal/userdev": {"nbd/attach"},
	"tests":                  {"internal/config", "internal/control", "internal/lab", "tests"},
}

// pure packages know no world outside: what they see arrives as values.
var pure = []string{"bitmap", "quorum", "quorum/voter", "quorum/coordinator", "quorum/pair", "replication", "replication/wire",
	"internal/record", "internal/planted", "internal/mark", "internal/services/plan", "internal/services/service"}

// everywhere may be imported by any package: they mark places in the code and do nothing.
var everywhere = []string{"internal/planted", "internal/mark"}

// impure is what pure packages may not import. Of time only durations are wanted; a test below
// looks for its clock.
var impure = []string{"net", "os", "log", "math/rand", "math/rand/v2", "crypto/rand", "os/exec"}

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
	Dir        string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles,Dir", "./...")
	cmd.Dir = ".."
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var list []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	must(t, cmd.Wait())
	if len(list) == 0 {
		t.Fatal("go list finds no package")
	}
	return list
}

// covers reports whether name is rule or lies below it.
func covers(rule, name string) bool { return name == rule || strings.HasPrefix(name, rule+"/") }

// ruleFor returns the most specific entry of mayImport for a package.
func ruleFor(name string) ([]string, bool) {
	for n := name; n != "."; n = path.Dir(n) {
		if r, ok := mayImport[n]; ok {
			return r, true
		}
	}
	return nil, false
}

func TestImports_FollowTheLayers(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		rules, ok := ruleFor(name)
		if !ok {
			t.Errorf("package %s has no import rule: add it to mayImport and to docs/architecture.md", name)
			continue
		}
		for _, imp := range p.Imports {
			of, ours := strings.CutPrefix(imp, module)
			if ours && !slices.Contains(everywhere, of) && !slices.ContainsFunc(rules, func(r string) bool { return covers(r, of) }) {
				t.Errorf("package %s must not import %s", name, of)
			}
		}
	}
}

func TestImports_PurePackagesTouchNothingOutside(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, name) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(impure, imp) || strings.HasPrefix(imp, "golang.org/x/sys") {
				t.Errorf("package %s is pure and must not import %s", name, imp)
			}
		}
		for _, file := range p.GoFiles {
			src := string(read(t, path.Join(p.Dir, file)))
			for _, clock := range []string{"time.Now(", "time.Since(", "time.Until(", "time.After(", "time.Sleep(", "time.NewTimer(", "time.NewTicker(", "time.Tick("} {
				if strings.Contains(src, clock) {
					t.Errorf("package %s is pure, and %s uses %s)", name, file, clock)
				}
			}
			if strings.Contains(src, "\tgo func(") || strings.Contains(src, "\nfunc init()") {
				t.Errorf("package %s is pure, and %s starts a goroutine or has an init", name, file)
			}
		}
	}
}
