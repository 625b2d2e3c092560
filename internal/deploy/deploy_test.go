package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func options(t *testing.T) Options {
	t.Helper()
	return Options{Root: t.TempDir(), Program: "/opt/bin/lockstep", Config: "/srv/node.toml"}
}

// names returns the paths of all files below root, relative to it.
func names(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestInstall_WritesEachFileWithItsModeAndItsWords(t *testing.T) {
	o := options(t)
	files, err := Install(o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"usr/lib/ocf/resource.d/lockstep/device", "usr/lib/systemd/system/lockstep-attach@.service",
		"usr/lib/systemd/system/lockstep-node.service", "usr/lib/udev/rules.d/61-lockstep.rules",
	}
	if got := names(t, o.Root); !slices.Equal(got, want) {
		t.Errorf("written: %q", got)
	}
	for _, f := range files {
		text, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(f.Path)
		if err != nil || st.Mode() != f.Mode || string(text) != f.Text {
			t.Errorf("%s: %v, %v", f.Path, st, err)
		}
		if strings.Contains(f.Text, "@PROGRAM@") || strings.Contains(f.Text, "@CONFIG@") {
			t.Errorf("%s: a word was not replaced", f.Path)
		}
		if f.Name != "61-lockstep.rules" && !strings.Contains(f.Text, o.Program) {
			t.Errorf("%s does not name the program", f.Path)
		}
	}
}

func TestInstall_AgainIsTheSame_AndStrictComesAndGoes(t *testing.T) {
	o := options(t)
	const strict = "usr/lib/systemd/system/lockstep-node.service.d/strict.conf"
	for _, want := range []bool{false, true, true, false} {
		o.Strict = want
		if _, err := Install(o); err != nil {
			t.Fatal(err)
		}
		if got := names(t, o.Root); slices.Contains(got, strict) != want {
			t.Errorf("strict %v: %q", want, got)
		}
	}
}

func TestFiles_RefusesPathsThatAUnitWouldReadOtherwise(t *testing.T) {
	for _, path := range []string{"", "lockstep", "/a b", "/a%i", "/a$b", "/a\"b", "/a'b", "/a`b`", "/a;b", "/a\nb"} {
		if _, err := Files(Options{Root: "/", Program: path, Config: "/c"}); err == nil {
			t.Errorf("program %q is taken", path)
		}
		if _, err := Files(Options{Root: "/", Program: "/p", Config: path}); err == nil {
			t.Errorf("node file %q is taken", path)
		}
	}
}
