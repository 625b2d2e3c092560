package sim

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// SectorSize is the unit of the modelled disk in bytes: what a real one writes whole or not at all.
const SectorSize = 512

const (
	blockSectors = bitmap.BlockSize / SectorSize
	chunkBlocks  = 64 // blocks whose pages one chunk points to
	slabPages    = 32 // pages allocated together
	pastValues   = 3  // unsynced values kept of a sector beside its cache
)

// Disk is the backing of one replica. A sector holds one number, the value of the write that filled
// it, and 0 stands for zeros: what is checked is whose bytes stand where, not the bytes.
//
// Every sector has two values. The cache is what reads see: it outlives the process and dies with
// the host. The durable one is what the host finds after a crash. In between stand the values that a
// sector had since it was last made durable; the kernel may have written back any of them. Each
// carries the stamp of its write, so that a sync makes durable what was there when it began and not
// what was written while it ran, and so that a block can come back as it was at one moment.
//
//	Write      -> cache
//	EndSync    the cache at BeginSync -> durable          (diskcrash.go)
//	Stabilise  the cache now -> durable
//	FailSync   some of the cache -> durable, the rest is never written
//	Crash      durable, or a value since, by block or by sector; then cache = durable
//
// Memory is held only for blocks that ever held a value other than 0.
type Disk struct {
	size   int64 // bytes
	stamp  SyncMark
	chunks []*[chunkBlocks]*diskPage
	slab   []diskPage  // pages not handed out yet
	loose  []*diskPage // pages with listed set, in the order in which they became so
}

// SyncMark is a moment in the life of one disk: the number of writes before it.
type SyncMark uint32

// diskPage is one block. A sector with no bit in unsynced or lost is durable as it is read.
type diskPage struct {
	cache    [blockSectors]uint64
	durable  [blockSectors]uint64
	stamp    [blockSectors]SyncMark // of the cache, of sectors that are unsynced
	past     [blockSectors][pastValues]pastValue
	pastLen  [blockSectors]uint8
	block    int64 // index of this block
	unsynced uint8 // sectors whose cache the next sync writes
	lost     uint8 // sectors whose cache no sync writes: a failed one forgot them
	touched  uint8 // sectors ever written
	listed   bool  // in Disk.loose; always, while unsynced or lost is not 0
}

// pastValue is what a sector held before its cache, and after its durable value.
type pastValue struct {
	value uint64
	stamp SyncMark
}

// NewDisk returns a disk of size bytes that reads as zeros, all durable. The size is a multiple of
// SectorSize.
func NewDisk(size int64) *Disk {
	d := &Disk{}
	d.Grow(size)
	return d
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Grow makes the disk size bytes long; the new space is zero. A smaller size panics.
func (d *Disk) Grow(size int64) {
	if size < d.size || size%SectorSize != 0 {
		panic(fmt.Sprintf("sim: disk of %d bytes made %d", d.size, size))
	}
	d.size = size
	chunks := (size + chunkBlocks*bitmap.BlockSize - 1) / (chunkBlocks * bitmap.BlockSize)
	d.chunks = append(d.chunks, make([]*[chunkBlocks]*diskPage, int(chunks)-len(d.chunks))...)
}

// sectors returns the sectors of e as a half-open range. The shells round and check what they do, so
// an extent that does not fit is a bug of the model.
func (d *Disk) sectors(e bitmap.Extent) (first, end int64) {
	if e.Off < 0 || e.Len < 0 || e.End() > d.size || (e.Off|e.Len)%SectorSize != 0 {
		panic(fmt.Sprintf("sim: extent %v on a disk of %d bytes", e, d.size))
	}
	return e.Off / SectorSize, e.End() / SectorSize
}

// page returns the page of a block, nil when nothing but zeros was ever written to it.
func (d *Disk) page(block int64) *diskPage {
	if c := d.chunks[block/chunkBlocks]; c != nil {
		return c[block%chunkBlocks]
	}
	return nil
}

func (d *Disk) ownPage(block int64) *diskPage {
	c := d.chunks[block/chunkBlocks]
	if c == nil {
		c = new([chunkBlocks]*diskPage)
		d.chunks[block/chunkBlocks] = c
	}
	p := c[block%chunkBlocks]
	if p == nil {
		if len(d.slab) == 0 {
			d.slab = make([]diskPage, slabPages)
		}
		p, d.slab = &d.slab[0], d.slab[1:]
		p.block = block
		c[block%chunkBlocks] = p
	}
	return p
}

// inBlock cuts [first, end) at the end of the block of first: the sectors lo to hi of that block.
func inBlock(first, end int64) (block int64, lo, hi int) {
	block = first / blockSectors
	lo = int(first % blockSectors)
	return block, lo, int(min(end-block*blockSectors, blockSectors))
}

// maskOf returns the bits lo to hi-1.
func maskOf(lo, hi int) uint8 { return uint8(1<<hi - 1<<lo) }

// Read appends the value of each sector of e to out, as reads see them.
func (d *Disk) Read(e bitmap.Extent, out []uint64) []uint64 {
	var zeros [blockSectors]uint64
	first, end := d.sectors(e)
	out = slices.Grow(out, int(end-first))
	for first < end {
		block, lo, hi := inBlock(first, end)
		if p := d.page(block); p != nil {
			out = append(out, p.cache[lo:hi]...)
		} else {
			out = append(out, zeros[lo:hi]...)
		}
		first += int64(hi - lo)
	}
	return out
}

// Write puts one value into each sector of e.
func (d *Disk) Write(e bitmap.Extent, vals []uint64) { d.WriteTorn(e, vals, len(vals)) }

// WriteTorn is a write that was cut off: its first keep sectors take effect.
func (d *Disk) WriteTorn(e bitmap.Extent, vals []uint64, keep int) {
	first, end := d.sectors(e)
	if int64(len(vals)) != end-first || keep > len(vals) {
		panic(fmt.Sprintf("sim: %d values, %d kept, for extent %v", len(vals), keep, e))
	}
	d.stamp++
	for vals = vals[:keep]; len(vals) > 0; {
		block, lo, hi := inBlock(first, first+int64(len(vals)))
		p := d.page(block)
		for i := lo; i < hi; i++ {
			v := vals[i-lo]
			if p == nil && v == 0 {
				continue // zeros over what is zero and durable
			}
			if p == nil {
				p = d.ownPage(block)
			}
			d.put(p, i, v)
		}
		first, vals = first+int64(hi-lo), vals[hi-lo:]
	}
}

// Fill puts v into every sector of e.
func (d *Disk) Fill(e bitmap.Extent, v uint64) {
	d.stamp++
	for first, end := d.sectors(e); first < end; {
		block, lo, hi := inBlock(first, end)
		first += int64(hi - lo)
		p := d.page(block)
		if p == nil && v == 0 {
			continue
		}
		if p == nil {
			p = d.ownPage(block)
		}
		for i := lo; i < hi; i++ {
			d.put(p, i, v)
		}
	}
}

// Zero makes e read as zeros.
func (d *Disk) Zero(e bitmap.Extent) { d.Fill(e, 0) }

// put writes one sector into the cache.
func (d *Disk) put(p *diskPage, i int, v uint64) {
	bit := uint8(1) << i
	p.touched |= bit
	switch {
	case p.unsynced&bit != 0:
		if p.cache[i] == v {
			return // the earlier stamp stays: a sync that began after it has to write v
		}
		p.remember(i)
	case p.lost&bit != 0:
		// The sector is dirty again and will be written. What a failed sync forgot never is.
		p.lost &^= bit
		p.pastLen[i] = 0
	case p.cache[i] == v:
		return // as it is on disk
	default:
		p.pastLen[i] = 0
	}
	p.cache[i], p.stamp[i] = v, d.stamp
	p.unsynced |= bit
	if !p.listed {
		p.listed = true
		d.loose = append(d.loose, p)
	}
}

// remember keeps the cache of sector i as a value of its past. When there is no room the oldest one
// becomes durable, as if the kernel had written it back: a sync under way may have promised it.
func (p *diskPage) remember(i int) {
	past := &p.past[i]
	if int(p.pastLen[i]) == len(past) {
		p.durable[i] = past[0].value
		copy(past[:], past[1:])
		p.pastLen[i]--
	}
	past[p.pastLen[i]] = pastValue{p.cache[i], p.stamp[i]}
	p.pastLen[i]++
}

// Sector returns what a read of sector i sees.
func (d *Disk) Sector(i int64) uint64 {
	if p := d.page(i / blockSectors); p != nil {
		return p.cache[i%blockSectors]
	}
	return 0
}

// Durable returns what sector i holds on the platter.
func (d *Disk) Durable(i int64) uint64 {
	if p := d.page(i / blockSectors); p != nil {
		return p.durable[i%blockSectors]
	}
	return 0
}

// Flip changes sector i behind everybody's back, cache and platter: bit rot, or a write that went to
// the wrong place.
func (d *Disk) Flip(i int64, v uint64) {
	p := d.ownPage(i / blockSectors)
	s := i % blockSectors
	p.cache[s], p.durable[s] = v, v
	p.touched |= 1 << s
	p.unsynced &^= 1 << s
	p.lost &^= 1 << s
}

// Touched yields, in order, every sector that may hold, or may have held, a value other than 0.
func (d *Disk) Touched() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for p := range d.pages() {
			for mask := p.touched; mask != 0; mask &= mask - 1 {
				if !yield(p.block*blockSectors + int64(bits.TrailingZeros8(mask))) {
					return
				}
			}
		}
	}
}

// pages yields the pages in the order of their blocks.
func (d *Disk) pages() iter.Seq[*diskPage] {
	return func(yield func(*diskPage) bool) {
		for _, c := range d.chunks {
			if c == nil {
				continue
			}
			for _, p := range c {
				if p != nil && !yield(p) {
					return
				}
			}
		}
	}
}

// Clone returns a disk of its own with the same cache, durable and unsynced values.
func (d *Disk) Clone() *Disk {
	c := NewDisk(d.size)
	c.stamp = d.stamp
	for p := range d.pages() {
		*c.ownPage(p.block) = *p
	}
	for _, p := range d.loose {
		c.loose = append(c.loose, c.page(p.block))
	}
	return c
}

// Restore puts a snapshot back in place of the file: d reads as from did, and all of it is durable.
// The disk keeps the larger of the two sizes, zeros at the end.
func (d *Disk) Restore(from *Disk) {
	d.Grow(max(d.size, from.size))
	for p := range d.pages() {
		*p = diskPage{block: p.block, touched: p.touched}
	}
	d.loose = d.loose[:0]
	for p := range from.pages() {
		q := d.ownPage(p.block)
		q.cache, q.durable = p.cache, p.cache
		q.touched |= p.touched
	}
}

// FirstDiff returns the first sector of e that reads differently on a and b. Both must hold e.
func FirstDiff(a, b *Disk, e bitmap.Extent) (sector int64, ok bool) {
	var zero diskPage
	b.sectors(e)
	for first, end := a.sectors(e); first < end; {
		block, lo, hi := inBlock(first, end)
		if c := block / chunkBlocks; a.chunks[c] == nil && b.chunks[c] == nil {
			first = (c + 1) * chunkBlocks * blockSectors
			continue
		}
		p, q := a.page(block), b.page(block)
		if p == nil {
			p = &zero
		}
		if q == nil {
			q = &zero
		}
		for i := lo; i < hi; i++ {
			if p.cache[i] != q.cache[i] {
				return block*blockSectors + int64(i), true
			}
		}
		first += int64(hi - lo)
	}
	return 0, false
}
