package bitmap

import "fmt"

// BlockSize is the unit of the dirty bitmap, in bytes.
const BlockSize = 4 << 10

// RegionSize is the unit of the activity log, in bytes.
const RegionSize = 4 << 20

// Extent is the byte range [Off, Off+Len) of a device. A negative field is a bug of the caller:
// ranges that come from outside are checked before they become an Extent.
type Extent struct {
	Off int64 // bytes from the start of the device
	Len int64 // bytes; 0 is empty
}

// End returns the offset of the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Len }

// Empty reports whether e holds no byte.
func (e Extent) Empty() bool { return e.Len <= 0 }

// Overlaps reports whether e and o share a byte. An empty extent overlaps nothing.
func (e Extent) Overlaps(o Extent) bool {
	return e.Len > 0 && o.Len > 0 && e.Off < o.End() && o.Off < e.End()
}

// Contains reports whether every byte of o lies in e.
func (e Extent) Contains(o Extent) bool {
	return o.Off >= e.Off && o.End() <= e.End()
}

// RoundOut returns the smallest extent of whole units, each of align bytes, that contains e.
// align must be a power of two. The end may lie beyond the device; the caller clips.
func (e Extent) RoundOut(align int64) Extent {
	if e.Empty() {
		return Extent{Off: e.Off &^ (align - 1)}
	}
	off := e.Off &^ (align - 1)
	end := (e.End() + align - 1) &^ (align - 1)
	return Extent{Off: off, Len: end - off}
}

// Clip returns the part of e that lies below size.
func (e Extent) Clip(size int64) Extent {
	if e.End() > size {
		e.Len = max(0, size-e.Off)
	}
	return e
}

func (e Extent) String() string { return fmt.Sprintf("[%d+%d]", e.Off, e.Len) }
