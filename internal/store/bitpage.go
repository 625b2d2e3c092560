package store

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// PageImage is one page of a dirty bitmap, as bitmap.Page returns it. Empty Bits: all clean.
type PageImage struct {
	Index int
	Bits  []byte
}

// encodePage writes the two guarded blocks of a page into b, pageStride bytes. Each half has a
// header of its own: a disk writes 4 KiB at once or not at all, so a crash in the middle leaves
// two valid halves, one old and one new. A whole page under one header would be torn then, and
// taken as all dirty.
func encodePage(b []byte, p PageImage, slot int, seq, instance uint64) {
	clear(b)
	for half := range halfBlocks {
		block := b[half*diskBlock:][:headerSize+halfSize]
		if len(p.Bits) > 0 {
			copy(block[headerSize:], p.Bits[half*halfSize:][:halfSize])
		}
		seal(block, pageMagic, header{seq: seq, instance: instance,
			words: [6]uint32{uint32(slot), uint32(p.Index), uint32(half)}})
	}
}

// decodeHalf returns the bits of half a page, a part of b.
func decodeHalf(b []byte, page, slot, half int, instance uint64) ([]byte, error) {
	h, body, err := unseal(b, pageMagic)
	if err != nil {
		return nil, err
	}
	want := [6]uint32{uint32(slot), uint32(page), uint32(half)}
	if h.words != want || h.instance != instance || len(body) != halfSize {
		return nil, fmt.Errorf("%w: block of slot, page, half %v, instance %016x, %d bytes",
			ErrDamaged, h.words[:3], h.instance, len(body))
	}
	return body, nil
}

// decodePage sets page i of m from its two blocks in b and returns how many halves were bad; those
// are all dirty then. Two blank blocks are a clean page; one alone is bad, for they are never
// written apart.
func decodePage(m *bitmap.Bitmap, b []byte, i, slot int, instance uint64) (bad int, why error) {
	var bits [bitmap.PageSize]byte
	var faults [halfBlocks]error
	blank := 0
	for half := range halfBlocks {
		body, err := decodeHalf(b[half*diskBlock:][:diskBlock], i, slot, half, instance)
		faults[half] = err
		copy(bits[half*halfSize:], body)
		if errors.Is(err, errBlank) {
			blank++
		}
	}
	if blank == halfBlocks {
		return 0, nil
	}
	if err := m.SetPage(i, bits[:]); err != nil {
		faults[0], faults[1] = err, err
	}
	for half, err := range faults {
		if err != nil && !planted.On(planted.PageChecksumIgnored) {
			bad++
			m.Mark(bitmap.Extent{
				Off: int64(i)*bitmap.PageSpan + int64(half)*bitmap.PageSpan/halfBlocks,
				Len: bitmap.PageSpan / halfBlocks,
			})
			why = fmt.Errorf("bitmap slot %d, page %d, half %d: %w", slot, i, half, err)
		}
	}
	return bad, why
}

// LoadBitmap returns the dirty bitmap of a slot as stored. badPages counts half pages, 64 MiB of
// device each, that could not be decoded: they are taken as all dirty, and Warnings names the last
// one. Regions of Recovered are not in it.
func (m *Metadata) LoadBitmap(slot int) (dirty *bitmap.Bitmap, badPages int, err error) {
	checkSlot(slot)
	m.logMu.Lock() // no page is half written
	defer m.logMu.Unlock()
	if err := m.usable(); err != nil {
		return nil, 0, err
	}
	dirty, badPages, why, err := loadBitmap(m.dev, m.lay, m.size.Load(), slot, m.instance)
	if err != nil {
		return nil, badPages, m.failed("read bitmap", err)
	}
	m.warn(why)
	return dirty, badPages, nil
}

// loadBitmap is LoadBitmap on a device; why tells of the last bad half page.
func loadBitmap(dev MetaDevice, l layout, size int64, slot int, instance uint64) (m *bitmap.Bitmap, bad int, why, err error) {
	m = bitmap.New(size)
	b := make([]byte, pageStride)
	for i := 0; ; i++ {
		if i, err = nextStored(dev, l, i, slot); err != nil || i >= m.PageCount() {
			return m, bad, why, err
		}
		if err := readBlocks(dev, b, l.pageOff(i, slot)); err != nil {
			return nil, bad, why, err
		}
		n, fault := decodePage(m, b, i, slot, instance)
		if n > 0 {
			bad, why = bad+n, fault
		}
	}
}

// nextStored returns the first page at or after i of which something may be stored, or more than
// any page; what the device has not stored was never written.
func nextStored(dev MetaDevice, l layout, i, slot int) (int, error) {
	off := l.pageOff(i, slot)
	at, err := dev.SeekData(off)
	switch {
	case errors.Is(err, io.EOF):
		return math.MaxInt, nil
	case err != nil || at < off+pageStride:
		return i, err
	}
	j := int((at - l.bitmapOff()) / groupStride)
	if l.pageOff(j, slot)+pageStride <= at {
		j++
	}
	return j, nil
}

// SaveBitmapPages stores pages of a slot's bitmap. They are durable when a SaveLog or SyncMeta that
// begins later has returned. ENOSPC is possible: the metadata file is sparse. It panics on a slot,
// index or length out of range.
func (m *Metadata) SaveBitmapPages(slot int, pages []PageImage) error {
	checkSlot(slot)
	m.logMu.Lock()
	defer m.logMu.Unlock()
	if err := m.usable(); err != nil {
		return err
	}
	return m.savePages(slot, pages)
}

func (m *Metadata) savePages(slot int, pages []PageImage) error {
	count := int((m.size.Load() + bitmap.PageSpan - 1) / bitmap.PageSpan)
	for _, p := range pages {
		if p.Index < 0 || p.Index >= count || len(p.Bits) != 0 && len(p.Bits) != bitmap.PageSize {
			panic(fmt.Sprintf("store: bitmap page %d of %d with %d bytes", p.Index, count, len(p.Bits)))
		}
		encodePage(m.page, p, slot, m.log.seq+1, m.instance)
		m.pagesUnsynced = true
		if err := m.write("write bitmap page", m.page, m.lay.pageOff(p.Index, slot), false); err != nil {
			return err
		}
	}
	return nil
}

// SaveBitmap stores all of b in a slot, in place of what was there, like SaveBitmapPages. b must
// describe the device's present size.
func (m *Metadata) SaveBitmap(slot int, b *bitmap.Bitmap) error {
	checkSlot(slot)
	if b.Size() != m.size.Load() {
		panic(fmt.Sprintf("store: bitmap of %d bytes for a device of %d", b.Size(), m.size.Load()))
	}
	m.logMu.Lock()
	defer m.logMu.Unlock()
	if err := m.usable(); err != nil {
		return err
	}
	for i := 0; i < b.PageCount(); i++ {
		bits := b.Page(i)
		if bits == nil {
			stored, err := nextStored(m.dev, m.lay, i, slot)
			if err != nil {
				return m.failed("map metadata", err)
			}
			if stored > i {
				continue // never written: clean already
			}
		}
		if err := m.savePages(slot, []PageImage{{Index: i, Bits: bits}}); err != nil {
			return err
		}
	}
	return nil
}

// SyncMeta returns when all bitmap pages saved before are durable.
func (m *Metadata) SyncMeta() error {
	m.logMu.Lock() // no page is written meanwhile
	defer m.logMu.Unlock()
	err := m.sync(false)
	if err == nil {
		m.pagesUnsynced = false
	}
	return err
}

func checkSlot(slot int) {
	if slot < 0 || slot >= MaxPeers {
		panic(fmt.Sprintf("store: bitmap slot %d of %d", slot, MaxPeers))
	}
}
