package store

import "github.com/lockstep-ha/lockstep/bitmap"

const (
	superSize   = 128 << 10 // one superblock slot, bytes
	halfBlocks  = 2         // a bitmap page is stored as two guarded blocks
	halfSize    = bitmap.PageSize / halfBlocks
	pageStride  = halfBlocks * diskBlock // one page of one slot on disk, bytes
	groupStride = MaxPeers * pageStride  // one page of all slots, bytes
)

// layout places everything in the metadata file. Bitmap pages of the same place of the device stand
// together, one for each slot, so that a device that grows only appends to the file.
type layout struct {
	regions int // capacity of the activity log
}

func superOff(slot uint64) int64 { return int64(slot) * superSize }

// maxEntries is the number of regions that one log table holds: twice the capacity, see SaveLog.
func (l layout) maxEntries() int { return 2 * l.regions }

func (l layout) tableSize() int64 {
	return roundUp(headerSize+4*int64(l.maxEntries()), diskBlock)
}

func (l layout) tableOff(slot uint64) int64 { return 2*superSize + int64(slot)*l.tableSize() }

func (l layout) bitmapOff() int64 { return roundUp(l.tableOff(2), groupStride) }

func (l layout) pageOff(page, slot int) int64 {
	return l.bitmapOff() + int64(page)*groupStride + int64(slot)*pageStride
}

// fileSize returns the length of the metadata file of a device of size bytes.
func (l layout) fileSize(size int64) int64 {
	return l.pageOff(int((size+bitmap.PageSpan-1)/bitmap.PageSpan), 0)
}
