package writepath

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// enter runs a process that enters the write path.
func enter(t *testing.T) told {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=enter")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var out told
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	t.Logf("%+v", out)
	for _, f := range out.Faults {
		t.Error(f)
	}
	return out
}

// lacks reports whether one of the lacks speaks of word.
func (o told) lacks(word string) bool {
	return strings.Contains(strings.Join(o.Lacks, "\n"), word)
}

// foreignThreads reports whether this program is built with cgo.
func foreignThreads() bool {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	return errno == unix.ENOTSUP
}

func TestEnter_FlagsEveryThread_OrSaysWhyNot(t *testing.T) {
	out := enter(t)
	if out.Threads < 32 {
		t.Errorf("%d threads; the test means to have more than 32", out.Threads)
	}
	want := hasCapability(unix.CAP_SYS_RESOURCE) && !foreignThreads()
	if out.State.IOFlusher != want || out.Again.IOFlusher != want {
		t.Errorf("flag set: %v, after a child was started: %v, want %v", out.State.IOFlusher, out.Again.IOFlusher, want)
	}
	if out.lacks("PR_SET_IO_FLUSHER") == want {
		t.Errorf("lacks: %q", out.Lacks)
	}
}

func TestEnter_LocksMemory_AndStillGivesItBack(t *testing.T) {
	out := enter(t)
	want := unlimitLocks() == nil
	if out.State.Locked != want || out.lacks("not locked") == want {
		t.Errorf("locked: %v, want %v; lacks: %q", out.State.Locked, want, out.Lacks)
	}
	if out.Lost < 48<<20 {
		t.Errorf("of 64 MiB that were not needed any more, %d bytes were given back", out.Lost)
	}
}

func TestEnter_LowersTheScoreAsFarAsIsAllowed(t *testing.T) {
	before, err := ownScore()
	if err != nil {
		t.Fatal(err)
	}
	out := enter(t)
	if hasCapability(unix.CAP_SYS_RESOURCE) != (out.State.Score == leastScore) && before != leastScore {
		t.Errorf("score %d", out.State.Score)
	}
	if out.State.Score > before {
		t.Errorf("the score rose from %d to %d", before, out.State.Score)
	}
	if out.lacks("OOM killer") != (out.State.Score > leastScore) {
		t.Errorf("score %d, lacks: %q", out.State.Score, out.Lacks)
	}
}

// TestChild tells what it inherited. It is run by the process that entered, and on its own proves that
// nothing else sets the flag.
func TestChild(t *testing.T) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	flags, err := taskFlags(text)
	if err != nil {
		t.Fatal(err)
	}
	score, err := ownScore()
	if err != nil {
		t.Fatal(err)
	}
	if flags&pfIOFlusher != 0 {
		t.Errorf("flags %#x: the flag was inherited", flags)
	}
	os.Stdout.WriteString("child: " + strconv.FormatUint(flags, 16) + " " + strconv.Itoa(score) + "\n")
}

func TestStart_ChildInheritsNeitherFlagNorScore(t *testing.T) {
	out := enter(t) // a child that inherited the flag fails, and so the process that waits for it
	if len(out.Child) != 2 {
		t.Fatalf("the child said %q", out.Child)
	}
	if score, err := strconv.Atoi(out.Child[1]); err != nil || score < 0 {
		t.Errorf("the score of the child is %s", out.Child[1])
	}
}

func TestStart_ReturnsWhyAProgramDidNotStart(t *testing.T) {
	if err := Start(exec.CommandContext(t.Context(), "/does/not/exist")); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestEnter_NothingWanted_NothingDone(t *testing.T) {
	before, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	if lacks := Enter(Options{}); len(lacks) != 0 {
		t.Errorf("%v", lacks)
	}
	if after, err := Look(); err != nil || after != before {
		t.Errorf("before %+v, after %+v, %v", before, after, err)
	}
}
