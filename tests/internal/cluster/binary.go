package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// build makes the program once for a whole test binary.
var build struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Binary returns the path of the lockstep program: $LOCKSTEP_BIN, or one that is built from this
// tree, once. LOCKSTEP_BUILD_FLAGS is passed to go build, for instance -race.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func binary() (string, error) {
	if p := os.Getenv("LOCKSTEP_BIN"); p != "" {
		return filepath.Abs(p)
	}
	build.once.Do(func() {
		build.dir, build.err = os.MkdirTemp("", "lockstep-bin-")
		if build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "lockstep")
		flags := strings.Fields(os.Getenv("LOCKSTEP_BUILD_FLAGS"))
		args := append(append([]string{"build", "-o", build.path}, flags...), "github.com/lockstep-ha/lockstep/cmd/lockstep")
		cmd := exec.Command("go", args...)
		if !bytes.Contains([]byte(strings.Join(flags, " ")), []byte("-race")) {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	})
	return build.path, build.err
}

// Main runs the tests of a package that uses clusters and removes what was built for them.
// Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if build.dir != "" {
		os.RemoveAll(build.dir)
	}
	os.Exit(code)
}

// Result is how a command of the program ended.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Code   int // exit code
}

// String shows the command as an operator would have seen it.
func (r Result) String() string {
	return fmt.Sprintf("$ lockstep %s\n%s%s(exit %d)", strings.Join(r.Args, " "), r.Stdout, r.Stderr, r.Code)
}

// CLI runs the program to its end, whatever its exit code.
func CLI(t testing.TB, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("lockstep %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return Result{Args: args, Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// MustCLI is CLI for a command that has to succeed. It returns its standard output.
func MustCLI(t testing.TB, args ...string) string {
	t.Helper()
	r := CLI(t, args...)
	if r.Code != 0 {
		t.Fatal(r)
	}
	return r.Stdout
}
