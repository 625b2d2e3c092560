package store

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
)

// maxBounce is the largest piece of an unaligned direct transfer, bytes.
const maxBounce = 1 << 20

// checkRange returns ErrRange unless [off, off+n) lies in the device.
func (s *Store) checkRange(off, n int64) error {
	if size := s.meta.Size(); off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, n, off, size)
	}
	return nil
}

// ReadAt fills p from byte off of the device. Errors: ErrRange, ErrFailed, ErrClosed.
func (s *Store) ReadAt(p []byte, off int64) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.checkRange(off, int64(len(p))); err != nil {
		return err
	}
	var err error
	if s.aligned(p, off) {
		err = readFull(s.data, p, off)
	} else {
		err = s.readBounced(p, off)
	}
	if err != nil {
		return s.ioError("read backing", err)
	}
	return nil
}

// WriteAt writes p at byte off of the device; with fua it is stable when WriteAt returns. p remains
// the caller's. After an error any part of p may have been written: the caller keeps the range from
// readers until the replicas are equal in it. Errors: ErrRange, ErrFailed, ErrClosed, and ENOSPC or
// EDQUOT, after which the disk is as good as before.
func (s *Store) WriteAt(p []byte, off int64, fua bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.checkRange(off, int64(len(p))); err != nil {
		return err
	}
	return s.write(p, off, fua)
}

// write is WriteAt without the check of the range: Resize writes beyond the device's present end.
func (s *Store) write(p []byte, off int64, fua bool) error {
	err := s.writeOnce(p, off, fua)
	if fua && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		// The lack of space may come from the write or from the sync that is part of it, and a
		// sync must not fail without a word: the kernel has told its error and forgotten the
		// pages. A plain write that now succeeds says that it was the sync.
		if plain := s.writeOnce(p, off, false); plain == nil {
			return s.fail("sync backing", err)
		}
	}
	if err != nil {
		return s.ioError("write backing", err)
	}
	return nil
}

func (s *Store) writeOnce(p []byte, off int64, fua bool) (err error) {
	if s.aligned(p, off) {
		err = writeFull(s.data, p, off, fua)
	} else {
		err = s.writeBounced(p, off, fua)
	}
	if !fua || err != nil {
		s.written.Add(1)
	}
	return err
}

// Sync returns when every write that completed before the call is stable. Any error, whatever its
// errno, is a failure of the disk.
func (s *Store) Sync() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.syncData()
}

// aligned reports whether the transfer can go to the backing as it is.
func (s *Store) aligned(p []byte, off int64) bool {
	return s.align == 1 || len(p) == 0 || (off|int64(len(p)))&(s.align-1) == 0 &&
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))&(s.memAlign-1) == 0
}

// pieces calls f for the whole units around each part of [off, off+n), in order; part is what the
// caller asked for of it. Its length is maxBounce at most.
func (s *Store) pieces(off, n int64, f func(whole, part bitmap.Extent) error) error {
	for n > 0 {
		start := off &^ (s.align - 1)
		part := bitmap.Extent{Off: off, Len: min(n, start+maxBounce-off)}
		if err := f(part.RoundOut(s.align), part); err != nil {
			return err
		}
		off, n = off+part.Len, n-part.Len
	}
	return nil
}

func (s *Store) readBounced(p []byte, off int64) error {
	return s.pieces(off, int64(len(p)), func(whole, part bitmap.Extent) error {
		b := buf.Get(int(whole.Len))
		defer b.Release()
		if err := readFull(s.data, b.B, whole.Off); err != nil {
			return err
		}
		copy(p[part.Off-off:][:part.Len], b.B[part.Off-whole.Off:])
		return nil
	})
}

// writeBounced writes units that p covers only in part by reading them first. The caller keeps other
// writes out of these units, see Alignment. A second, buffered descriptor would spare the reading,
// and lose writes: its cached page is written back later, over what went to the disk directly.
func (s *Store) writeBounced(p []byte, off int64, fua bool) error {
	return s.pieces(off, int64(len(p)), func(whole, part bitmap.Extent) error {
		b := buf.Get(int(whole.Len))
		defer b.Release()
		head, tail := part.Off != whole.Off, part.End() != whole.End()
		if head || tail && whole.Len == s.align {
			if err := readFull(s.data, b.B[:s.align], whole.Off); err != nil {
				return err
			}
		}
		if tail && whole.Len > s.align {
			if err := readFull(s.data, b.B[whole.Len-s.align:], whole.End()-s.align); err != nil {
				return err
			}
		}
		copy(b.B[part.Off-whole.Off:], p[part.Off-off:][:part.Len])
		return writeFull(s.data, b.B, whole.Off, fua)
	})
}
