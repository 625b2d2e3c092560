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

// Small buffers come from a sync.Pool each class. Large ones are kept by hand: a sync.Pool gives
// them up at each garbage collection, and making a new one costs more than filling it, because its
// pages have to be zeroed and faulted in.
var (
	pools [maxShift - minShift + 1]sync.Pool
	large struct {
		sync.Mutex
		free [maxShift - minShift + 1][]*Buf
		held int // bytes
	}
)

const (
	largeClass = 17 - minShift // from 128 KiB on
	maxHeld    = 24 << 20      // bytes of large buffers that are kept for the next use
)

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
	b := take(cls)
	if b == nil {
		b = &Buf{mem: aligned(1 << (cls + minShift)), cls: uint8(cls)}
	}
	b.B = b.mem[:n]
	b.refs.Store(1)
	return b
}

// take returns a free buffer of class cls, or nil.
func take(cls int) *Buf {
	if cls < largeClass {
		b, _ := pools[cls].Get().(*Buf)
		return b
	}
	large.Lock()
	defer large.Unlock()
	free := large.free[cls]
	if len(free) == 0 {
		return nil
	}
	b := free[len(free)-1]
	large.free[cls] = free[:len(free)-1]
	large.held -= len(b.mem)
	return b
}

// give keeps b for the next use of its class, unless enough are kept.
func give(b *Buf) {
	if b.cls < largeClass {
		pools[b.cls].Put(b)
		return
	}
	large.Lock()
	defer large.Unlock()
	if large.held+len(b.mem) <= maxHeld {
		large.held += len(b.mem)
		large.free[b.cls] = append(large.free[b.cls], b)
	}
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
		give(b)
	case n < 0:
		panic("buf: Release of a buffer already given back")
	}
}

// poison overwrites memory that is given back, so that a use after Release shows in tests.
var poison = os.Getenv("LOCKSTEP_POISON_BUFFERS") != ""
