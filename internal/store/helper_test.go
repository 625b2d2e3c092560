package store

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const testSize = 300<<20 + 4096 // three bitmap pages, the last one partial

// TestMain lets a test run this program as the other process that holds a replica.
func TestMain(m *testing.M) {
	if hold := os.Getenv("LOCKSTEP_TEST_HOLD"); hold != "" {
		data, meta, _ := strings.Cut(hold, "|")
		s, err := Open(OpenOptions{DataPath: data, MetaPath: meta, BootID: "boot-1"})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		io.Copy(io.Discard, os.Stdin)
		if s.Close(true) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// need skips the test, or fails it when every tool must be there.
func need(tb testing.TB, ok bool, what string) {
	tb.Helper()
	if ok {
		return
	}
	if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
		tb.Fatalf("needs %s", what)
	}
	tb.Skipf("needs %s", what)
}

// replica is the pair of paths of a replica, and how to make it.
type replica struct {
	CreateOptions
}

func newReplica(tb testing.TB, dir string) *replica {
	tb.Helper()
	return replicaIn(dir)
}

func replicaIn(dir string) *replica {
	return &replica{CreateOptions{
		DataPath: filepath.Join(dir, "data"), MetaPath: filepath.Join(dir, "meta"),
		Cluster: "c1", Resource: "r0", ResourceID: 77, Node: "a", Size: testSize,
		Regions: 50, State: UpToDate, BootID: "boot-1", Lineage: []uint64{1, 1<<64 - 1},
	}}
}

func made(tb testing.TB, dir string) *replica {
	tb.Helper()
	r := newReplica(tb, dir)
	if _, err := Create(r.CreateOptions); err != nil {
		tb.Fatal(err)
	}
	return r
}

func (r *replica) options() OpenOptions {
	return OpenOptions{DataPath: r.DataPath, MetaPath: r.MetaPath, BootID: "boot-1"}
}

func (r *replica) open(tb testing.TB, changes ...func(*OpenOptions)) *Store {
	tb.Helper()
	o := r.options()
	for _, f := range changes {
		f(&o)
	}
	s, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close(false) })
	return s
}

// on runs f on tmpfs and on the filesystem of the temporary directory.
func on(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("tmpfs", func(t *testing.T) {
		dir, err := os.MkdirTemp("/dev/shm", "lockstep-store-")
		need(t, err == nil, "a tmpfs at /dev/shm")
		t.Cleanup(func() { os.RemoveAll(dir) })
		f(t, dir)
	})
	t.Run("tempdir", func(t *testing.T) { f(t, t.TempDir()) })
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// patch changes bytes of a file behind the back of everyone.
func patch(tb testing.TB, path string, off int64, p []byte) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(tb, err)
	defer f.Close()
	_, err = f.WriteAt(p, off)
	must(tb, err)
}

func contents(tb testing.TB, path string, off int64, n int) []byte {
	tb.Helper()
	f, err := os.Open(path)
	must(tb, err)
	defer f.Close()
	p := make([]byte, n)
	_, err = f.ReadAt(p, off)
	must(tb, err)
	return p
}

// faulty answers for a file what its hooks say. A nil hook, and a hook that returns nil, lets the
// call through.
type faulty struct {
	file
	mu         sync.Mutex
	onRead     func(off int64) error
	onWrite    func(off int64, dsync bool) error
	onSync     func() error
	onAllocate func(mode uint32) error
	maxWrite   int // longest write that is not cut short; 0 is no limit
	syncs      int
}

// set changes the hooks.
func (f *faulty) set(change func(*faulty)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faulty) pread(p []byte, off int64) (int, error) {
	f.mu.Lock()
	hook := f.onRead
	f.mu.Unlock()
	if hook != nil {
		if err := hook(off); err != nil {
			return 0, err
		}
	}
	return f.file.pread(p, off)
}

func (f *faulty) pwrite(p []byte, off int64, dsync bool) (int, error) {
	f.mu.Lock()
	hook, limit := f.onWrite, f.maxWrite
	f.mu.Unlock()
	if hook != nil {
		if err := hook(off, dsync); err != nil {
			return 0, err
		}
	}
	if limit > 0 && len(p) > limit {
		p = p[:limit]
	}
	return f.file.pwrite(p, off, dsync)
}

func (f *faulty) datasync() error {
	f.mu.Lock()
	hook := f.onSync
	f.syncs++
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	return f.file.datasync()
}

func (f *faulty) fallocate(mode uint32, off, n int64) error {
	f.mu.Lock()
	hook := f.onAllocate
	f.mu.Unlock()
	if hook != nil {
		if err := hook(mode); err != nil {
			return err
		}
	}
	return f.file.fallocate(mode, off, n)
}

// openFaulty opens r with both files faulty.
func (r *replica) openFaulty(tb testing.TB) (s *Store, data, meta *faulty) {
	tb.Helper()
	s = r.open(tb, func(o *OpenOptions) {
		o.wrap = func(name string, f file) file {
			w := &faulty{file: f}
			if name == "data" {
				data = w
			} else {
				meta = w
			}
			return w
		}
	})
	return s, data, meta
}

// memFile is the image of a file after a crash; it can be read.
type memFile struct {
	file
	b []byte
}

func (m memFile) pread(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, nil
	}
	return copy(p, m.b[off:]), nil
}

func (m memFile) seek(int64, int) (int64, error) { return 0, unix.EINVAL }

func pattern(n int, seed byte) []byte {
	p := bytes.Repeat([]byte{seed | 1}, n)
	for i := range p {
		p[i] += byte(i >> 9)
	}
	return p
}
