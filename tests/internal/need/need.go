// Package need lets a test say what it cannot do without. A test whose need is not met is skipped
// and names the Debian package to install; with LOCKSTEP_REQUIRE=all it fails instead, so that in
// continuous integration nothing is skipped in silence.
package need

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// Tool returns the path of a program and skips the test when there is none. pkg is the Debian
// package that brings it.
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	if p, err := Find(name); err == nil {
		return p
	}
	Skip(t, "needs %s: apt-get install %s", name, pkg)
	return ""
}

// Find looks for a program in PATH and in the places where administration tools live.
func Find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	return "", errors.New(name + " is not installed")
}

// Root skips the test unless it runs as root; why says for what it is needed.
func Root(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root: %s", why)
	}
}

// Device skips the test when a device node cannot be opened for reading and writing.
func Device(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		Skip(t, "needs %s: %v", path, err)
	}
	f.Close()
}

// Required reports whether a need that is not met must fail the test.
func Required() bool { return os.Getenv("LOCKSTEP_REQUIRE") == "all" }

// Skip skips the test, or fails it when nothing may be skipped.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if Required() {
		t.Fatalf("LOCKSTEP_REQUIRE=all: "+format, args...)
	}
	t.Skipf(format, args...)
}
