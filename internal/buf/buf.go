// Package buf lends page-aligned, reference-counted payload buffers.
//
// One payload travels from a client's socket to the backing device and to every peer's socket
// without being copied. Whoever holds a reference may read B; only the first owner, before it
// shares the buffer, may write it. Each reference ends with one Release; the last one returns
// the memory to its size class.
package buf

import (
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	minShift = 12 // smallest class: 4 KiB
	maxShift = 25 // largest class: 32 MiB
)

// MaxLen is the largest payload a buffer can hold, in bytes.
const MaxLen = 1 << maxShift

// Align is the alignment of every buffer's memory in bytes, enough for direct I/O.
const Align = 4096

// Buf is one lent buffer. B has the length asked for; its contents are undefined at first.
type Buf struct {
	B    []byte
	mem  []byte // the whole class-sized memory
	refs atomic.Int32
	cls  uint8
}

var pools [maxShift - minShift + 1]sync.Pool

// Get lends a buffer of n bytes, 0 <= n <= MaxLen, with one reference owned by the caller.
// It panics for any other n: a length from a wire is checked before it comes here.
func Get(n int) *Buf {
	if n < 0 || n > MaxLen {
		panic(fmt.Sprintf("buf: length %d out of range", n))
	}
	cls := 0
	if n > 1<<minShift {
		cls = bits.Len(uint(n-1)) - minShift
	}
	b, _ := pools[cls].Get().(*Buf)
	if b == nil {
		b = &Buf{mem: aligned(1 << (cls + minShift)), cls: uint8(cls)}
	}
	b.B = b.mem[:n]
	b.refs.Store(1)
	return b
}

// aligned returns n bytes of memory at a multiple of Align.
func aligned(n int) []byte {
	m := make([]byte, n+Align)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(m)))) & (Align - 1)
	return m[skip : skip+n : skip+n]
}

// Retain adds a reference and returns b, so that it can stand where the reference is handed over.
func (b *Buf) Retain() *Buf {
	if b.refs.Add(1) < 2 {
		panic("buf: Retain of a buffer already given back")
	}
	return b
}

// Release gives one reference back. A nil b is allowed and does nothing.
func (b *Buf) Release() {
	if b == nil {
		return
	}
	switch n := b.refs.Add(-1); {
	case n == 0:
		if poison {
			for i := range b.mem {
				b.mem[i] = 0xdb
			}
		}
		b.B = nil
		pools[b.cls].Put(b)
	case n < 0:
		panic("buf: Release of a buffer already given back")
	}
}

// poison overwrites memory that is given back, so that a use after Release shows in tests.
var poison = os.Getenv("LOCKSTEP_POISON_BUFFERS") != ""
