package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// kept counts the files that a replacement left beside the paths of a replica.
func kept(t testing.TB, f cluster.Files) (n int) {
	t.Helper()
	for _, p := range []string{f.Data, f.Meta} {
		found, err := filepath.Glob(p + ".replaced-*")
		must(t, err)
		n += len(found)
	}
	return n
}

func TestReplicaReplace_DiskIsLost_TheNodeStays_AndItsReplicaIsCopiedAnew(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	data := make([]byte, cluster.MiB)
	for i := range data {
		data[i] = byte(i * 7)
	}
	write := func(off int64) {
		t.Helper()
		must(t, dial(t, c.URI("n1")).WriteFUA(data, off))
	}
	write(0)
	replace := func() cluster.Result { return c.CLI("n1", "replica", "replace", "r0", "--on", "n2", "--yes") }
	if r := replace(); r.Code != 3 || !strings.Contains(r.Stderr, "is in sync") {
		t.Errorf("in sync: %v", r)
	}
	if r := c.CLI("n1", "replica", "replace", "r0", "--on", "n1", "--yes"); r.Code != 3 || !strings.Contains(r.Stderr, "is primary") {
		t.Errorf("the primary: %v", r)
	}

	// The disk is gone while the daemon is down: a new, empty one is where it was.
	c.Kill("n2")
	c.WaitAlone("n1", "n2")
	write(cluster.MiB)
	files := c.Files("n2")
	must(t, errors.Join(os.Remove(files.Data), os.Remove(files.Meta)))
	c.Start("n2")
	proc.Eventually(t, "n2 to say what to type", func() error {
		r, err := c.TryStatus("n2", "r0")
		if err == nil && !strings.Contains(strings.Join(r.Advice, " "), "lockstep replica replace r0 --on n2") {
			err = errors.New(strings.Join(r.Advice, " "))
		}
		return err
	})
	if r := replace(); r.Code != 0 {
		t.Fatal(r)
	}
	c.WaitInSync("n1")
	if n := kept(t, files); n != 0 {
		t.Errorf("%d files are kept of a disk that was empty", n)
	}

	// The disk is there, and given up while the replica is open.
	c.MustCLI("n1", "disconnect", "r0", "--peer", "n2")
	c.WaitAlone("n1", "n2")
	write(2 * cluster.MiB)
	if r := replace(); r.Code != 0 {
		t.Fatal(r)
	}
	if n := kept(t, files); n != 2 {
		t.Errorf("%d files are kept, not data and metadata", n)
	}
	c.MustCLI("n1", "connect", "r0", "--peer", "n2")
	c.WaitInSync("n1")
	c.MustCLI("n1", "switchover", "r0", "--to", "n2")
	back := make([]byte, len(data))
	for i := range int64(3) {
		must(t, dial(t, c.URI("n2")).ReadAt(back, i*cluster.MiB))
		if string(back) != string(data) {
			t.Errorf("MiB %d is not what was written", i)
		}
	}
	c.WaitInSync("n2")
	c.Identical("n2")
	// A restart opens the new replica, and nothing else.
	c.Kill("n1")
	c.Start("n1")
	c.WaitInSync("n2")
	if r, ok := cluster.Replica(c.Status("n2"), "n2"); !ok || r.DiskState != control.DiskUpToDate {
		t.Errorf("n2 shows %+v", r)
	}
}
