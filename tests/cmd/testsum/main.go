// Testsum runs go test and prints what happened so that it can be read at a glance and trusted: the
// lines of go test itself for each package, the whole output of each failed test, the reason of each
// skip, and at the end
//
//	N passed, N failed, N skipped
//
// counted from the events of go test -json. Tests, examples and fuzz targets (with their stored
// inputs) count; subtests do not, but a failed subtest fails its test. A package that does not build,
// or that dies outside of a test, counts as one failure. The exit code is 1 when anything failed, or
// when no test ran.
//
// Usage: testsum [FLAGS OF GO TEST] -- SUITE [-- SUITE]...
//
// A suite is a list of package patterns, which may hold further flags of go test; "!TEXT" leaves out
// packages whose path contains TEXT. Suites run one after another and are counted together.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	flags, suites := split(os.Args[1:])
	s := newSummary(os.Stdout)
	broken := false
	for _, suite := range suites {
		fmt.Printf("=== go test %s\n", strings.Join(append(slices.Clone(flags), suite...), " "))
		if err := runSuite(s, flags, suite); err != nil {
			fmt.Fprintln(os.Stderr, "testsum:", err)
			broken = true
		}
	}
	s.print()
	if broken || s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

// split cuts the arguments at each "--".
func split(args []string) (flags []string, suites [][]string) {
	for i, a := range args {
		if a == "--" {
			head, rest := split(args[i+1:])
			return args[:i], append([][]string{head}, rest...)
		}
	}
	return args, nil
}

// runSuite runs go test once. It returns an error when go test failed for a reason that was not
// counted as a failure.
func runSuite(s *summary, flags, suite []string) error {
	failedBefore := s.failed
	args, err := expand(suite)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append(append([]string{"test", "-json"}, flags...), args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	readErr := s.read(out)
	if err := cmd.Wait(); err != nil && s.failed == failedBefore {
		return fmt.Errorf("go test: %w", err)
	}
	return readErr
}

// expand replaces the package patterns of a suite by the packages that its exclusions leave.
func expand(suite []string) ([]string, error) {
	var flags, patterns, without []string
	for _, a := range suite {
		switch {
		case strings.HasPrefix(a, "!"):
			without = append(without, a[1:])
		case strings.HasPrefix(a, "-"):
			flags = append(flags, a)
		default:
			patterns = append(patterns, a)
		}
	}
	if len(without) == 0 {
		return append(flags, patterns...), nil
	}
	b, err := exec.Command("go", append([]string{"list"}, patterns...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(patterns, " "), err)
	}
	for _, p := range strings.Fields(string(b)) {
		if !slices.ContainsFunc(without, func(w string) bool { return strings.Contains(p+"/", w) }) {
			flags = append(flags, p)
		}
	}
	return flags, nil
}

// event is one line of go test -json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Output      string
	FailedBuild string
}

// summary counts events and keeps output until it is known whether it is wanted.
type summary struct {
	w                       io.Writer
	passed, failed, skipped int
	skips                   []string
	output                  map[string][]string // of tests that have not ended, by package and test
	failedIn                map[string]bool     // packages with a failed test
}

func newSummary(w io.Writer) *summary {
	return &summary{w: w, output: map[string][]string{}, failedIn: map[string]bool{}}
}

// read takes events until the end of r.
func (s *summary) read(r io.Reader) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var ev event
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			fmt.Fprintln(s.w, sc.Text()) // not an event: go test talks plainly when it cannot start
			continue
		}
		s.take(ev)
	}
	return sc.Err()
}

// take counts one event. Output of a subtest is kept with its test.
func (s *summary) take(ev event) {
	test, sub, isSub := strings.Cut(ev.Test, "/")
	key := ev.Package + " " + test
	switch ev.Action {
	case "build-output":
		fmt.Fprint(s.w, ev.Output)
	case "output":
		if ev.Test == "" {
			s.packageLine(ev.Output)
		} else {
			s.output[key] = append(s.output[key], ev.Output)
		}
	case "pass", "fail", "skip":
		switch {
		case ev.Test == "":
			s.endPackage(ev)
		case isSub && ev.Action == "skip":
			s.noteSkip(ev.Package, test+"/"+sub, s.output[key])
		case !isSub:
			s.endTest(ev, key)
		}
	}
}

// packageLine prints the lines of go test that tell a package's result.
func (s *summary) packageLine(line string) {
	if line == "PASS\n" || strings.HasPrefix(line, "coverage:") || strings.Contains(line, "[no test files]") {
		return
	}
	fmt.Fprint(s.w, line)
}

func (s *summary) endPackage(ev event) {
	if ev.Action != "fail" {
		return
	}
	if !s.failedIn[ev.Package] {
		s.failed++ // did not build, or died outside of a test
	}
	// A test that was running when the process died has no end of its own.
	var left []string
	for key := range s.output {
		if strings.HasPrefix(key, ev.Package+" ") {
			left = append(left, key)
		}
	}
	slices.Sort(left)
	for _, key := range left {
		s.printOutput(key)
	}
}

func (s *summary) endTest(ev event, key string) {
	switch ev.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.noteSkip(ev.Package, ev.Test, s.output[key])
	case "fail":
		s.failed++
		s.failedIn[ev.Package] = true
		s.printOutput(key)
	}
	delete(s.output, key)
}

func (s *summary) printOutput(key string) {
	fmt.Fprintf(s.w, "\n=== %s\n", key)
	for _, line := range s.output[key] {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(s.w, line)
		}
	}
	fmt.Fprintln(s.w)
	delete(s.output, key)
}

// noteSkip keeps the reason that the test gave.
func (s *summary) noteSkip(pkg, test string, output []string) {
	why := ""
	for _, line := range output {
		t := strings.TrimSpace(line)
		if t != "" && !strings.HasPrefix(t, "===") && !strings.HasPrefix(t, "---") {
			why = t
		}
	}
	s.skips = append(s.skips, fmt.Sprintf("SKIPPED %s %s: %s", pkg, test, why))
}

// print writes the end of the report.
func (s *summary) print() {
	for _, line := range s.skips {
		fmt.Fprintln(s.w, line)
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}
