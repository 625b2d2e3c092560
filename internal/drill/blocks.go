package drill

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// blockSize is the size of every request, in bytes.
const blockSize = 4096

// payload fills p with the write numbered counter of a block. Nothing else has these bytes: run is random
// for each drill.
func payload(p []byte, run uint64, block int64, counter uint64) {
	binary.BigEndian.PutUint64(p, run)
	binary.BigEndian.PutUint64(p[8:], uint64(block))
	binary.BigEndian.PutUint64(p[16:], counter)
	x := run ^ uint64(block)*0x9e3779b97f4a7c15 ^ counter*0xbf58476d1ce4e5b9 | 1
	for i := 24; i < blockSize; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

// cell is what is known of one block. Its writer alone touches it while the load runs.
type cell struct {
	acked   uint64 // newest acknowledged write; 0: none, the block holds zeros
	pending uint64 // a write whose outcome is unknown; 0: none
	retired bool   // pending may land at any time; the block is not written any more
}

// judge says what is wrong with a block that holds p, nil if nothing is. scratch is of blockSize.
func (c cell) judge(p, scratch []byte, run uint64, block int64) error {
	allowed := []uint64{c.acked}
	if c.pending != 0 {
		allowed = append(allowed, c.pending)
	}
	for _, counter := range allowed {
		clear(scratch)
		if counter != 0 {
			payload(scratch, run, block, counter)
		}
		if bytes.Equal(p, scratch) {
			return nil
		}
	}
	return fmt.Errorf("block %d: %s; acknowledged was write %d", block, describe(p, scratch, run), c.acked)
}

// describe tells what p is, as far as it is a payload of this drill.
func describe(p, scratch []byte, run uint64) string {
	clear(scratch)
	if bytes.Equal(p, scratch) {
		return "it holds zeros"
	}
	if binary.BigEndian.Uint64(p) != run {
		return "it holds something that this drill never wrote"
	}
	block, counter := int64(binary.BigEndian.Uint64(p[8:])), binary.BigEndian.Uint64(p[16:])
	payload(scratch, run, block, counter)
	if !bytes.Equal(p, scratch) {
		return fmt.Sprintf("it holds a part of write %d of block %d", counter, block)
	}
	return fmt.Sprintf("it holds write %d of block %d", counter, block)
}
