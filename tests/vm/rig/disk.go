package rig

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
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
	now      *store  // what a read sees
	stable   *store  // what no power cut can take
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
	d := &Disk{size: sizeBytes, now: newStore(sizeBytes), stable: newStore(sizeBytes)}
	d.serve(t)
	return d
}

// Lie makes the disk answer flushes without carrying them out, or carry them out again: what a barrier is worth.
func (d *Disk) Lie(lies bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = lies
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
	return d.stable.contains(text)
}

// Cut is what a power cut did to a disk.
type Cut struct{ Kept, Lost, Torn int }

func (c Cut) String() string {
	return fmt.Sprintf("%d unflushed: %d kept, %d torn, %d lost", c.Kept+c.Lost+c.Torn, c.Kept, c.Torn, c.Lost)
}

// Image is what a power cut at some moment would have left of a disk.
type Image struct {
	*store
	Cut
}

// Images returns what a power cut at this moment would leave of some disks of a machine that runs on. The moment is
// the same for all of them.
func Images(seed uint64, disks ...*Disk) []Image {
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, d := range disks {
		d.mu.Lock()
		defer d.mu.Unlock()
	}
	images := make([]Image, 0, len(disks))
	for _, d := range disks {
		images = append(images, d.cut(rng))
	}
	return images
}

// AwaitWrites returns when the disk has taken so many more writes, most likely in the middle of something.
func (d *Disk) AwaitWrites(t testing.TB, more int) {
	t.Helper()
	want := d.Stats().Writes + more
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(Limit)
	defer limit.Stop()
	for d.Stats().Writes < want {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("the disk has had %d writes, not %d, after %v", d.Stats().Writes, want, Limit)
		}
	}
}

// Load makes the disk hold an image, and nothing else. No machine may have it open.
func (d *Disk) Load(img Image) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stable, d.now, d.pending = img.snapshot(), img.snapshot(), nil
}

// cut decides about each pending write; d.mu is held.
func (d *Disk) cut(rng *rand.Rand) Image {
	img := Image{store: d.stable.snapshot()}
	loseAll := rng.IntN(3) == 0 // else a file system hardly ever sees a long run of losses
	for _, w := range d.pending {
		fate := rng.IntN(8)
		switch {
		case loseAll || fate < 3:
			img.Lost++
		case fate < 6:
			img.Kept++
			img.write(w.off, w.data)
		default:
			img.Torn++
			for i := 0; i < len(w.data); i += sector {
				if rng.IntN(2) == 0 {
					img.write(w.off+int64(i), w.data[i:min(i+sector, len(w.data))])
				}
			}
		}
	}
	return img
}

// Settle returns when the disk has done all that a machine which has ended had sent it, and makes that stable: a
// machine that resets itself takes no power from its disks.
func (d *Disk) Settle() {
	d.quiesce()
	d.flush()
}

// quiesce returns when the disk has done all that a dead machine had sent it.
func (d *Disk) quiesce() { d.sessions.Wait() }

func (d *Disk) write(off int64, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now.write(off, data)
	d.pending = append(d.pending, write{off, data})
	d.stats.Writes++
}

func (d *Disk) read(off int64, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now.read(off, p)
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
	for _, w := range d.pending { // not "stable = now.snapshot()": that would copy whole chunks again and again
		d.stable.write(w.off, w.data)
	}
	d.pending = nil
}
