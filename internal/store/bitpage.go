package store

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
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
		if err != nil {
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
// one. Regions of Recovered are not in it. Errors: ErrFailed, ErrClosed.
func (s *Store) LoadBitmap(slot int) (m *bitmap.Bitmap, badPages int, err error) {
	if err := s.enter(); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	s.checkSlot(slot)
	m, badPages, why, err := loadBitmap(s.metaFile, s.lay, s.size.Load(), slot, s.instance)
	if err != nil {
		return nil, badPages, s.ioError("read bitmap", err)
	}
	s.warn(why)
	return m, badPages, nil
}

// loadBitmap is LoadBitmap on a file; why tells of the last bad half page.
func loadBitmap(f file, l layout, size int64, slot int, instance uint64) (m *bitmap.Bitmap, bad int, why, err error) {
	m = bitmap.New(size)
	b := make([]byte, pageStride)
	for i := nextStored(f, l, 0, slot); i < m.PageCount(); i = nextStored(f, l, i+1, slot) {
		if err := readFull(f, b, l.pageOff(i, slot)); err != nil {
			return nil, bad, why, err
		}
		n, fault := decodePage(m, b, i, slot, instance)
		if n > 0 {
			bad, why = bad+n, fault
		}
	}
	return m, bad, why, nil
}

// nextStored returns the first page at or after i of which something may be stored, or more than
// any page; holes in the metadata file are pages that were never written.
func nextStored(f file, l layout, i, slot int) int {
	off := l.pageOff(i, slot)
	at, err := f.seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return math.MaxInt
	case err != nil || at < off+pageStride:
		return i
	}
	j := int((at - l.bitmapOff()) / groupStride)
	if l.pageOff(j, slot)+pageStride <= at {
		j++
	}
	return j
}

// SaveBitmapPages stores pages of a slot's bitmap. They are durable when a SaveLog or SyncMeta that
// begins later has returned. ENOSPC is possible: the metadata file is sparse. It panics on a slot,
// index or length out of range.
func (s *Store) SaveBitmapPages(slot int, pages []PageImage) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.checkSlot(slot)
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.savePages(slot, pages)
}

func (s *Store) savePages(slot int, pages []PageImage) error {
	b := make([]byte, pageStride)
	count := int((s.size.Load() + bitmap.PageSpan - 1) / bitmap.PageSpan)
	for _, p := range pages {
		if p.Index < 0 || p.Index >= count || len(p.Bits) != 0 && len(p.Bits) != bitmap.PageSize {
			panic(fmt.Sprintf("store: bitmap page %d of %d with %d bytes", p.Index, count, len(p.Bits)))
		}
		encodePage(b, p, slot, s.log.seq+1, s.instance)
		s.pagesUnsynced.Store(true)
		if err := writeFull(s.metaFile, b, s.lay.pageOff(p.Index, slot), false); err != nil {
			return s.ioError("write bitmap page", err)
		}
	}
	return nil
}

// SaveBitmap stores all of m in a slot, in place of what was there, like SaveBitmapPages. m must
// describe the device's present size.
func (s *Store) SaveBitmap(slot int, m *bitmap.Bitmap) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.checkSlot(slot)
	if m.Size() != s.size.Load() {
		panic(fmt.Sprintf("store: bitmap of %d bytes for a device of %d", m.Size(), s.size.Load()))
	}
	s.logMu.Lock()
	defer s.logMu.Unlock()
	for i := 0; i < m.PageCount(); i++ {
		bits := m.Page(i)
		if bits == nil && nextStored(s.metaFile, s.lay, i, slot) > i {
			continue // never written: clean already
		}
		if err := s.savePages(slot, []PageImage{{Index: i, Bits: bits}}); err != nil {
			return err
		}
	}
	return nil
}

// SyncMeta returns when all bitmap pages saved before are durable.
func (s *Store) SyncMeta() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.logMu.Lock() // no page is written meanwhile
	defer s.logMu.Unlock()
	err := s.syncMeta()
	if err == nil {
		s.pagesUnsynced.Store(false)
	}
	return err
}

func (s *Store) checkSlot(slot int) {
	if slot < 0 || slot >= MaxPeers {
		panic(fmt.Sprintf("store: bitmap slot %d of %d", slot, MaxPeers))
	}
}
