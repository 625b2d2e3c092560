package bitmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
)

// ErrPage is wrapped by the errors of SetPage.
var ErrPage = errors.New("bad bitmap page")

// PageCount returns the number of pages that describe the device.
func (b *Bitmap) PageCount() int { return len(b.pages) }

// Page returns a copy of the bits of page i, PageSize bytes, or nil when all its blocks are clean.
// Bit k of byte j (k = 0 is the lowest) is block i*PageBlocks + 8*j + k.
func (b *Bitmap) Page(i int) []byte {
	p := b.pages[i]
	if p == nil {
		return nil
	}
	data := make([]byte, PageSize)
	for w, v := range p.words {
		binary.LittleEndian.PutUint64(data[8*w:], v)
	}
	return data
}

// SetPage replaces the bits of page i by data, in the form that Page returns; an empty data means
// a clean page. It refuses, with ErrPage and without a change, an index or a length out of range
// and bits beyond the end of the device. data remains the caller's.
func (b *Bitmap) SetPage(i int, data []byte) error {
	if i < 0 || i >= len(b.pages) {
		return fmt.Errorf("%w: index %d of %d", ErrPage, i, len(b.pages))
	}
	if len(data) != PageSize && len(data) != 0 {
		return fmt.Errorf("%w: %d bytes, not %d", ErrPage, len(data), PageSize)
	}
	inside := min(PageBlocks, b.blocks-int64(i)*PageBlocks)
	n := 0
	for w := 0; w < len(data)/8; w++ {
		v := binary.LittleEndian.Uint64(data[8*w:])
		if beyond := int64(64*w+64) - inside; beyond > 0 && v>>(64-min(64, beyond)) != 0 {
			return fmt.Errorf("%w: page %d has bits beyond the device of %d bytes", ErrPage, i, b.size)
		}
		n += bits.OnesCount64(v)
	}
	b.drop(i)
	switch n {
	case 0:
	case PageBlocks:
		b.fill(i)
	default:
		p := b.own(i)
		for w := range p.words {
			p.words[w] = binary.LittleEndian.Uint64(data[8*w:])
		}
		b.account(i, p, n)
	}
	return nil
}

// DirtyPages yields, in ascending order, the index of each page that holds a dirty block.
func (b *Bitmap) DirtyPages() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, p := range b.pages {
			if p != nil && !yield(i) {
				return
			}
		}
	}
}

// fill makes every block of page i dirty; the page must not be the last of a device that ends
// inside it.
func (b *Bitmap) fill(i int) {
	b.drop(i)
	b.pages[i] = allDirty
	b.dirty += PageBlocks
}

// drop makes every block of page i clean.
func (b *Bitmap) drop(i int) {
	p := b.pages[i]
	if p == nil {
		return
	}
	b.dirty -= int64(p.dirty)
	b.pages[i] = nil
	b.keep(p)
}

// own returns page i in a form that may be written; a clean page becomes one without a bit. The
// caller ends with account.
func (b *Bitmap) own(i int) *page {
	p := b.pages[i]
	if p != nil && p != allDirty {
		return p
	}
	q := b.spare
	b.spare = nil
	if q == nil {
		q = new(page)
	}
	if p != nil {
		*q = *p
	}
	b.pages[i] = q
	return q
}

// account adds n to the counts after words of page i changed, and gives back what has become all
// clean or all dirty.
func (b *Bitmap) account(i int, p *page, n int) {
	p.dirty += n
	b.dirty += int64(n)
	switch p.dirty {
	case 0:
		b.pages[i] = nil
		b.keep(p)
	case PageBlocks:
		b.pages[i] = allDirty
		b.keep(p)
	}
}

// keep takes a page that is no longer referred to as the spare one.
func (b *Bitmap) keep(p *page) {
	if p != allDirty && b.spare == nil {
		*p = page{}
		b.spare = p
	}
}

func (b *Bitmap) markIn(i, lo, hi int) {
	switch {
	case b.pages[i] == allDirty:
	case hi-lo == PageBlocks:
		b.fill(i)
	default:
		p := b.own(i)
		n := 0
		for w := lo >> 6; w <= (hi-1)>>6; w++ {
			m := mask(w, lo, hi) &^ p.words[w]
			n += bits.OnesCount64(m)
			p.words[w] |= m
		}
		b.account(i, p, n)
	}
}

func (b *Bitmap) clearIn(i, lo, hi int) {
	switch {
	case b.pages[i] == nil:
	case hi-lo == PageBlocks:
		b.drop(i)
	default:
		p := b.own(i)
		n := 0
		for w := lo >> 6; w <= (hi-1)>>6; w++ {
			m := mask(w, lo, hi) & p.words[w]
			n += bits.OnesCount64(m)
			p.words[w] &^= m
		}
		b.account(i, p, -n)
	}
}

// touched returns the range [first, end) of the blocks that e touches, cut at the device's end.
func (b *Bitmap) touched(e Extent) (first, end int64) {
	e = b.checked(e)
	if e.Empty() {
		return 0, 0
	}
	return e.Off / BlockSize, (e.End() + BlockSize - 1) / BlockSize
}

// covered returns the range [first, end) of the blocks that lie wholly inside e.
func (b *Bitmap) covered(e Extent) (first, end int64) {
	e = b.checked(e)
	if e.Empty() {
		return 0, 0
	}
	first, end = (e.Off+BlockSize-1)/BlockSize, e.End()/BlockSize
	if e.End() == b.size {
		end = b.blocks
	}
	return first, end
}

// checked returns e cut at the end of the device.
func (b *Bitmap) checked(e Extent) Extent {
	if e.Off < 0 || e.Len < 0 || e.End() < e.Off {
		panic("bitmap: extent " + e.String())
	}
	return e.Clip(b.size)
}

// split returns the part [lo, hi) of the blocks [first, end) that lies in the page of first.
func split(first, end int64) (page, lo, hi int) {
	i := first / PageBlocks
	return int(i), int(first % PageBlocks), int(min(end-i*PageBlocks, PageBlocks))
}

// mask returns the bits of word w that stand for the blocks [lo, hi) of a page.
func mask(w, lo, hi int) uint64 {
	m := ^uint64(0)
	if w == lo>>6 {
		m <<= lo & 63
	}
	if last := hi - 1; w == last>>6 {
		m &= ^uint64(0) >> (63 - last&63)
	}
	return m
}

func (b *Bitmap) isSet(block int64) bool {
	p := b.pages[block/PageBlocks]
	return p != nil && p.words[block%PageBlocks/64]>>(block%64)&1 != 0
}

// nextSet returns the first dirty block in [from, end), or a block at or beyond end.
func (b *Bitmap) nextSet(from, end int64) int64 {
	for from < end {
		i, lo, _ := split(from, end)
		if p := b.pages[i]; p != nil {
			for w := lo >> 6; w < pageWords; w++ {
				if v := p.words[w] & mask(w, lo, PageBlocks); v != 0 {
					return int64(i)*PageBlocks + int64(w*64+bits.TrailingZeros64(v))
				}
			}
		}
		from = int64(i+1) * PageBlocks
	}
	return end
}

// nextClear returns the first clean block in [from, end), or end.
func (b *Bitmap) nextClear(from, end int64) int64 {
	for from < end {
		i, lo, _ := split(from, end)
		p := b.pages[i]
		if p == nil {
			return from
		}
		for w := lo >> 6; p != allDirty && w < pageWords; w++ {
			if v := ^p.words[w] & mask(w, lo, PageBlocks); v != 0 {
				return min(end, int64(i)*PageBlocks+int64(w*64+bits.TrailingZeros64(v)))
			}
		}
		from = int64(i+1) * PageBlocks
	}
	return end
}
