package nbd_test

import (
	"log/slog"
	"os"
	"os/exec"
	"testing"
)

// quiet drops what the server logs.
var quiet = slog.New(slog.DiscardHandler)

// tool returns the path of a program that a test needs. Without it the test is skipped, or fails
// with LOCKSTEP_REQUIRE=all.
func tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
			tb.Fatalf("needs %s: %v", name, err)
		}
		tb.Skipf("needs %s: %v", name, err)
	}
	return path
}
