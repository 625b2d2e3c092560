package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
	"github.com/lockstep-ha/lockstep/tests/internal/synced"
	"github.com/lockstep-ha/lockstep/tests/internal/userdev"
)

// mounted is a file system on an export: NBD -> nbdfuse -> loop device -> mount. It needs no
// kernel module beyond FUSE and loop.
type mounted struct {
	t    testing.TB
	dir  string // where the files are
	base string
	loop string
	fuse *proc.Proc
}

// needMount skips the test where nothing can be mounted.
func needMount(t testing.TB) {
	t.Helper()
	need.Root(t, "to mount a file system")
	need.Tool(t, "nbdfuse", "libnbd-bin")
	need.Tool(t, "mkfs.ext4", "e2fsprogs")
	need.Tool(t, "losetup", "mount")
	need.Tool(t, "fusermount3", "fuse3")
	need.Device(t, "/dev/fuse")
	need.Device(t, "/dev/loop-control")
}

// attach makes a loop device of an export; mkfs makes an ext4 on it first.
func attach(t testing.TB, uri string, mkfs bool) *mounted {
	t.Helper()
	m := &mounted{t: t, base: t.TempDir()}
	fuseDir := filepath.Join(m.base, "fuse")
	m.dir = filepath.Join(m.base, "mnt")
	for _, d := range []string{fuseDir, m.dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.fuse = proc.Start(t, "nbdfuse", fuseDir, uri)
	file := filepath.Join(fuseDir, "nbd")
	proc.Eventually(t, "nbdfuse", func() error {
		_, err := os.Stat(file)
		return err
	})
	m.loop = strings.TrimSpace(proc.Run(t, "losetup", "-f", "--show", file))
	t.Cleanup(m.detach)
	if mkfs {
		proc.Run(t, "mkfs.ext4", "-q", "-F", m.loop)
	}
	proc.Run(t, "mount", "-t", "ext4", m.loop, m.dir)
	return m
}

// detach undoes attach, in order; a second call does nothing.
func (m *mounted) detach() {
	m.t.Helper()
	if m.loop == "" {
		return
	}
	if out, err := proc.Try(m.t, "umount", m.dir); err != nil {
		m.t.Errorf("umount: %v\n%s", err, out)
	}
	if out, err := proc.Try(m.t, "losetup", "-d", m.loop); err != nil {
		m.t.Errorf("losetup -d: %v\n%s", err, out)
	}
	m.loop = ""
	fuseDir := filepath.Join(m.base, "fuse")
	// The loop device lets go of the file a moment after losetup returns.
	err := proc.Poll(proc.Limit, func() error {
		_, err := proc.Try(m.t, "fusermount3", "-u", fuseDir)
		return err
	})
	if err != nil {
		m.t.Errorf("fusermount3 -u: %v", err)
	}
	if _, err := m.fuse.Wait(m.t); err != nil {
		m.t.Errorf("nbdfuse: %v\n%s", err, m.fuse.Output())
	}
}

func TestExt4_SourceTree_SurvivesSwitchover_AndIsCleanOnBothFiles(t *testing.T) {
	needMount(t)
	c := cluster.Up(t, cluster.Options{SizeBytes: 192 * cluster.MiB})
	src := goSource(t, "net")

	m := attach(t, c.URI("n1"), true)
	proc.Run(t, "cp", "-a", src, filepath.Join(m.dir, "tree"))
	proc.Run(t, "rm", "-r", filepath.Join(m.dir, "tree", "http")) // blocks freed and used again
	proc.Run(t, "cp", "-a", filepath.Join(src, "http"), filepath.Join(m.dir, "tree", "http"))
	proc.Run(t, "sync", "-f", m.dir)
	proc.Run(t, "fstrim", m.dir)
	m.detach()
	c.Identical("n1")

	c.MustCLI("n1", "switchover", "r0", "--to", "n2")
	c.WaitPrimary("n2")
	m = attach(t, c.URI("n2"), false)
	proc.Run(t, "diff", "-r", "--no-dereference", src, filepath.Join(m.dir, "tree"))
	m.detach()
	c.Identical("n2")
	for _, node := range c.DataNodes() {
		proc.Run(t, "e2fsck", "-fn", c.Data(node))
	}
}

func TestExt4_PrimaryLost_OtherNodeHoldsEverySyncedFile(t *testing.T) {
	needMount(t)
	c := cluster.Up(t, cluster.Options{SizeBytes: 128 * cluster.MiB})
	m := attach(t, c.URI("n1"), true)
	src := goSource(t, "os")
	proc.Run(t, "cp", "-a", src, filepath.Join(m.dir, "tree"))
	proc.Run(t, "sync", "-f", m.dir)
	m.detach()

	// The primary's host is lost; the operator says so.
	c.Kill("n1")
	c.MustCLI("n2", "promote", "r0", "--on", "n2", "--confirm-peer-down")
	c.WaitPrimary("n2")
	m = attach(t, c.URI("n2"), false)
	proc.Run(t, "diff", "-r", "--no-dereference", src, filepath.Join(m.dir, "tree"))
	m.detach()
	proc.Run(t, "e2fsck", "-fn", c.Data("n2"))
	c.Start("n1")
	c.Identical("n2")
}

// writer writes to a file system, step after step.
type writer struct {
	series  synced.Series
	steps   atomic.Int64
	longest atomic.Int64 // of a step since the last stall, in nanoseconds
	stop    atomic.Bool
	ended   chan error
}

func startWriter(dir string) *writer {
	w := &writer{series: synced.Series{Dir: dir, Run: 1}, ended: make(chan error, 1)}
	go func() {
		w.ended <- w.series.Write(func(step int, took time.Duration) bool {
			w.longest.Store(max(w.longest.Load(), int64(took)))
			w.steps.Store(int64(step))
			return !w.stop.Load()
		})
	}()
	return w
}

// flows returns when so many more steps are synced.
func (w *writer) flows(t testing.TB, more int64) {
	t.Helper()
	want := w.steps.Load() + more
	proc.Eventually(t, "synced steps", func() error {
		select {
		case err := <-w.ended:
			w.ended <- err
			t.Fatalf("the writer has ended: %v", err)
		default:
		}
		if w.steps.Load() < want {
			return errors.New("the file system stands still")
		}
		return nil
	})
}

// stall returns how long the longest step took from act until it flows again.
func (w *writer) stall(t testing.TB, act func()) time.Duration {
	t.Helper()
	w.longest.Store(0)
	act()
	w.flows(t, 20)
	return time.Duration(w.longest.Load()).Round(time.Millisecond)
}

func TestExt4_ThroughTheRelay_LivesThroughKillAndSwitchovers(t *testing.T) {
	needMount(t)
	c := cluster.Up(t, cluster.Options{SizeBytes: 192 * cluster.MiB})
	d, err := userdev.Attach(t.Context(), t.TempDir(), "r0", []string{c.URI("n1"), c.URI("n2")}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	fs, err := userdev.Mount(t.Context(), t.TempDir(), d)
	if err != nil {
		d.Stop()
		t.Fatal(err)
	}
	mounted := true
	t.Cleanup(func() {
		if mounted {
			fs.Kill()
		}
	})
	before, err := fs.Options()
	must(t, err)
	w := startWriter(fs.Dir)
	w.flows(t, 20)
	other := map[string]string{"n1": "n2", "n2": "n1"}
	primary := "n1"
	for range 3 {
		to := other[primary]
		t.Logf("switchover to %s: stood still for %v", to, w.stall(t, func() { c.MustCLI(to, "switchover", "r0", "--to", to) }))
		primary = to
	}
	c.WaitInSync(primary)
	t.Logf("%s killed: stood still for %v", primary, w.stall(t, func() { c.Kill(primary) }))
	c.Start(primary)
	primary = other[primary]
	c.WaitInSync(primary)
	w.flows(t, 20)
	w.stop.Store(true)
	must(t, <-w.ended)
	if after, err := fs.Options(); err != nil || after != before {
		t.Errorf("mounted %s at first, now %s, %v", before, after, err)
	}
	must(t, fs.Again())
	must(t, w.series.Verify(int(w.steps.Load())))
	must(t, fs.Unmount())
	mounted = false
	c.Identical(primary)
	for _, node := range c.DataNodes() {
		proc.Run(t, "e2fsck", "-fn", c.Data(node))
	}
}
