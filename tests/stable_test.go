package tests

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// tracer watches the system calls of a node from outside.
type tracer struct {
	t    testing.TB
	out  string
	file string // the backing file, as the node opened it
}

// trace attaches strace to a node and returns when it sees its system calls.
func trace(t testing.TB, c *cluster.Cluster, node string) *tracer {
	t.Helper()
	need.Tool(t, "strace", "strace")
	tr := &tracer{t: t, out: filepath.Join(t.TempDir(), "trace"), file: c.Data(node)}
	p := proc.Start(t, "strace", "-f", "-y", "-s", "0", "-o", tr.out,
		"-e", "trace=fdatasync,fsync,sync_file_range,pwrite64,pwritev,pwritev2,write,sendto,sendmsg,writev",
		"-p", strconv.Itoa(c.Node(node).PID))
	err := proc.Poll(proc.Limit, func() error {
		if !p.Running() {
			return nil
		}
		if st, err := os.Stat(tr.out); err != nil || st.Size() == 0 {
			return errors.New("strace has seen nothing yet")
		}
		return nil
	})
	if err != nil || !p.Running() {
		need.Skip(t, "needs ptrace: %v %s", err, p.Output())
	}
	return tr
}

// stable counts the finished calls that make the backing file's data stable: fdatasync, fsync, and
// writes that carry RWF_DSYNC.
func (tr *tracer) stable() int {
	tr.t.Helper()
	f, err := os.Open(tr.out)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer f.Close()
	n := 0
	begun := map[string]bool{} // by thread: its unfinished call is one that counts
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		thread, call, _ := strings.Cut(sc.Text(), " ")
		call = strings.TrimSpace(call)
		ours := strings.Contains(call, "<"+tr.file+">") &&
			(strings.HasPrefix(call, "fdatasync(") || strings.HasPrefix(call, "fsync(") || strings.Contains(call, "DSYNC"))
		switch {
		case ours && strings.Contains(call, "<unfinished"):
			begun[thread] = true
		case ours && strings.HasSuffix(call, "= 0"), ours && strings.Contains(call, "DSYNC"):
			n++
		case strings.Contains(call, "resumed>") && begun[thread]:
			delete(begun, thread)
			n++
		}
	}
	return n
}

// after runs act and fails the test unless the node made its file stable meanwhile.
func (tr *tracer) after(what string, act func() error) {
	tr.t.Helper()
	before := tr.stable()
	if err := act(); err != nil {
		tr.t.Fatalf("%s: %v", what, err)
	}
	// The answer is here, so the call is over; strace may hold its line back for a moment.
	err := proc.Poll(proc.Limit/9, func() error {
		if n := tr.stable(); n == before {
			return fmt.Errorf("%s was answered, but no call made %s stable", what, tr.file)
		}
		return nil
	})
	if err != nil {
		tr.t.Error(err)
	}
}

func TestFlushAndFUA_ReachTheDiskOfBothNodes_BeforeTheyAreAnswered(t *testing.T) {
	for _, node := range []string{"n2", "n1"} {
		t.Run(node, func(t *testing.T) {
			c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
			client := dial(t, c.URI("n1"))
			tr := trace(t, c, node)
			block := make([]byte, 4096)
			for i := range 8 {
				block[0] = byte(i + 1)
				if err := client.WriteAt(block, int64(i)*4096); err != nil {
					t.Fatal(err)
				}
				tr.after("FLUSH", client.Sync)
				tr.after("a write with FUA", func() error { return client.WriteFUA(block, int64(1000+i)*4096) })
			}
			tr.after("a large write with FUA", func() error { return client.WriteFUA(make([]byte, cluster.MiB), 16*cluster.MiB) })
			c.Identical("n1")
		})
	}
}
