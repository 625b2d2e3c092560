package store

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Resize grows the device to size bytes. The new space reads as zeros and is stable before the new
// size is recorded; both are when Resize returns. Interrupted anywhere, the device has its old size,
// and Resize can be called again. A block device must have been grown before. One call at a time.
// Errors: ErrShrink, ErrBackingShort, those of WriteAt.
//
// Rule 16: what lies beyond the old end may be anything (a larger file that was taken in, a device,
// an earlier Resize that was cut off and written to), so it is zeroed, not assumed to be zero.
func (s *Store) Resize(size int64) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	old := s.meta.Size()
	switch {
	case size < old:
		return fmt.Errorf("%w: from %d to %d bytes", ErrShrink, old, size)
	case size > bitmap.MaxSize || size%s.align != 0:
		return fmt.Errorf("%w: size %d, at most %d, in units of %d", ErrRange, size, int64(bitmap.MaxSize), s.align)
	case size == old:
		return nil
	}
	if err := s.growData(old, size); err != nil {
		return err
	}
	return s.judge(s.meta.Resize(size))
}

// growData makes the backing at least size bytes long, with zeros from byte old on, stable.
func (s *Store) growData(old, size int64) error {
	length, err := s.dataLen()
	if err != nil {
		return s.ioError("measure backing", err)
	}
	if s.block && length < size {
		return fmt.Errorf("%w: %d of %d bytes", ErrBackingShort, length, size)
	}
	if length < size {
		s.written.Add(1)
		if err := s.data.truncate(size); err != nil {
			return s.ioError("grow backing", err)
		}
	}
	if exists := min(length, size); exists > old && !planted.On(planted.ResizeUnzeroed) {
		if err := s.zeroRange(bitmap.Extent{Off: old, Len: exists - old}, true); err != nil {
			return err
		}
	}
	return s.syncData()
}

// dataLen returns the length of the backing in bytes.
func (s *Store) dataLen() (int64, error) { return s.data.seek(0, unix.SEEK_END) }
