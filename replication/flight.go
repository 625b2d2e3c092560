package replication

import "github.com/lockstep-ha/lockstep/bitmap"

// flight is one frame sent to a peer and not acknowledged (primary), or one received and not yet
// below the watermark (secondary).
type flight struct {
	seq  uint64
	ext  bitmap.Extent
	id   ID
	fua  bool
	done bool // secondary: applied
}

// flightQueue is a FIFO of flights in ascending seq.
type flightQueue struct {
	q     []flight
	head  int
	bytes int64 // of the extents in it
}

func (f *flightQueue) len() int         { return len(f.q) - f.head }
func (f *flightQueue) at(i int) *flight { return &f.q[f.head+i] }
func (f *flightQueue) front() *flight   { return &f.q[f.head] }
func (f *flightQueue) items() []flight  { return f.q[f.head:] }
func (f *flightQueue) reset()           { f.q, f.head, f.bytes = f.q[:0], 0, 0 }

func (f *flightQueue) push(x flight) {
	if f.head > 256 && f.head*2 >= len(f.q) {
		f.q = append(f.q[:0], f.q[f.head:]...)
		f.head = 0
	}
	f.q = append(f.q, x)
	f.bytes += x.ext.Len
}

func (f *flightQueue) pop() flight {
	x := f.q[f.head]
	f.head++
	f.bytes -= x.ext.Len
	if f.head == len(f.q) {
		f.reset()
	}
	return x
}

// find returns the flight with seq, or nil. Sequence numbers ascend, so it is a binary search.
func (f *flightQueue) find(seq uint64) *flight {
	s := f.items()
	lo, hi := 0, len(s)
	for lo < hi {
		m := (lo + hi) / 2
		if s[m].seq < seq {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(s) && s[lo].seq == seq {
		return &s[lo]
	}
	return nil
}
