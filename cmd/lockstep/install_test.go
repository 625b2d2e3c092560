package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallFiles_PrintsOneFileAsItIsWritten(t *testing.T) {
	root := t.TempDir()
	code, out, errs := cli(t.Context(), nil, "install-files", "--root", root, "--program", "/opt/bin/lockstep")
	if code != exitOK || errs != "" {
		t.Fatalf("exit %d, %q", code, errs)
	}
	for _, path := range strings.Fields(out) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, shown, _ := cli(t.Context(), nil, "install-files", "--print", "--program", "/opt/bin/lockstep", filepath.Base(path)); shown != string(text) {
			t.Errorf("%s is shown as %q", path, shown)
		}
	}
}

func TestInstallFiles_Usage(t *testing.T) {
	for _, line := range []string{"install-files device", "install-files --print nothing.conf"} {
		if code, _, errs := cli(t.Context(), nil, strings.Fields(line)...); code != exitUsage || !strings.Contains(errs, "files are named") && !strings.Contains(errs, "lockstep-node.service") {
			t.Errorf("%s: exit %d, %q", line, code, errs)
		}
	}
	if code, _, errs := cli(t.Context(), nil, "install-files", "--print", "--program", "/opt/my programs/lockstep"); code != exitFailed || !strings.Contains(errs, "cannot stand in a unit") {
		t.Errorf("a path with a blank: exit %d, %q", code, errs)
	}
}
