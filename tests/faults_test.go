package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// fill writes non-zero blocks of 64 KiB to an export, until done or an error.
func fill(c *nbdclient.Client, from, to int64) error {
	buf := make([]byte, 64<<10)
	for off := from; off < to; off += int64(len(buf)) {
		for i := range buf {
			buf[i] = byte(off>>16) | 1
		}
		if err := c.WriteAt(buf, off); err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
	}
	return nil
}

// damaged stops n2 cleanly, lets hurt do something to its files, starts it again, and returns what
// n1 and n2 then say of n2's replica. The primary must serve all along.
func damaged(t *testing.T, hurt func(c *cluster.Cluster, n2 cluster.Files)) (c *cluster.Cluster, own control.Resource) {
	t.Helper()
	c = cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	if err := fill(client, 0, 8*cluster.MiB); err != nil {
		t.Fatal(err)
	}
	c.Signal("n2", syscall.SIGTERM)
	hurt(c, c.Files("n2"))
	c.Start("n2")
	own = c.Eventually("n2", "n2 to judge its replica", func(r control.Resource) error {
		if r.DiskState == "" || r.DiskState == control.DiskUnknown {
			return fmt.Errorf("disk state %q", r.DiskState)
		}
		return nil
	})
	if err := fill(client, 8*cluster.MiB, 12*cluster.MiB); err != nil {
		t.Errorf("the primary does not serve any more: %v", err)
	}
	return c, own
}

// requireOut fails the test unless n2's replica is out of the set, unused, and explained.
func requireOut(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	r := c.Eventually("n2", "n2 to say what is wrong", func(r control.Resource) error {
		switch r.DiskState {
		case control.DiskFailed, control.DiskDiskless, control.DiskDiverged:
		default:
			return fmt.Errorf("disk state %s", r.DiskState)
		}
		if len(r.Advice) == 0 {
			return errors.New("no advice")
		}
		return nil
	})
	t.Logf("%s: %q", r.DiskState, r.Advice)
	c.WaitAlone("n1", "n2")
	if res := c.CLI("n2", "promote", "r0", "--on", "n2", "--confirm-peer-down"); res.Code == 0 {
		t.Errorf("a damaged replica was promoted:\n%v", res)
	}
	c.WaitPrimary("n1")
}

func TestBackingFileMissing_ReplicaIsOut_AndPrimaryServes(t *testing.T) {
	c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) { must(t, os.Remove(n2.Data)) })
	requireOut(t, c)
}

func TestBackingFileShort_ReplicaIsOut_AndPrimaryServes(t *testing.T) {
	c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) { must(t, os.Truncate(n2.Data, cluster.MiB)) })
	requireOut(t, c)
}

func TestBackingFileReplaced_ReplicaIsOut_AndPrimaryServes(t *testing.T) {
	c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) {
		must(t, os.Rename(n2.Data, n2.Data+".gone"))
		must(t, os.WriteFile(n2.Data, nil, 0o600))
		must(t, os.Truncate(n2.Data, 64*cluster.MiB))
	})
	requireOut(t, c)
}

func TestBackingFileReadOnly_ReplicaIsOut_AndPrimaryServes(t *testing.T) {
	need.Root(t, "to mount a file read-only")
	c, _ := damaged(t, func(c *cluster.Cluster, n2 cluster.Files) {
		proc.Run(t, "mount", "--bind", n2.Data, n2.Data)
		t.Cleanup(func() { proc.Try(t, "umount", "-l", n2.Data) })
		proc.Run(t, "mount", "-o", "remount,bind,ro", n2.Data)
	})
	requireOut(t, c)
}

func TestMetadata_OneSlotTorn_IsRecoveredFromTheOther(t *testing.T) {
	for slot := range int64(2) {
		t.Run(fmt.Sprintf("slot%d", slot), func(t *testing.T) {
			c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) {
				overwrite(t, n2.Meta, slot*superSize, make([]byte, 4096))
			})
			c.Identical("n1")
		})
	}
}

func TestMetadata_BothSlotsDamaged_ReplicaIsOut_AndDumpSaysSo(t *testing.T) {
	c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) {
		flip(t, n2.Meta, 100)
		flip(t, n2.Meta, superSize+100)
	})
	requireOut(t, c)
	if res := cluster.CLI(t, "dump-meta", c.Files("n2").Meta); res.Code == 0 || res.Code == 2 {
		t.Errorf("%v", res)
	}
}

func TestMetadata_OfANewerVersion_IsRefusedAndLeftAlone(t *testing.T) {
	var before []byte
	c, _ := damaged(t, func(_ *cluster.Cluster, n2 cluster.Files) {
		for slot := range int64(2) {
			overwrite(t, n2.Meta, slot*superSize+8, []byte{0, 0, 0, 99})
		}
		before = read(t, n2.Meta)
	})
	requireOut(t, c)
	if string(read(t, c.Files("n2").Meta)) != string(before) {
		t.Error("metadata of a newer version was changed")
	}
	res := cluster.CLI(t, "dump-meta", c.Files("n2").Meta)
	if res.Code == 0 || index(res.Stderr, "newer") < 0 {
		t.Errorf("%v", res)
	}
}

// superSize is the distance of the two superblock slots of a metadata file, in bytes; their version
// is the 32-bit number at offset 8. Source: docs/format.md.
const superSize = 128 << 10

func overwrite(t testing.TB, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(p, off)
	must(t, err)
}

func flip(t testing.TB, path string, off int64) {
	t.Helper()
	overwrite(t, path, off, []byte{^read(t, path)[off]})
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// smallFS mounts a tmpfs of size bytes and returns its directory.
func smallFS(t testing.TB, size int64) string {
	t.Helper()
	need.Root(t, "to mount a small tmpfs")
	dir := t.TempDir()
	proc.Run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", dir)
	t.Cleanup(func() {
		if out, err := proc.Try(t, "umount", "-l", dir); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

// createR1 makes a second resource, r1, of 64 MiB with the given backing files, primary on n1. The
// metadata is elsewhere.
func createR1(t testing.TB, c *cluster.Cluster, data1, data2 string) {
	t.Helper()
	c.MustCLI("n1", "resource", "create", "r1", "--size", "64MiB",
		"--replica", "n1="+data1, "--replica", "n2="+data2,
		"--meta", "n1="+filepath.Join(c.Dir, "n1", "r1.meta"), "--meta", "n2="+filepath.Join(c.Dir, "n2", "r1.meta"))
	c.MustCLI("n1", "promote", "r1", "--on", "n1")
	c.WaitInSyncOf("n1", "r1", "n1", "n2")
}

func TestFileSystemFull_OnThePrimary_ClientSeesENOSPC_AndReplicasEndEqualOrReported(t *testing.T) {
	dir := smallFS(t, 24*cluster.MiB)
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	data := []string{filepath.Join(dir, "r1.img"), filepath.Join(c.Dir, "n2", "r1.img")}
	createR1(t, c, data[0], data[1])
	client := dial(t, c.URIOf("n1", "r1"))
	if err := fill(client, 0, 64*cluster.MiB); !errors.Is(err, nbdclient.ENOSPC) {
		t.Fatalf("writing 64 MiB into 24 MiB ended with: %v", err)
	}
	proc.Run(t, "mount", "-o", fmt.Sprintf("remount,size=%d", 128*cluster.MiB), dir)
	settle(t, c, data)
}

func TestFileSystemFull_OnTheSecondary_ClientGoesOn_AndReplicasEndEqualOrReported(t *testing.T) {
	dir := smallFS(t, 24*cluster.MiB)
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	data := []string{filepath.Join(c.Dir, "n1", "r1.img"), filepath.Join(dir, "r1.img")}
	createR1(t, c, data[0], data[1])
	client := dial(t, c.URIOf("n1", "r1"))
	if err := fill(client, 0, 64*cluster.MiB); err != nil && !errors.Is(err, nbdclient.ENOSPC) {
		t.Fatalf("writing 64 MiB with a secondary of 24 MiB ended with: %v", err)
	}
	proc.Run(t, "mount", "-o", fmt.Sprintf("remount,size=%d", 128*cluster.MiB), dir)
	settle(t, c, data)
}

// settle returns when r1 is in sync again and its files are identical. A replica may also stay out,
// but then it must be reported, with advice; silence with different files fails the test.
func settle(t *testing.T, c *cluster.Cluster, data []string) {
	t.Helper()
	var last control.Resource
	err := proc.Poll(proc.Limit/9, func() error {
		r, err := c.TryStatus("n1", "r1")
		if err != nil {
			return err
		}
		last = r
		for _, p := range r.Replicas {
			if !p.InSync || p.DiskState != control.DiskUpToDate || p.DirtyBytes != 0 {
				return fmt.Errorf("replica %+v", p)
			}
		}
		return nil
	})
	switch {
	case err == nil:
		cluster.RequireSame(t, data[0], data[1])
	case len(last.Advice) == 0:
		t.Errorf("r1 is not in sync, and nothing is said about it: %v", err)
	default:
		t.Logf("not in sync after space was made (%v), reported: %q", err, last.Advice)
	}
}
