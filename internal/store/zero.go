package store

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// zeroWays remembers what the backing has refused once, so that it is not asked again.
type zeroWays struct {
	noPunch, noZero, noZeroOut atomic.Bool
}

// zeroChunk is the most that one system call zeroes, bytes.
const zeroChunk = 1 << 30

// zeroPage is 1 MiB of zeros for all stores: memory that cannot be written, so that a slip is a
// fault and not zeros that are none.
var zeroPage = sync.OnceValues(func() ([]byte, error) {
	return unix.Mmap(-1, 0, maxBounce, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
})

// WriteZeroes makes e read as zeros; stable when it returns, if fua. punch allows to unmap what can
// be unmapped; without it the space stays, or becomes, allocated, so that later writes to it do not
// run out of space. Where the backing can do neither, zeros are written. Errors are those of WriteAt.
func (s *Store) WriteZeroes(e bitmap.Extent, punch, fua bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.checkRange(e.Off, e.Len); err != nil {
		return err
	}
	if err := s.zeroRange(e, punch); err != nil {
		return err
	}
	if fua {
		return s.syncData()
	}
	return nil
}

// Trim makes e read as zeros and gives its space back where it can. The discard command of a block
// device is not used: what it leaves behind may read as anything, and differs between replicas.
// Rule 16.
func (s *Store) Trim(e bitmap.Extent, fua bool) error { return s.WriteZeroes(e, true, fua) }

// zeroRange zeroes e, piece by piece.
func (s *Store) zeroRange(e bitmap.Extent, punch bool) error {
	defer s.written.Add(1)
	for e.Len > 0 {
		part := bitmap.Extent{Off: e.Off, Len: min(e.Len, zeroChunk-e.Off%zeroChunk)}
		if err := s.zeroPart(part, punch); err != nil {
			return err
		}
		e.Off, e.Len = part.End(), e.Len-part.Len
	}
	return nil
}

// zeroPart zeroes e by the best way that the backing knows. A block device zeroes whole blocks only;
// their parts at both ends are written.
func (s *Store) zeroPart(e bitmap.Extent, punch bool) error {
	inner := e
	if s.block {
		inner.Off = roundUp(e.Off, diskBlock)
		inner.Len = max(0, e.End()&^(diskBlock-1)-inner.Off)
	}
	if inner.Empty() {
		return s.writeZeros(e)
	}
	done, err := s.zeroFast(inner, punch)
	if err != nil {
		return s.ioError(fmt.Sprintf("zero %v of backing", e), err)
	}
	if !done && punch && planted.On(planted.TrimDiffers) {
		return nil
	}
	if !done {
		return s.writeZeros(e)
	}
	if err := s.writeZeros(bitmap.Extent{Off: e.Off, Len: inner.Off - e.Off}); err != nil {
		return err
	}
	return s.writeZeros(bitmap.Extent{Off: inner.End(), Len: e.End() - inner.End()})
}

// zeroFast zeroes e without writing it out; false when the backing cannot.
//
// For a file, ZERO_RANGE keeps the space allocated and PUNCH_HOLE gives it up. A block device
// promises zeros for both or refuses; the kernel drops its cache of the range, too.
func (s *Store) zeroFast(e bitmap.Extent, punch bool) (done bool, err error) {
	try := func(refused *atomic.Bool, call func() error) {
		if done || err != nil || refused.Load() {
			return
		}
		err = call()
		done = err == nil
		if unsupported(err) {
			refused.Store(true)
			err = nil
		}
	}
	if punch {
		try(&s.zero.noPunch, func() error {
			return s.data.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Off, e.Len)
		})
	}
	try(&s.zero.noZero, func() error {
		return s.data.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, e.Off, e.Len)
	})
	if s.block {
		try(&s.zero.noZeroOut, func() error { return s.data.zeroOut(e.Off, e.Len) })
	}
	return done, err
}

// writeZeros writes zeros over e.
func (s *Store) writeZeros(e bitmap.Extent) error {
	zeros, err := zeroPage()
	if err != nil {
		return fmt.Errorf("zero memory: %w", err)
	}
	for e.Len > 0 {
		n := min(e.Len, maxBounce-e.Off%maxBounce)
		if err := s.write(zeros[:n], e.Off, false); err != nil {
			return err
		}
		e.Off, e.Len = e.Off+n, e.Len-n
	}
	return nil
}

// Segment is a part of the device that is allocated throughout, or a hole. A hole reads as zeros.
type Segment struct {
	bitmap.Extent
	Hole bool
}

// Extents describes e from its start in at most limit segments, appended to dst; they may end before
// e does. A backing that cannot tell, a block device among them, is allocated throughout.
// Errors: ErrRange, ErrFailed, ErrClosed.
func (s *Store) Extents(dst []Segment, e bitmap.Extent, limit int) ([]Segment, error) {
	if err := s.enter(); err != nil {
		return dst, err
	}
	defer s.leave()
	if err := s.checkRange(e.Off, e.Len); err != nil {
		return dst, err
	}
	for ; limit > 0 && e.Len > 0; limit-- {
		data, end := e.Off, e.End()
		if !s.block {
			var err error
			if data, end, err = nextData(s.data, e.Off, e.End()); err != nil {
				return dst, s.ioError("map backing", err)
			}
		}
		seg := Segment{bitmap.Extent{Off: e.Off, Len: end - e.Off}, false}
		if data > e.Off {
			seg = Segment{bitmap.Extent{Off: e.Off, Len: data - e.Off}, true}
		}
		dst = append(dst, seg)
		e.Off, e.Len = seg.End(), e.Len-seg.Len
	}
	return dst, nil
}

// nextData returns where the first data of f in [off, limit) begins and ends, both limit at most. A
// file that cannot tell is data throughout.
func nextData(f file, off, limit int64) (data, end int64, err error) {
	data, err = f.seek(off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return limit, limit, nil
	case err == unix.EINVAL || unsupported(err):
		return off, limit, nil
	case err != nil:
		return 0, 0, err
	case data >= limit:
		return limit, limit, nil
	}
	end, err = f.seek(data, unix.SEEK_HOLE)
	return data, min(end, limit), err
}
