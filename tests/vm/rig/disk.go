package rig

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// Disk is a disk with a volatile cache that forgets. It lives in the test and outlives the machines that it is
// plugged into, one after the other.
//
//	      write             flush
//	guest ------> pending ---------> stable
//	                 |
//	                 | power cut: each pending write is kept, lost or torn,
//	                 v            as the seed has it
//	               stable
//
// To kill QEMU and keep an image file is no power cut: whatever the guest wrote is in this machine's page cache
// and stays. Here a write that no flush followed has no right to survive.
type Disk struct {
	size int64
	addr string // unix socket

	mu       sync.Mutex
	now      []byte  // what a read sees
	stable   []byte  // what no power cut can take
	pending  []write // since the last flush, in order
	lies     bool
	stats    DiskStats
	sessions sync.WaitGroup // connections of machines
}

// write is a write that no flush has followed yet.
type write struct {
	off  int64
	data []byte
}

// DiskStats counts what a guest asked of a disk.
type DiskStats struct {
	Writes  int
	Flushes int // that were asked for
	Emptied int // flushes that made something stable
}

// sector is the unit that a power cut tears a write into.
const sector = 512

// NewDisk makes an empty disk and serves it until the end of the test.
func NewDisk(t testing.TB, sizeBytes int64) *Disk {
	t.Helper()
	d := &Disk{size: sizeBytes, now: make([]byte, sizeBytes), stable: make([]byte, sizeBytes)}
	d.serve(t)
	return d
}

// Lie makes the disk answer flushes without carrying them out, from now on: what a barrier is worth.
func (d *Disk) Lie() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = true
}

// Stats returns what has been counted so far.
func (d *Disk) Stats() DiskStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// StableHas reports whether a text stands somewhere in what no power cut can take.
func (d *Disk) StableHas(text []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Contains(d.stable, text)
}

// Cut is what a power cut did to a disk.
type Cut struct{ Kept, Lost, Torn int }

func (c Cut) String() string {
	return fmt.Sprintf("of %d unflushed writes %d kept, %d torn, %d lost", c.Kept+c.Lost+c.Torn, c.Kept, c.Torn, c.Lost)
}

// cut decides about each pending write. Whoever calls it has seen to it that the machine is dead.
func (d *Disk) cut(rng *rand.Rand) Cut {
	d.mu.Lock()
	defer d.mu.Unlock()
	var c Cut
	loseAll := rng.IntN(3) == 0 // else a filesystem hardly ever sees a long run of losses
	for _, w := range d.pending {
		fate := rng.IntN(8)
		switch {
		case loseAll || fate < 3:
			c.Lost++
		case fate < 6:
			c.Kept++
			copy(d.stable[w.off:], w.data)
		default:
			c.Torn++
			for i := 0; i < len(w.data); i += sector {
				if rng.IntN(2) == 0 {
					copy(d.stable[w.off+int64(i):], w.data[i:min(i+sector, len(w.data))])
				}
			}
		}
	}
	d.pending = nil
	copy(d.now, d.stable)
	return c
}

// quiesce returns when the disk has done all that a dead machine had sent it.
func (d *Disk) quiesce() { d.sessions.Wait() }

func (d *Disk) write(off int64, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.now[off:], data)
	d.pending = append(d.pending, write{off, data})
	d.stats.Writes++
}

func (d *Disk) read(off int64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.now[off:])
}

func (d *Disk) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Flushes++
	if d.lies {
		return
	}
	if len(d.pending) > 0 {
		d.stats.Emptied++
	}
	for _, w := range d.pending {
		copy(d.stable[w.off:], w.data)
	}
	d.pending = nil
}
