package bitmap

// MaxSize is the largest device a Bitmap describes, in bytes: 1 PiB.
const MaxSize = 1 << 50

// RegionsPerPage is the number of regions that one bitmap page covers.
const RegionsPerPage = PageSpan / RegionSize

// RegionIndex counts regions of RegionSize bytes from the start of the device.
type RegionIndex uint32

// Extent returns the bytes of region r. The last region of a device may reach beyond its end; the
// caller clips.
func (r RegionIndex) Extent() Extent { return Extent{Off: int64(r) * RegionSize, Len: RegionSize} }

// Page returns the index of the bitmap page that covers r.
func (r RegionIndex) Page() int { return int(r / RegionsPerPage) }

// RegionsOf returns the first region that e touches and how many it touches: 0 for an empty e.
func RegionsOf(e Extent) (first RegionIndex, count int) {
	if e.Off < 0 || e.Len < 0 || e.End() > MaxSize {
		panic("bitmap: extent " + e.String() + " outside any device")
	}
	first = RegionIndex(e.Off / RegionSize)
	if e.Empty() {
		return first, 0
	}
	last := RegionIndex((e.End() - 1) / RegionSize)
	return first, int(last-first) + 1
}
