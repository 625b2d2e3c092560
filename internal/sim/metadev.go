package sim

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"syscall"

	"github.com/lockstep-ha/lockstep/internal/store"
)

// ErrStopped is the answer of a MetaDev to a process that is no more.
var ErrStopped = errors.New("sim: the process was stopped")

const metaPageSize = 4 << 10

var _ store.MetaDevice = (*MetaDev)(nil)

// MetaDev is a metadata file on a modelled host: a store.MetaDevice. As with a Disk, reads see the
// cache, and a host crash leaves, of each sector that was not synced, the old or the new bytes. A
// sector itself is never torn: disks do not do that, and every block has a checksum anyway.
type MetaDev struct {
	size, durableSize int64
	pages             []*metaPage // nil: a hole, zeros
	loose             []*metaPage // with listed set

	writeErr, syncErr error
	noRoom            bool
	changesLeft       int // until everything stops; negative: never
}

// metaPage is 4 KiB of the file. Its durable bytes are those of the cache, but in the sectors that are
// unsynced or lost, where they are those of shadow.
type metaPage struct {
	cache, shadow [metaPageSize]byte
	unsynced      uint8 // sectors that the next Sync writes
	lost          uint8 // sectors that a failed Sync forgot
	listed        bool  // in MetaDev.loose
}

// NewMetaDev returns an empty file.
func NewMetaDev() *MetaDev { return &MetaDev{changesLeft: -1} }

// Size returns the length in bytes.
func (d *MetaDev) Size() (int64, error) {
	if d.Stopped() {
		return 0, ErrStopped
	}
	return d.size, nil
}

// page returns the page at an offset, nil for a hole.
func (d *MetaDev) page(off int64) *metaPage {
	if i := off / metaPageSize; i < int64(len(d.pages)) {
		return d.pages[i]
	}
	return nil
}

// ReadAt is as io.ReaderAt's.
func (d *MetaDev) ReadAt(p []byte, off int64) (int, error) {
	if d.Stopped() {
		return 0, ErrStopped
	}
	var err error
	if rest := max(0, d.size-off); int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	n := len(p)
	for len(p) > 0 {
		at := int(off % metaPageSize)
		k := min(len(p), metaPageSize-at)
		if g := d.page(off); g != nil {
			copy(p[:k], g.cache[at:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
	return n, err
}

// change counts a call that changes something; it returns why the call fails, nil if it does not.
func (d *MetaDev) change(fault error) error {
	if d.Stopped() {
		return ErrStopped
	}
	if d.changesLeft > 0 {
		d.changesLeft--
	}
	return fault
}

// WriteAt is as io.WriterAt's. A write beyond the end is a bug of the store.
func (d *MetaDev) WriteAt(p []byte, off int64) (int, error) {
	if err := d.change(d.writeErr); err != nil {
		return 0, err
	}
	if off < 0 || off+int64(len(p)) > d.size {
		panic(fmt.Sprintf("sim: %d bytes at %d of a metadata file of %d", len(p), off, d.size))
	}
	if d.noRoom { // a real write would fill what is there up to the first hole: so do these pieces
		for at := off; at < off+int64(len(p)); at += metaPageSize - at%metaPageSize {
			if d.page(at) == nil {
				d.put(p[:at-off], off)
				return int(at - off), syscall.ENOSPC
			}
		}
	}
	d.put(p, off)
	return len(p), nil
}

func (d *MetaDev) put(p []byte, off int64) {
	for len(p) > 0 {
		at := int(off % metaPageSize)
		k := min(len(p), metaPageSize-at)
		d.own(off).write(p[:k], at)
		p, off = p[k:], off+int64(k)
	}
}

// own returns the page at an offset, listed.
func (d *MetaDev) own(off int64) *metaPage {
	i := off / metaPageSize
	g := d.pages[i]
	if g == nil {
		g = &metaPage{}
		d.pages[i] = g
	}
	if !g.listed {
		g.listed = true
		d.loose = append(d.loose, g)
	}
	return g
}

// write puts p at byte at of the page.
func (g *metaPage) write(p []byte, at int) {
	for s := at / SectorSize; s*SectorSize < at+len(p); s++ {
		bit := uint8(1) << s
		if (g.unsynced|g.lost)&bit == 0 {
			copy(g.shadow[s*SectorSize:][:SectorSize], g.cache[s*SectorSize:])
		}
		g.unsynced |= bit
		g.lost &^= bit
	}
	copy(g.cache[at:], p)
}

// Sync makes everything durable, but for what an earlier Sync that failed forgot.
func (d *MetaDev) Sync() error {
	if err := d.change(nil); err != nil {
		return err
	}
	kept := d.loose[:0]
	for _, g := range d.loose {
		if d.syncErr != nil {
			g.lost |= g.unsynced
		}
		g.unsynced = 0
		if g.listed = g.lost != 0; g.listed {
			kept = append(kept, g)
		}
	}
	d.loose = kept
	if d.syncErr == nil {
		d.durableSize = d.size
	}
	return d.syncErr
}

// SeekData returns the start of what was written at or after off, io.EOF if there is nothing.
func (d *MetaDev) SeekData(off int64) (int64, error) {
	if d.Stopped() {
		return 0, ErrStopped
	}
	for i := off / metaPageSize; i < int64(len(d.pages)); i++ {
		if d.pages[i] != nil && max(off, i*metaPageSize) < d.size {
			return max(off, i*metaPageSize), nil
		}
	}
	return 0, io.EOF
}

// Truncate makes the file longer, with a hole at its end. A smaller size panics: no store asks.
func (d *MetaDev) Truncate(size int64) error {
	fault := d.writeErr
	if d.noRoom && size > d.size && fault == nil {
		fault = syscall.ENOSPC
	}
	if err := d.change(fault); err != nil {
		return err
	}
	if size < d.size {
		panic(fmt.Sprintf("sim: metadata file of %d bytes cut to %d", d.size, size))
	}
	d.resize(size)
	return nil
}

func (d *MetaDev) resize(size int64) {
	d.size = size
	n := int((size + metaPageSize - 1) / metaPageSize)
	if n <= len(d.pages) {
		d.pages = d.pages[:n]
		return
	}
	d.pages = append(d.pages, make([]*metaPage, n-len(d.pages))...)
}

// FailWrites lets every WriteAt and Truncate fail with err, without effect; nil ends it.
func (d *MetaDev) FailWrites(err error) { d.writeErr = err }

// FailSync lets every Sync fail with err. What was not synced by then is forgotten: reads still show
// it, no later Sync writes it, and a crash loses it. nil ends it.
func (d *MetaDev) FailSync(err error) { d.syncErr = err }

// NoRoom fills the file system, or makes room again: whatever needs a new block fails with ENOSPC.
func (d *MetaDev) NoRoom(full bool) { d.noRoom = full }

// StopAfter stops the process, or its host, after n more calls that change something: from then on
// every call returns ErrStopped and has no effect. A negative n lets the next process run.
func (d *MetaDev) StopAfter(n int) { d.changesLeft = max(n, -1) }

// Stopped reports whether StopAfter has taken effect.
func (d *MetaDev) Stopped() bool { return d.changesLeft == 0 }

// Crash is a crash of the host. Either every unsynced sector was written, or none, or each was or was
// not by a draw of its own; the same goes for a new size.
func (d *MetaDev) Crash(rng *rand.Rand) {
	fate := rng.IntN(4)
	draw := func() uint8 {
		switch fate {
		case 0:
			return 0
		case 1:
			return 0xff
		}
		return uint8(rng.Uint32())
	}
	for _, g := range d.loose {
		written := g.unsynced & draw()
		for m := (g.unsynced | g.lost) &^ written; m != 0; m &= m - 1 {
			s := bits.TrailingZeros8(m) * SectorSize
			copy(g.cache[s:s+SectorSize], g.shadow[s:])
		}
		g.unsynced, g.lost, g.listed = 0, 0, false
	}
	d.loose = d.loose[:0]
	if d.size != d.durableSize && draw()&1 == 0 {
		d.resize(d.durableSize)
		clear(d.pages[len(d.pages):cap(d.pages)]) // a later growth finds holes
	}
	d.durableSize = d.size
}

// Clone returns a file of its own with the bytes that reads see, all durable, and no faults: a copy
// that somebody made.
func (d *MetaDev) Clone() *MetaDev {
	c := NewMetaDev()
	c.resize(d.size)
	c.durableSize = d.size
	for i, g := range d.pages {
		if g != nil {
			c.pages[i] = &metaPage{cache: g.cache}
		}
	}
	return c
}
