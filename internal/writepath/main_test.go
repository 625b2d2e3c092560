package writepath

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// roleEnv has this test program enter the write path instead of running tests: what Enter does cannot be
// taken back, and is nothing for the process that runs all tests.
const roleEnv = "WRITEPATH_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "" {
		os.Exit(m.Run())
	}
	if err := json.NewEncoder(os.Stdout).Encode(enterAndTell()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// told is what the process that entered has to tell.
type told struct {
	Lacks   []string
	State   State
	Threads int      // at the end
	Child   []string // flags and score of a child
	Again   State    // after the child was started
	Lost    int64    // bytes that were resident before memory was given back, and not after
	Faults  []string
}

func enterAndTell() (out told) {
	fault := func(err error) {
		if err != nil {
			out.Faults = append(out.Faults, err.Error())
		}
	}
	hold := make(chan struct{})
	defer close(hold)
	threads(16, hold) // there before
	for _, l := range Enter(All()) {
		out.Lacks = append(out.Lacks, fmt.Sprintf("%s (%v; %s)", l.What, l.Err, l.Next))
	}
	threads(16, hold) // made after
	var err error
	out.State, err = Look()
	fault(err)

	const size = 64 << 20
	b := make([]byte, size)
	for i := 0; i < size; i += os.Getpagesize() {
		b[i] = 1
	}
	before := resident(fault)
	runtime.KeepAlive(b)
	b = nil
	debug.FreeOSMemory()
	out.Lost = before - resident(fault)

	cmd := exec.Command(os.Args[0], "-test.run", "^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), roleEnv+"=") // a child that runs the one test
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	fault(Start(cmd))
	fault(cmd.Wait())
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "child: "); ok {
			out.Child = strings.Fields(rest)
		}
	}
	out.Again, err = Look()
	fault(err)
	tasks, err := os.ReadDir("/proc/self/task")
	fault(err)
	out.Threads = len(tasks)
	return out
}

// threads makes n threads and returns when they run; they stay until hold is closed.
func threads(n int, hold chan struct{}) {
	up := make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread()
			up <- struct{}{}
			<-hold
		}()
	}
	for range n {
		<-up
	}
}

// resident is how many bytes of this process are in memory.
func resident(fault func(error)) int64 {
	text, err := os.ReadFile("/proc/self/statm")
	fault(err)
	var all, pages int64
	_, err = fmt.Sscan(string(text), &all, &pages)
	fault(err)
	return pages * int64(os.Getpagesize())
}
