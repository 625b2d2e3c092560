package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tool returns the path of a program of the system's administrator.
func tool(tb testing.TB, names ...string) string {
	tb.Helper()
	for _, name := range names {
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
	}
	need(tb, false, strings.Join(names, " or "))
	return ""
}

// reflinkDir returns a directory on a filesystem whose files can share blocks.
func reflinkDir(t *testing.T) string {
	t.Helper()
	mkfs := tool(t, "mkfs.btrfs", "mkfs.xfs")
	dev, dir := loopDevice(t, 512<<20), t.TempDir()
	out, err := exec.CommandContext(t.Context(), mkfs, "-q", dev).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	_, kind, _ := strings.Cut(filepath.Base(mkfs), ".")
	err = unix.Mount(dev, dir, kind, 0, "")
	need(t, err == nil, "the right to mount "+kind)
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	return dir
}

// spread writes data here and there into the first n bytes of a file, one part of it zeros that take space.
func spread(tb testing.TB, path string, n int64) {
	tb.Helper()
	patch(tb, path, 0, pattern(5000, 3))
	patch(tb, path, 1<<20+100, pattern(2<<20, 5))
	patch(tb, path, 8<<20, make([]byte, 4<<20))
	patch(tb, path, n-10, pattern(10, 7))
}

func sameFile(tb testing.TB, a, b string) {
	tb.Helper()
	x, err := os.ReadFile(a)
	must(tb, err)
	y, err := os.ReadFile(b)
	must(tb, err)
	if !bytes.Equal(x, y) {
		tb.Errorf("%s of %d bytes and %s of %d differ", a, len(x), b, len(y))
	}
}

// onlyFiles checks that a directory holds so many files.
func onlyFiles(tb testing.TB, dir string, n int) {
	tb.Helper()
	left, err := os.ReadDir(dir)
	must(tb, err)
	if len(left) != n {
		tb.Errorf("files: %v, not %d", left, n)
	}
}

func TestClone_SharesBlocksWhereTheFilesystemCan(t *testing.T) {
	dir := reflinkDir(t)
	from, to := filepath.Join(dir, "data"), filepath.Join(dir, "undo")
	must(t, os.WriteFile(from, pattern(64<<20, 3), 0o600))
	free := func() int64 {
		d, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer d.close()
		must(t, unix.Syncfs(d.fd()))
		var st unix.Statfs_t
		must(t, unix.Fstatfs(d.fd(), &st))
		return int64(st.Bfree) * st.Bsize
	}
	before := free()
	shared, err := Clone(t.Context(), from, to, ShareOnly)
	must(t, err)
	if used := before - free(); !shared || used > 8<<20 {
		t.Errorf("shared %t, %d bytes used", shared, used)
	}
	sameFile(t, from, to)
	patch(t, from, 4096, make([]byte, 8192))
	if got := contents(t, to, 0, 64<<20); !bytes.Equal(got, pattern(64<<20, 3)) {
		t.Error("a write to the backing changed its copy")
	}
	onlyFiles(t, dir, 2)
}

func TestClone_WithoutSharingIsRefusedOrCopiesTheBytes(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-store-")
	need(t, err == nil, "a tmpfs at /dev/shm")
	t.Cleanup(func() { os.RemoveAll(dir) })
	from, to := filepath.Join(dir, "data"), filepath.Join(dir, "undo")
	must(t, os.WriteFile(from, nil, 0o600))
	spread(t, from, 20<<20+77)
	if _, err := Clone(t.Context(), from, to, ShareOnly); !errors.Is(err, ErrNoReflink) {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, dir, 1)
	shared, err := Clone(t.Context(), from, to, MayCopy)
	if shared || err != nil {
		t.Fatalf("shared %t, %v", shared, err)
	}
	sameFile(t, from, to)
	onlyFiles(t, dir, 2)
	var st unix.Stat_t
	must(t, unix.Stat(to, &st))
	if got := st.Blocks * 512; got > 4<<20 {
		t.Errorf("the copy takes %d bytes", got)
	}
}

func TestClone_OfABackingInUse(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		r := newReplica(t, dir)
		r.Size = 1 << 20
		_, err := Create(r.CreateOptions)
		must(t, err)
		s := r.open(t)
		must(t, s.WriteAt(pattern(9000, 5), 777, false))
		to := filepath.Join(dir, "undo")
		_, err = Clone(t.Context(), r.DataPath, to, MayCopy)
		must(t, err)
		sameFile(t, r.DataPath, to)
	})
}

func TestClone_OfABlockDevice(t *testing.T) {
	dev, to := loopDevice(t, 20<<20), filepath.Join(t.TempDir(), "undo")
	spread(t, dev, 20<<20)
	if _, err := Clone(t.Context(), dev, to, ShareOnly); !errors.Is(err, ErrNoReflink) {
		t.Errorf("error %v", err)
	}
	shared, err := Clone(t.Context(), dev, to, MayCopy)
	if shared || err != nil {
		t.Fatalf("shared %t, %v", shared, err)
	}
	sameFile(t, dev, to)
}

func TestClone_RefusesAndLeavesNothing(t *testing.T) {
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, c := range []struct {
		name string
		ctx  context.Context
		do   func(t *testing.T, from, to string)
		left int
		want error
	}{
		{"something is there", t.Context(), func(t *testing.T, _, to string) { must(t, os.WriteFile(to, nil, 0o600)) }, 2, os.ErrExist},
		{"a dangling link is there", t.Context(), func(t *testing.T, _, to string) { must(t, os.Symlink("nowhere", to)) }, 2, os.ErrExist},
		{"no backing", t.Context(), func(t *testing.T, from, _ string) { must(t, os.Remove(from)) }, 0, ErrBackingMissing},
		{"a pipe", t.Context(), func(t *testing.T, from, _ string) {
			must(t, os.Remove(from))
			must(t, unix.Mkfifo(from, 0o600))
		}, 1, ErrBackingKind},
		{"stopped", stopped, nil, 1, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/dev/shm", "lockstep-store-")
			need(t, err == nil, "a tmpfs at /dev/shm")
			t.Cleanup(func() { os.RemoveAll(dir) })
			from, to := filepath.Join(dir, "data"), filepath.Join(dir, "undo")
			must(t, os.WriteFile(from, pattern(100, 3), 0o600))
			if c.do != nil {
				c.do(t, from, to)
			}
			if _, err := Clone(c.ctx, from, to, MayCopy); !errors.Is(err, c.want) {
				t.Errorf("error %v", err)
			}
			onlyFiles(t, dir, c.left)
		})
	}
}

func TestClone_OnAFullFilesystemLeavesNothing(t *testing.T) {
	need(t, os.Getuid() == 0, "root")
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		need(t, false, "the right to mount a tmpfs")
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	from := filepath.Join(t.TempDir(), "data")
	must(t, os.WriteFile(from, pattern(2<<20, 3), 0o600))
	if _, err := Clone(t.Context(), from, filepath.Join(dir, "undo"), MayCopy); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, dir, 0)
}
