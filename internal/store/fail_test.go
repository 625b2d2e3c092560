package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
)

func eio() error { return unix.EIO }

// checkFailed checks that s answers ErrFailed to everything, now and after a restart.
func checkFailed(t *testing.T, r *replica, s *Store, cause error) {
	t.Helper()
	p := make([]byte, 512)
	calls := func(s *Store) map[string]error {
		_, _, load := s.LoadBitmap(0)
		_, extents := s.Extents(nil, bitmap.Extent{Len: 1}, 1)
		return map[string]error{
			"read": s.ReadAt(p, 0), "write": s.WriteAt(p, 0, false), "sync": s.Sync(), "zeroes": s.Trim(bitmap.Extent{Len: 512}, false),
			"save meta": s.SaveMeta(s.Meta()), "save log": s.SaveLog(nil), "pages": s.SaveBitmapPages(0, nil), "bitmap": s.SaveBitmap(0, bitmap.New(testSize)),
			"load": load, "extents": extents, "resize": s.Resize(2 * testSize), "sync meta": s.SyncMeta(), "failed": s.Failed(),
		}
	}
	for name, err := range calls(s) {
		if !errors.Is(err, ErrFailed) || !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Close(true); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	again := r.open(t)
	if m := again.Meta(); m.State != Failed || m.Failure == "" || m.Clean {
		t.Errorf("after a restart: %+v", m)
	}
	for name, err := range calls(again) {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("after a restart, %s: %v", name, err)
		}
	}
}

func TestFail_IsForGoodAndSurvivesARestart(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(s *Store, data, meta *faulty) error
	}{
		{"sync of the backing", func(s *Store, data, _ *faulty) error {
			data.onSync = eio
			return s.Sync()
		}},
		{"sync of the metadata", func(s *Store, _, meta *faulty) error {
			meta.onSync = eio
			err := s.SaveLog(nil)
			meta.set(func(f *faulty) { f.onSync = nil })
			return err
		}},
		{"write", func(s *Store, data, _ *faulty) error {
			data.onWrite = func(int64, bool) error { return unix.EIO }
			return s.WriteAt(make([]byte, 100), 0, false)
		}},
		{"read", func(s *Store, data, _ *faulty) error {
			data.onRead = func(int64) error { return unix.EIO }
			return s.ReadAt(make([]byte, 100), 0)
		}},
		{"trim", func(s *Store, data, _ *faulty) error {
			data.onAllocate = func(uint32) error { return unix.EIO }
			return s.Trim(bitmap.Extent{Len: 4096}, false)
		}},
		{"data sync of an eviction", func(s *Store, data, _ *faulty) error {
			if err := errors.Join(s.SaveLog([]bitmap.RegionIndex{1}), s.WriteAt(make([]byte, 1), 0, false)); err != nil {
				return err
			}
			data.onSync = eio
			return s.SaveLog(nil)
		}},
		{"write of metadata", func(s *Store, _, meta *faulty) error {
			once := false
			meta.onWrite = func(int64, bool) error {
				if once {
					return nil
				}
				once = true
				return unix.EIO
			}
			return s.SaveMeta(s.Meta())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := made(t, t.TempDir())
			s, data, meta := r.openFaulty(t)
			if err := c.do(s, data, meta); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v", err)
			}
			checkFailed(t, r, s, unix.EIO)
		})
	}
}

func TestFail_FailedSyncIsNotRetried(t *testing.T) {
	r := made(t, t.TempDir())
	s, data, _ := r.openFaulty(t)
	data.onSync = eio
	for range 3 {
		s.Sync()
	}
	s.Close(true)
	if data.syncs != 1 {
		t.Errorf("%d fdatasyncs", data.syncs)
	}
}

func TestFail_LackOfSpaceInASyncIsAFailure(t *testing.T) {
	r := made(t, t.TempDir())
	s, data, _ := r.openFaulty(t)
	data.onSync = func() error { return unix.ENOSPC }
	if err := s.Sync(); !errors.Is(err, ErrFailed) {
		t.Errorf("error %v", err)
	}
	checkFailed(t, r, s, unix.ENOSPC)
}

func TestFail_BackingCutOffInUse(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	must(t, os.Truncate(r.DataPath, 4096))
	if err := s.ReadAt(make([]byte, 4096), 4096); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrBackingShort) {
		t.Errorf("error %v", err)
	}
}

func TestWriteAt_LackOfSpaceIsAnAnswer(t *testing.T) {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT} {
		for _, fua := range []bool{false, true} {
			r := made(t, t.TempDir())
			s, data, _ := r.openFaulty(t)
			data.onWrite = func(int64, bool) error { return errno }
			if err := s.WriteAt(make([]byte, 100), 0, fua); !errors.Is(err, errno) || errors.Is(err, ErrFailed) || s.Failed() != nil {
				t.Errorf("error %v", err)
			}
			data.set(func(f *faulty) { f.onWrite = nil })
			must(t, s.WriteAt(make([]byte, 100), 0, fua))
		}
	}
}

func TestWriteAt_LackOfSpaceInTheSyncOfAFUAFails(t *testing.T) {
	r := made(t, t.TempDir())
	s, data, _ := r.openFaulty(t)
	data.onWrite = func(_ int64, dsync bool) error {
		if dsync {
			return unix.ENOSPC
		}
		return nil
	}
	if err := s.WriteAt(make([]byte, 100), 0, true); !errors.Is(err, ErrFailed) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error %v", err)
	}
}

func TestWriteAt_ShortWriteIsCompletedOrReported(t *testing.T) {
	r := made(t, t.TempDir())
	s, data, _ := r.openFaulty(t)
	data.maxWrite = 1000
	p, got := pattern(8192, 7), make([]byte, 8192)
	must(t, s.WriteAt(p, 5000, false))
	must(t, s.ReadAt(got, 5000))
	if !bytes.Equal(p, got) {
		t.Error("a short write was not completed")
	}
	data.onWrite = func(off int64, _ bool) error {
		if off >= 2000 {
			return unix.ENOSPC
		}
		return nil
	}
	if err := s.WriteAt(p, 0, false); !errors.Is(err, unix.ENOSPC) || s.Failed() != nil {
		t.Errorf("error %v", err)
	}
}

func TestWriteAt_OnAFullFilesystem(t *testing.T) {
	need(t, os.Getuid() == 0, "root")
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		need(t, false, "the right to mount a tmpfs")
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	r := newReplica(t, t.TempDir())
	r.DataPath = filepath.Join(dir, "data")
	_, err := Create(r.CreateOptions)
	must(t, err)
	s := r.open(t)
	p := pattern(256<<10, 3)
	full := int64(-1)
	for off := int64(0); off < 2<<20 && full < 0; off += int64(len(p)) {
		if err := s.WriteAt(p, off, off%(512<<10) == 0); err != nil {
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
				t.Fatalf("error %v", err)
			}
			full = off
		}
	}
	if full < 0 || s.Failed() != nil {
		t.Fatalf("full at %d, failed %v", full, s.Failed())
	}
	if err := s.WriteZeroes(bitmap.Extent{Off: 3 << 20, Len: 1 << 20}, false, false); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("zeroes that need space: %v", err)
	}
	must(t, s.Sync())
	must(t, s.Trim(bitmap.Extent{Len: 4 << 20}, false))
	must(t, s.WriteAt(p, full, true))
}

func TestClose_TwiceAndAfterItEveryCallIsRefused(t *testing.T) {
	s := made(t, t.TempDir()).open(t)
	must(t, s.Close(true))
	must(t, s.Close(true))
	if err := s.WriteAt([]byte{1}, 0, false); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
	if err := s.SaveMeta(s.Meta()); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
}
