package nbd_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// logged is a go-nbd backend in memory that notes the order of its calls.
type logged struct {
	backend.Backend
	mu      sync.Mutex
	calls   []string
	syncErr error
}

func newLogged(size int) *logged {
	return &logged{Backend: backend.NewMemoryBackend(make([]byte, size))}
}

func (l *logged) note(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, s)
}

func (l *logged) noted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

func (l *logged) WriteAt(p []byte, off int64) (int, error) {
	n, err := l.Backend.WriteAt(p, off)
	l.note("written")
	return n, err
}

func (l *logged) Sync() error {
	l.note("sync")
	return l.syncErr
}

func TestGoNBDBackend_FUASyncsAfterTheWrite_AndFlushSyncs(t *testing.T) {
	l := newLogged(mib)
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(nbd.GoNBDBackend(l), mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	for _, q := range []nbdtest.Command{
		{Type: nbdtest.CmdWrite, Off: 4096, Len: 3},
		{Type: nbdtest.CmdWrite, Off: 8192, Len: 3, Flags: 1},
		{Type: nbdtest.CmdFlush},
		{Type: nbdtest.CmdWriteZeroes, Off: 8193, Len: 1, Flags: 1},
		{Type: nbdtest.CmdTrim, Len: 512}, {Type: nbdtest.CmdCache, Len: 512},
	} {
		var p []byte
		if q.Type == nbdtest.CmdWrite {
			p = []byte("abc")
		}
		if errno, _ := c.Do(q, p); errno != 0 {
			t.Fatalf("%+v: errno %d", q, errno)
		}
	}
	want := []string{"written", "written", "sync", "sync", "written", "sync"}
	if got := l.noted(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	if _, got := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Off: 8192, Len: 3}, nil); !bytes.Equal(got, []byte("a\x00c")) {
		t.Errorf("read %q", got)
	}
	if errno, got := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Off: mib - 5, Len: 5}, nil); errno != 0 || len(got) != 5 {
		t.Errorf("read up to the end: errno %d", errno)
	}
}

func TestGoNBDBackend_SyncThatFailed_IsNeverTriedAgain(t *testing.T) {
	l := newLogged(mib)
	l.syncErr = errors.New("disk is gone")
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(nbd.GoNBDBackend(l), mib, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	for range 3 {
		if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdFlush}, nil); errno != 5 {
			t.Errorf("errno %d", errno)
		}
	}
	if calls := l.noted(); len(calls) != 1 {
		t.Errorf("calls %q", calls)
	}
}

func TestGoNBDBackend_ShortRead_IsAnError(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1000); err != nil { // smaller than the export says
		t.Fatal(err)
	}
	b := nbd.GoNBDBackend(backend.NewFileBackend(f))
	_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(b, 4096, nbd.FeaturesUsual))
	c := nbdtest.Open(t, addr, "m")
	if errno, _ := c.Do(nbdtest.Command{Type: nbdtest.CmdRead, Len: 4096}, nil); errno != 5 {
		t.Errorf("errno %d", errno)
	}
}
