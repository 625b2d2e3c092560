package store

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
)

const sector = 512 // what a disk writes whole or not at all, bytes

var errStopped = errors.New("the process has ended")

// diskImage is the content of a device. Blocks are shared by copies, so they are never changed.
type diskImage struct {
	blocks map[int64]*[diskBlock]byte // by number; what is missing was never written
	size   int64
}

func (d diskImage) clone() diskImage { return diskImage{maps.Clone(d.blocks), d.size} }

func (d diskImage) read(p []byte, off int64) {
	for len(p) > 0 {
		from, n := off%diskBlock, min(int64(len(p)), diskBlock-off%diskBlock)
		if b := d.blocks[off/diskBlock]; b != nil {
			copy(p[:n], b[from:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (d diskImage) write(p []byte, off int64) {
	for len(p) > 0 {
		from, n := off%diskBlock, min(int64(len(p)), diskBlock-off%diskBlock)
		var b [diskBlock]byte
		if old := d.blocks[off/diskBlock]; old != nil {
			b = *old
		}
		copy(b[from:], p[:n])
		d.blocks[off/diskBlock] = &b
		p, off = p[n:], off+n
	}
}

// diskChange is one write, or a new length.
type diskChange struct {
	off  int64
	p    []byte
	size int64 // not 0: the device was made this long
}

func (d *diskImage) apply(c diskChange) {
	if c.size != 0 {
		d.size = c.size
		return
	}
	d.write(c.p, c.off)
}

// memDevice is a MetaDevice in memory that can stop after any operation and tell what a crash of the
// host may leave then. It is used by one goroutine.
type memDevice struct {
	cache   diskImage
	durable diskImage
	pending []diskChange // made since the last Sync
	left    int          // operations that still take effect
	onWrite func() error
	onSync  func() error
}

func newMemDevice(d diskImage) *memDevice {
	return &memDevice{cache: d.clone(), durable: d, left: math.MaxInt}
}

// again returns a device in the same state, for another process, which ends after so many operations.
func (d *memDevice) again(operations int) *memDevice {
	return &memDevice{cache: d.cache.clone(), durable: d.durable.clone(), pending: d.pending[:len(d.pending):len(d.pending)], left: operations}
}

func (d *memDevice) stopped() bool { return d.left == 0 }

func (d *memDevice) step() error {
	if d.left == 0 {
		return errStopped
	}
	d.left--
	return nil
}

func (d *memDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.stopped() {
		return 0, errStopped
	}
	n := int(min(int64(len(p)), max(0, d.cache.size-off)))
	d.cache.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.onWrite != nil {
		if err := d.onWrite(); err != nil {
			return 0, err
		}
	}
	if err := d.step(); err != nil {
		return 0, err
	}
	if off < 0 || off+int64(len(p)) > d.cache.size || off%diskBlock != 0 || len(p)%diskBlock != 0 {
		panic("write out of place")
	}
	d.cache.write(p, off)
	d.pending = append(d.pending, diskChange{off: off, p: bytes.Clone(p)})
	return len(p), nil
}

func (d *memDevice) Truncate(size int64) error {
	if err := d.step(); err != nil {
		return err
	}
	d.cache.size = size
	d.pending = append(d.pending, diskChange{size: size})
	return nil
}

func (d *memDevice) Sync() error {
	if d.onSync != nil {
		if err := d.onSync(); err != nil {
			return err
		}
	}
	if err := d.step(); err != nil {
		return err
	}
	d.durable, d.pending = d.cache.clone(), nil
	return nil
}

func (d *memDevice) SeekData(off int64) (int64, error) {
	at := int64(math.MaxInt64)
	for n := range d.cache.blocks {
		if (n+1)*diskBlock > off {
			at = min(at, max(off, n*diskBlock))
		}
	}
	if at == math.MaxInt64 {
		return 0, io.EOF
	}
	return at, nil
}

func (d *memDevice) Size() (int64, error) { return d.cache.size, nil }

// images calls f with what a crash of the host may leave now, until it returns an error. Each
// pending change is kept or lost while the others are the opposite; if torn says so, each write is
// torn at each sector as well, both ways, while the others are all kept or all lost.
func (d *memDevice) images(torn bool, f func(diskImage) error) error {
	try := func(one int, c diskChange, others bool) error {
		b := d.durable.clone()
		for i, p := range d.pending {
			if i == one {
				b.apply(c)
			} else if others {
				b.apply(p)
			}
		}
		return f(b)
	}
	nothing := diskChange{}
	for _, others := range []bool{false, true} {
		if err := try(-1, nothing, others); err != nil {
			return err
		}
		for i, c := range d.pending {
			if err := errors.Join(try(i, c, false), try(i, nothing, true)); err != nil {
				return err
			}
			for cut := sector; torn && cut < len(c.p); cut += sector {
				head, tail := diskChange{off: c.off, p: c.p[:cut]}, diskChange{off: c.off + int64(cut), p: c.p[cut:]}
				if err := errors.Join(try(i, head, others), try(i, tail, others)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
