package sim

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "replay this seed only; with -v its event log is shown")
	seedsFlag  = flag.Uint64("seeds", 150, "number of seeds to run")
	firstFlag  = flag.Uint64("first", 1, "first seed to run")
	procsFlag  = flag.Int("procs", 0, "run the seeds in so many processes, and report the whole; 0: in this one")
	workerFlag = flag.String("worker", "", "used by -procs: run every n-th seed beginning with the i-th, i/n, and report to the parent")
	digestFlag = flag.Bool("digests", false, "used by the test of determinism: print a digest of each seed's log")
)

// mostFailures ends a set of seeds: what many of them find is mostly one thing.
const mostFailures = 10

// TestSeeds runs a short set of seeds, or what the flags say: one seed, or many in several processes
// (make sim).
func TestSeeds(t *testing.T) {
	tuneGC()
	switch {
	case *workerFlag != "":
		work(t, *workerFlag)
	case *seedFlag != 0:
		replay(t, *seedFlag)
	case *procsFlag > 0:
		runFleet(t, *procsFlag, *firstFlag, *seedsFlag)
	default:
		runHere(t, *firstFlag, *seedsFlag)
	}
}

// tuneGC lets the heap grow: a run holds little at a time, and makes much garbage.
func tuneGC() { debug.SetGCPercent(800) }

func runHere(t *testing.T, first, n uint64) {
	start, total, failures := time.Now(), Stats{}, 0
	for seed := first; seed < first+n && failures < mostFailures; seed++ {
		w := Run(Draw(seed), false)
		total = sumOf(total, w.Stats())
		f := w.Failure()
		if f == nil {
			continue
		}
		if failures++; failures > 1 { // one is told in full
			t.Errorf("seed %d: %s\n  %s", seed, headline(f.Text), replayCommand(seed))
			continue
		}
		t.Error(autopsy(seed, f))
	}
	t.Logf("%s in %v", countsOf(total), time.Since(start).Round(time.Millisecond))
}

func replay(t *testing.T, seed uint64) {
	w := Run(Draw(seed), testing.Verbose())
	if testing.Verbose() {
		t.Logf("%v\n%s", w.Config, w.Log())
	}
	if f := w.Failure(); f != nil {
		t.Errorf("%s\n%s", autopsy(seed, f), w.describe())
	}
	t.Log(countsOf(w.Stats()))
}

// TestRegressions runs the seeds that once found something.
func TestRegressions(t *testing.T) {
	tuneGC()
	for _, r := range readRegressions(t) {
		if f := Run(Draw(r.seed), false).Failure(); f != nil {
			t.Errorf("%s\nit once found: %s", autopsy(r.seed, f), r.found)
		}
	}
}

// regression is one line of testdata/regressions.txt.
type regression struct {
	seed  uint64
	found string
}

func readRegressions(t *testing.T) (list []regression) {
	t.Helper()
	b, err := os.ReadFile("testdata/regressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		first, found, _ := strings.Cut(line, " ")
		seed, err := strconv.ParseUint(first, 10, 64)
		if err != nil || seed == 0 || strings.TrimSpace(found) == "" {
			t.Fatalf("testdata/regressions.txt:%d: want a seed and what it found: %q", number, line)
		}
		list = append(list, regression{seed, strings.TrimSpace(found)})
	}
	return list
}

// digestSeeds returns the seeds of the test of determinism: the first three of each shape of cluster.
func digestSeeds() (seeds []uint64) {
	of := map[Shape]int{}
	for seed := uint64(1); len(seeds) < 3*int(shapes); seed++ {
		if shape := Draw(seed).Config.Shape; of[shape] < 3 {
			of[shape]++
			seeds = append(seeds, seed)
		}
	}
	return seeds
}

// A seed names one run: the log of a second run, in this process and in another one, is the same to
// the byte. Map order and the addresses of the heap differ between the two.
func TestRun_Again_GivesTheSameLogByteForByte(t *testing.T) {
	tuneGC()
	if *digestFlag {
		for _, seed := range digestSeeds() {
			fmt.Printf("digest %d %x\n", seed, sha256.Sum256(wholeLog(seed)))
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-digests")
	var other bytes.Buffer
	cmd.Stdout, cmd.Stderr = &other, &other
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	digests := ""
	for _, seed := range digestSeeds() {
		a, b := wholeLog(seed), wholeLog(seed)
		if at, differ := firstLineThatDiffers(a, b); differ {
			t.Errorf("seed %d: the second run differs from the first:\n%s", seed, at)
		}
		digests += fmt.Sprintf("digest %d %x\n", seed, sha256.Sum256(a))
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the other process: %v\n%s", err, other.String())
	}
	if !strings.HasPrefix(other.String(), digests) {
		t.Errorf("another process sees other runs:\n%s\nthis one:\n%s", other.String(), digests)
	}
}

// wholeLog returns every line that the log of a run has kept, and what the run counted.
func wholeLog(seed uint64) []byte {
	w := Run(Draw(seed), true)
	l := w.Log()
	var b strings.Builder
	for i := range l.ring {
		l.line(&b, l.ring[(l.next+i)%len(l.ring)])
	}
	fmt.Fprintf(&b, "%d lines, %+v, %v\n", l.added, w.Stats(), w.Failure())
	return []byte(b.String())
}

// firstLineThatDiffers shows it as both have it.
func firstLineThatDiffers(a, b []byte) (text string, differ bool) {
	x, y := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x):
			return fmt.Sprintf("line %d is new:  %s", i+1, y[i]), true
		case i >= len(y):
			return fmt.Sprintf("line %d is gone: %s", i+1, x[i]), true
		case !bytes.Equal(x[i], y[i]):
			return fmt.Sprintf("line %d was: %s\nand now:   %s", i+1, x[i], y[i]), true
		}
	}
	return "", false
}
