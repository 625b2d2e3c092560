package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
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
