package bitmap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrRuns is wrapped by the errors of MarkRuns.
var ErrRuns = errors.New("bad run-length code")

// MinRunBytes is the least maxBytes of AppendRuns: room for one pair, whatever its numbers.
const MinRunBytes = 2 * binary.MaxVarintLen64

// AppendRuns appends the dirty blocks at or after byte offset from to dst as run-length code, at
// most maxBytes (MinRunBytes or more) of it, and returns the extended slice and the offset from
// which the next call goes on; -1 when nothing is left.
//
// The code is a sequence of pairs of canonical uvarints (encoding/binary):
//
//	skip   clean blocks since the end of the previous pair's run; of the first pair: since block 0.
//	       0 only in the first pair
//	run    dirty blocks, 1 or more
//
// Each call's output starts at block 0 again, so the pieces can be decoded in any order.
func (b *Bitmap) AppendRuns(dst []byte, from int64, maxBytes int) (out []byte, next int64) {
	if maxBytes < MinRunBytes {
		panic(fmt.Sprintf("bitmap: run-length code in %d bytes", maxBytes))
	}
	limit := len(dst) + maxBytes
	var pos int64 // end of the previous run, in blocks
	for {
		e, ok := b.NextRun(from, b.blocks*BlockSize)
		if !ok {
			return dst, -1
		}
		if len(dst)+MinRunBytes > limit {
			return dst, e.Off
		}
		first := e.Off / BlockSize
		end := (e.End() + BlockSize - 1) / BlockSize
		dst = binary.AppendUvarint(dst, uint64(first-pos))
		dst = binary.AppendUvarint(dst, uint64(end-first))
		pos, from = end, end*BlockSize
	}
}

// MarkRuns marks the blocks that runs names, in the code of AppendRuns. It refuses, with ErrRuns
// and without marking anything, whatever AppendRuns would not write: a block beyond the device, a
// run of no blocks, runs that touch, a number in more bytes than it needs, a pair cut short.
func (b *Bitmap) MarkRuns(runs []byte) error {
	if err := eachRun(runs, b.blocks, func(Extent) {}); err != nil {
		return err
	}
	return eachRun(runs, b.blocks, func(e Extent) { b.Mark(e) })
}

// eachRun calls f for each run, up to the first fault.
func eachRun(runs []byte, blocks int64, f func(Extent)) error {
	var pos uint64
	for at := 0; at < len(runs); {
		skip, n := uvarint(runs[at:])
		if n == 0 {
			return fmt.Errorf("%w: bad number at byte %d", ErrRuns, at)
		}
		run, m := uvarint(runs[at+n:])
		if m == 0 {
			return fmt.Errorf("%w: bad number at byte %d", ErrRuns, at+n)
		}
		left := uint64(blocks) - pos
		switch {
		case run == 0:
			return fmt.Errorf("%w: run of no blocks at byte %d", ErrRuns, at)
		case skip == 0 && at > 0:
			return fmt.Errorf("%w: run at byte %d touches the one before", ErrRuns, at)
		case skip > left || run > left-skip:
			return fmt.Errorf("%w: run at byte %d ends beyond block %d", ErrRuns, at, blocks)
		}
		f(Extent{Off: int64(pos+skip) * BlockSize, Len: int64(run) * BlockSize})
		pos += skip + run
		at += n + m
	}
	return nil
}

// uvarint decodes the number at the start of p and its length; 0 when there is none, when it
// overflows, and when fewer bytes could have held it.
func uvarint(p []byte) (v uint64, n int) {
	v, n = binary.Uvarint(p)
	if n <= 0 || n > 1 && p[n-1] == 0 {
		return 0, 0
	}
	return v, n
}
