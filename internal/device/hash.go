package device

import (
	"bytes"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

// Whether a block may be skipped as equal is decided by a keyed hash with a key that is fresh
// for each session, so that nobody who can write blocks can prepare two that collide (rule 17).
// BLAKE3 in keyed mode, cut to 128 bits, is such a hash; a faster one without a key, or one like
// xxhash that is keyed but not made against an adversary, is none.

// appendHashes appends the hash of each block of data to dst: wire.HashSize bytes a block, the
// last, short block hashed at its true length.
func appendHashes(dst []byte, key *[32]byte, data []byte) []byte {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(fmt.Sprintf("device: blake3: %v", err)) // the key has the right length
	}
	var sum [32]byte
	for len(data) > 0 {
		n := min(len(data), bitmap.BlockSize)
		h.Reset()
		_, _ = h.Write(data[:n]) // a hash never fails
		dst = append(dst, h.Sum(sum[:0])[:wire.HashSize]...)
		data = data[n:]
	}
	return dst
}

// hashesLen is the length of the hashes of an extent of n bytes.
func hashesLen(n int64) int {
	return int((n + bitmap.BlockSize - 1) / bitmap.BlockSize * wire.HashSize)
}

// diffHashes marks in d each block whose hashes differ. Both have the same length.
func diffHashes(d *replication.Diff, ours, theirs []byte) {
	for i := 0; i < len(ours); i += wire.HashSize {
		if !bytes.Equal(ours[i:i+wire.HashSize], theirs[i:i+wire.HashSize]) {
			d.Set(i / wire.HashSize)
		}
	}
}

var zeroBlock [bitmap.BlockSize]byte

// allZero reports whether every byte of b is zero.
func allZero(b []byte) bool {
	for len(b) > len(zeroBlock) {
		if !bytes.Equal(b[:len(zeroBlock)], zeroBlock[:]) {
			return false
		}
		b = b[len(zeroBlock):]
	}
	return bytes.Equal(b, zeroBlock[:len(b)])
}
