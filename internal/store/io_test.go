package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
)

// loopDevice returns a free loop device over a new file of size bytes.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	need(t, os.Getuid() == 0, "root")
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, size))
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	need(t, err == nil, "/dev/loop-control")
	defer unix.Close(control)
	n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	need(t, err == nil, "a free loop device")
	name := "/dev/loop" + string(rune('0'+n%10))
	need(t, n < 10, "a loop device below 10")
	loop, err := os.OpenFile(name, os.O_RDWR, 0)
	need(t, err == nil, "loop devices")
	defer loop.Close()
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer image.Close()
	err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(image.Fd())})
	need(t, err == nil, "the right to set up a loop device")
	t.Cleanup(func() {
		loop, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
			loop.Close()
		}
	})
	return name
}

// checkIO compares the store with a slice of bytes through random reads, writes and zeroes.
func checkIO(t *testing.T, s *Store) {
	size := s.Size()
	want := make([]byte, size)
	must(t, s.ReadAt(want, 0))
	rapid.Check(t, func(t *rapid.T) {
		drawn := func() bitmap.Extent {
			unit := rapid.SampledFrom([]int64{1, 512, 4096}).Draw(t, "unit")
			off := rapid.Int64Range(0, size/unit).Draw(t, "off") * unit
			n := rapid.Int64Range(0, min(size-off, 64<<10)/unit).Draw(t, "len") * unit
			return bitmap.Extent{Off: off, Len: n}
		}
		buffer := func(n int64) []byte {
			b := buf.Get(int(n) + 8)
			return b.B[rapid.SampledFrom([]int{0, 1}).Draw(t, "misaligned"):][:n]
		}
		fatal := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				e := drawn()
				p := buffer(e.Len)
				copy(p, pattern(int(e.Len), rapid.Byte().Draw(t, "seed")))
				fatal(s.WriteAt(p, e.Off, rapid.IntRange(0, 9).Draw(t, "fua") == 0))
				copy(want[e.Off:], p)
			},
			"zero": func(t *rapid.T) {
				e := drawn()
				fatal(s.WriteZeroes(e, rapid.Bool().Draw(t, "punch"), rapid.IntRange(0, 9).Draw(t, "fua") == 0))
				clear(want[e.Off:e.End()])
			},
			"trim": func(t *rapid.T) {
				e := drawn()
				fatal(s.Trim(e, false))
				clear(want[e.Off:e.End()])
			},
			"read": func(t *rapid.T) {
				e := drawn()
				p := buffer(e.Len)
				fatal(s.ReadAt(p, e.Off))
				if !bytes.Equal(p, want[e.Off:e.End()]) {
					t.Fatalf("read of %v differs", e)
				}
			},
			"map": func(t *rapid.T) {
				e := drawn()
				segs, err := s.Extents(nil, e, 1000)
				fatal(err)
				for _, seg := range segs {
					if seg.Len <= 0 || seg.Off != e.Off {
						t.Fatalf("segments of %v: %v", e, segs)
					}
					if seg.Hole && !isZero(want[seg.Off:seg.End()]) {
						t.Fatalf("%v is called a hole", seg)
					}
					e.Off, e.Len = seg.End(), e.Len-seg.Len
				}
				if e.Len != 0 {
					t.Fatalf("%v not described", e)
				}
			},
		})
	})
	got := make([]byte, size)
	must(t, s.ReadAt(got, 0))
	if !bytes.Equal(got, want) {
		t.Error("the device differs")
	}
}

func TestIO_BehavesLikeASliceOfBytes(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		for _, c := range []struct {
			name   string
			direct bool
			size   int64
			refuse uint32 // fallocate modes that the backing does not know
		}{
			{"buffered", false, 1<<20 + 777, 0},
			{"buffered without fallocate", false, 1<<20 + 777, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE},
			{"direct", true, 1 << 20, 0},
			{"direct without fallocate", true, 1 << 20, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE},
		} {
			t.Run(c.name, func(t *testing.T) {
				sub := filepath.Join(dir, c.name)
				must(t, os.Mkdir(sub, 0o700))
				r := newReplica(t, sub)
				r.Size = c.size
				_, err := Create(r.CreateOptions)
				must(t, err)
				checkIO(t, r.open(t, func(o *OpenOptions) {
					o.Direct = c.direct
					o.wrap = func(_ string, f file) file {
						return &faulty{file: f, maxWrite: 5 * 4096, onAllocate: func(mode uint32) error {
							if mode&c.refuse != 0 {
								return unix.EOPNOTSUPP
							}
							return nil
						}}
					}
				}))
			})
		}
	})
}

func TestIO_OnABlockDevice(t *testing.T) {
	const size = 1 << 20
	dev := loopDevice(t, 4<<20)
	for _, direct := range []bool{false, true} {
		r := newReplica(t, t.TempDir())
		r.DataPath, r.Size, r.TakeExisting = dev, size, true
		_, err := Create(r.CreateOptions)
		must(t, err)
		s := r.open(t, func(o *OpenOptions) { o.Direct = direct })
		if m := s.Meta(); !m.Backing.Block || m.Backing.Serial == "" {
			t.Errorf("backing %+v", m.Backing)
		}
		checkIO(t, s)
		must(t, s.Resize(2*size))
		p := make([]byte, size)
		must(t, s.ReadAt(p, size))
		if !isZero(p) {
			t.Error("new space is not zero")
		}
		if err := s.Resize(8 << 20); !errors.Is(err, ErrBackingShort) {
			t.Errorf("resize beyond the device: %v", err)
		}
		must(t, s.WriteAt(pattern(size, 9), size, true))
		must(t, s.Close(true))
	}
}

func TestIO_RefusesRangesOutsideTheDevice(t *testing.T) {
	s := made(t, t.TempDir()).open(t)
	p := make([]byte, 10)
	for _, off := range []int64{-1, testSize - 9, testSize + 1, 1<<63 - 1} {
		e := bitmap.Extent{Off: off, Len: 10}
		_, mapErr := s.Extents(nil, e, 1)
		for name, err := range map[string]error{
			"read": s.ReadAt(p, off), "write": s.WriteAt(p, off, false), "trim": s.Trim(e, false), "extents": mapErr,
		} {
			if !errors.Is(err, ErrRange) {
				t.Errorf("%s at %d: %v", name, off, err)
			}
		}
	}
	must(t, s.WriteAt(nil, testSize, true))
	if s.Failed() != nil {
		t.Error("a bad range failed the disk")
	}
}

func TestOpen_DirectRefusesASizeItCannotServe(t *testing.T) {
	r := newReplica(t, t.TempDir())
	r.Size = 1<<20 + 100
	_, err := Create(r.CreateOptions)
	must(t, err)
	o := r.options()
	o.Direct = true
	if _, err := Open(o); !errors.Is(err, ErrDirectUnsupported) {
		t.Errorf("error %v", err)
	}
	if s := r.open(t); s.Alignment() != 1 {
		t.Errorf("alignment %d", s.Alignment())
	}
}

func TestTrim_GivesSpaceBackAndZeroesKeepIt(t *testing.T) {
	dir := t.TempDir()
	r := newReplica(t, dir)
	r.Size = 4 << 20
	_, err := Create(r.CreateOptions)
	must(t, err)
	s := r.open(t)
	blocks := func() int64 {
		must(t, s.Sync())
		var st unix.Stat_t
		must(t, unix.Stat(r.DataPath, &st))
		return st.Blocks
	}
	all := bitmap.Extent{Len: 4 << 20}
	must(t, s.WriteAt(pattern(4<<20, 1), 0, false))
	full := blocks()
	must(t, s.WriteZeroes(all, false, false))
	if got := blocks(); got < full*9/10 {
		t.Errorf("zeroes without punch went from %d to %d sectors", full, got)
	}
	must(t, s.Trim(all, true))
	if got := blocks(); got > full/10 {
		t.Errorf("trim went from %d to %d sectors", full, got)
	}
	segs, err := s.Extents(nil, all, 10)
	if err != nil || len(segs) != 1 || !segs[0].Hole {
		t.Errorf("%v %v", segs, err)
	}
}

func TestResize_NewSpaceReadsAsZerosAndTheSizeIsDurable(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		r := newReplica(t, dir)
		r.Size, r.TakeExisting = 100<<20, true
		must(t, os.WriteFile(r.DataPath, nil, 0o600))
		must(t, os.Truncate(r.DataPath, 110<<20))
		patch(t, r.DataPath, 100<<20, pattern(1<<20, 5))
		_, err := Create(r.CreateOptions)
		must(t, err)
		s := r.open(t)
		if err := s.Resize(99 << 20); !errors.Is(err, ErrShrink) {
			t.Errorf("shrink: %v", err)
		}
		must(t, s.Resize(600<<20+5))
		p := make([]byte, 2<<20)
		must(t, s.ReadAt(p, 100<<20-4096))
		if !isZero(p) {
			t.Error("old contents show in the new space")
		}
		m := bitmap.New(600<<20 + 5)
		m.Mark(bitmap.Extent{Off: 600 << 20, Len: 1})
		must(t, s.SaveBitmap(7, m))
		must(t, s.Close(true))
		s = r.open(t)
		if s.Size() != 600<<20+5 {
			t.Errorf("size %d", s.Size())
		}
		if got, bad, err := s.LoadBitmap(7); err != nil || bad != 0 || got.Bytes() != 5 {
			t.Errorf("bitmap of %d bytes, %d bad, %v", got.Bytes(), bad, err)
		}
	})
}

func TestWriteAt_DoesNotAllocate(t *testing.T) {
	s := made(t, t.TempDir()).open(t)
	b := buf.Get(4096)
	clear(b.B)
	if n := testing.AllocsPerRun(100, func() {
		if s.WriteAt(b.B, 8192, false) != nil || s.ReadAt(b.B, 8192) != nil {
			t.Fatal("I/O failed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkWriteAt4K(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-store-")
	must(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	s := made(b, dir).open(b)
	p := buf.Get(4096)
	clear(p.B)
	b.SetBytes(4096)
	b.ReportAllocs()
	for i := range b.N {
		must(b, s.WriteAt(p.B, int64(i)%50000*4096, false))
	}
}
