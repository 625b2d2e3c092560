package bitmap

import (
	"fmt"
	"math/bits"
)

const (
	// PageBlocks is the number of blocks of one page.
	PageBlocks = 32768
	// PageSize is the size of one page's bits, in bytes.
	PageSize = PageBlocks / 8
	// PageSpan is the part of the device that one page describes, in bytes.
	PageSpan = PageBlocks * BlockSize

	pageWords = PageBlocks / 64
)

// page holds the bits of PageBlocks blocks. Bits beyond the end of the device are always 0.
type page struct {
	words [pageWords]uint64
	dirty int // bits set in words; never 0 in a page that a Bitmap refers to
}

// allDirty stands in for every page whose PageBlocks blocks are all dirty. It is shared by all
// bitmaps and never written: clearing a block in it copies it first.
var allDirty = func() *page {
	p := &page{dirty: PageBlocks}
	for i := range p.words {
		p.words[i] = ^uint64(0)
	}
	return p
}()

// Bitmap is the set of blocks of one device that one peer lacks, or may lack.
//
// Extents that reach beyond the device are cut at its end. A negative offset or length panics, as
// in Extent.
type Bitmap struct {
	size   int64   // of the device, bytes
	blocks int64   // of the device; the last one may be short
	dirty  int64   // blocks set
	pages  []*page // nil: clean. allDirty: all set. Otherwise owned by this Bitmap
	spare  *page   // one page given back, all 0, so that mark and clear in turn do not allocate
}

// New returns a clean bitmap for a device of sizeBytes bytes, 0 to MaxSize; it panics outside.
func New(sizeBytes int64) *Bitmap {
	b := &Bitmap{}
	b.Resize(sizeBytes)
	return b
}

// Size returns the size of the device in bytes.
func (b *Bitmap) Size() int64 { return b.size }

// Resize grows the device to n bytes; the new blocks are clean. A dirty last block that was short
// stays dirty and now stands for the whole block. It panics if n is less than Size or more than
// MaxSize.
func (b *Bitmap) Resize(n int64) {
	if n < b.size || n > MaxSize {
		panic(fmt.Sprintf("bitmap: resize from %d to %d bytes", b.size, n))
	}
	b.size = n
	b.blocks = (n + BlockSize - 1) / BlockSize
	if add := int((b.blocks+PageBlocks-1)/PageBlocks) - len(b.pages); add > 0 {
		b.pages = append(b.pages, make([]*page, add)...)
	}
}

// Blocks returns the number of dirty blocks.
func (b *Bitmap) Blocks() int64 { return b.dirty }

// Bytes returns the number of dirty bytes: a dirty last block counts with its true length.
func (b *Bitmap) Bytes() int64 {
	n := b.dirty * BlockSize
	if short := b.size % BlockSize; short != 0 && b.isSet(b.blocks-1) {
		n -= BlockSize - short
	}
	return n
}

// Empty reports whether no block is dirty.
func (b *Bitmap) Empty() bool { return b.dirty == 0 }

// Mark makes every block that e touches dirty and returns how many were clean before. It does not
// allocate when the pages of e already hold a dirty block.
func (b *Bitmap) Mark(e Extent) (added int64) {
	before := b.dirty
	first, end := b.touched(e)
	for first < end {
		i, lo, hi := split(first, end)
		b.markIn(i, lo, hi)
		first += int64(hi - lo)
	}
	return b.dirty - before
}

// Clear makes the blocks that lie wholly inside e clean and returns how many were dirty. The last,
// short block of the device lies inside e when e reaches the end of the device.
func (b *Bitmap) Clear(e Extent) (removed int64) {
	before := b.dirty
	first, end := b.covered(e)
	for first < end {
		i, lo, hi := split(first, end)
		b.clearIn(i, lo, hi)
		first += int64(hi - lo)
	}
	return before - b.dirty
}

// Any reports whether a block that e touches is dirty.
func (b *Bitmap) Any(e Extent) bool {
	first, end := b.touched(e)
	return first < end && b.dirty != 0 && b.nextSet(first, end) < end
}

// All reports whether every block that e touches is dirty; true when it touches none.
func (b *Bitmap) All(e Extent) bool {
	first, end := b.touched(e)
	return first >= end || b.nextClear(first, end) >= end
}

// NextRun returns the first run of dirty blocks at or after byte offset from, at most maxLen bytes
// of it, cut at the end of the device; false when there is none. An offset inside a block stands
// for that block. maxLen is rounded down to whole blocks, but to one block at least.
func (b *Bitmap) NextRun(from, maxLen int64) (Extent, bool) {
	if from < 0 {
		panic(fmt.Sprintf("bitmap: run from offset %d", from))
	}
	first := b.nextSet(from/BlockSize, b.blocks)
	if first >= b.blocks {
		return Extent{}, false
	}
	count := min(max(1, maxLen/BlockSize), b.blocks-first)
	end := b.nextClear(first, first+count)
	return Extent{Off: first * BlockSize, Len: (end - first) * BlockSize}.Clip(b.size), true
}

// Or makes every block dirty that is dirty in o. It panics when o describes a larger device: its
// bits beyond this one would be lost without a word.
func (b *Bitmap) Or(o *Bitmap) {
	if o.size > b.size {
		panic(fmt.Sprintf("bitmap: or of a device of %d bytes into one of %d", o.size, b.size))
	}
	for i, q := range o.pages {
		switch {
		case q == nil || b.pages[i] == allDirty:
		case q == allDirty:
			b.fill(i)
		default:
			p := b.own(i)
			n := 0
			for w, v := range q.words {
				n += bits.OnesCount64(v &^ p.words[w])
				p.words[w] |= v
			}
			b.account(i, p, n)
		}
	}
}

// AndNot makes every block clean that is dirty in o. It panics when the sizes differ: a short last
// block of one stands for other bytes than the same block of the other.
func (b *Bitmap) AndNot(o *Bitmap) {
	if o.size != b.size {
		panic(fmt.Sprintf("bitmap: and-not of a device of %d bytes from one of %d", o.size, b.size))
	}
	for i, q := range o.pages {
		switch {
		case q == nil || b.pages[i] == nil:
		case q == allDirty:
			b.drop(i)
		default:
			p := b.own(i)
			n := 0
			for w, v := range q.words {
				n += bits.OnesCount64(v & p.words[w])
				p.words[w] &^= v
			}
			b.account(i, p, -n)
		}
	}
}

// Reset makes every block clean.
func (b *Bitmap) Reset() {
	clear(b.pages)
	b.dirty = 0
}

// Clone returns a copy that shares nothing that changes.
func (b *Bitmap) Clone() *Bitmap {
	c := &Bitmap{size: b.size, blocks: b.blocks, dirty: b.dirty, pages: make([]*page, len(b.pages))}
	for i, p := range b.pages {
		if p != nil && p != allDirty {
			q := *p
			p = &q
		}
		c.pages[i] = p
	}
	return c
}
