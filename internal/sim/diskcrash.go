package sim

import (
	"math/bits"
	"math/rand/v2"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// BeginSync marks the moment at which an fdatasync begins.
func (d *Disk) BeginSync() SyncMark { return d.stamp }

// EndSync is the return of the fdatasync that began at m: what the cache held then is durable. What
// was written since is not: an fdatasync may well have written it, but nobody may count on that.
func (d *Disk) EndSync(m SyncMark) {
	kept := d.loose[:0]
	for _, p := range d.loose {
		p.settle(p.unsynced, m)
		if p.listed = p.unsynced|p.lost != 0; p.listed {
			kept = append(kept, p)
		}
	}
	d.loose = kept
}

// Sync makes the whole cache durable, but for what a failed sync forgot.
func (d *Disk) Sync() { d.EndSync(d.stamp) }

// settle makes what the unsynced sectors among mask held at m durable.
func (p *diskPage) settle(mask uint8, m SyncMark) {
	for mask &= p.unsynced; mask != 0; mask &= mask - 1 {
		i := bits.TrailingZeros8(mask)
		if p.stamp[i] <= m {
			p.durable[i] = p.cache[i]
			p.unsynced &^= 1 << i
			continue
		}
		n := 0
		for past := p.past[i][:p.pastLen[i]]; n < len(past) && past[n].stamp <= m; n++ {
			p.durable[i] = past[n].value
		}
		copy(p.past[i][:], p.past[i][n:])
		p.pastLen[i] -= uint8(n)
	}
}

// Stabilise makes e durable as it reads now: a write with FUA.
func (d *Disk) Stabilise(e bitmap.Extent) {
	for first, end := d.sectors(e); first < end; {
		block, lo, hi := inBlock(first, end)
		if p := d.page(block); p != nil {
			p.settle(maskOf(lo, hi), d.stamp)
		}
		first += int64(hi - lo)
	}
}

// Unsynced reports whether a crash could change what e reads as.
func (d *Disk) Unsynced(e bitmap.Extent) bool {
	for first, end := d.sectors(e); first < end; {
		block, lo, hi := inBlock(first, end)
		if p := d.page(block); p != nil && (p.unsynced|p.lost)&maskOf(lo, hi) != 0 {
			return true
		}
		first += int64(hi - lo)
	}
	return false
}

// FailSync is an fdatasync that fails. Each unsynced block, or each sector of it, was written, or was
// not and is forgotten: the kernel marked its pages clean. Reads still show what was forgotten, no
// later Sync writes it, and a crash loses it. At least one block is forgotten if any was unsynced.
func (d *Disk) FailSync(rng *rand.Rand) {
	if len(d.loose) == 0 {
		return
	}
	sure := rng.IntN(len(d.loose))
	for k, p := range d.loose {
		written := p.unsynced & tear(rng)
		if k == sure {
			written = 0
		}
		p.settle(written, d.stamp)
		p.lost |= p.unsynced
		p.unsynced = 0
	}
}

// tear draws which sectors of a block reach the disk: none, all, or each by itself.
func tear(rng *rand.Rand) uint8 {
	switch rng.IntN(3) {
	case 0:
		return 0
	case 1:
		return 0xff
	}
	return uint8(rng.Uint32())
}

// DropCache evicts what the kernel believes to be clean: sectors that a failed sync forgot now read
// as they are on disk.
func (d *Disk) DropCache() {
	for _, p := range d.loose {
		for ; p.lost != 0; p.lost &= p.lost - 1 {
			i := bits.TrailingZeros8(p.lost)
			p.cache[i] = p.durable[i]
		}
	}
}

// Crash is a crash of the host. Either nothing unsynced was written, or all of it, or each block was
// kept or dropped or torn by a draw of its own. Then the disk reads as it is.
func (d *Disk) Crash(rng *rand.Rand) {
	fate := rng.IntN(4)
	for _, p := range d.loose {
		switch fate {
		case 0: // dropped
		case 1:
			p.settle(p.unsynced, d.stamp)
		default:
			p.crash(rng)
		}
		p.cache = p.durable // of what a failed sync forgot, too
		p.unsynced, p.lost, p.listed = 0, 0, false
	}
	d.loose = d.loose[:0]
}

// crash draws what became of the unsynced sectors of one block.
func (p *diskPage) crash(rng *rand.Rand) {
	if p.unsynced == 0 {
		return
	}
	switch rng.IntN(6) {
	case 0, 1: // dropped
	case 2:
		p.settle(p.unsynced, ^SyncMark(0))
	case 3: // written once, at some moment, and never again
		p.settle(p.unsynced, p.moment(rng))
	default: // torn: each sector as it was durable, or at a moment of its own
		for mask := p.unsynced; mask != 0; mask &= mask - 1 {
			i := bits.TrailingZeros8(mask)
			switch n := rng.IntN(int(p.pastLen[i]) + 2); {
			case n < int(p.pastLen[i]):
				p.durable[i] = p.past[i][n].value
			case n == int(p.pastLen[i]):
				p.durable[i] = p.cache[i]
			}
		}
	}
}

// moment draws the stamp of one of the unsynced writes to the block.
func (p *diskPage) moment(rng *rand.Rand) SyncMark {
	i := 0
	for k := rng.IntN(bits.OnesCount8(p.unsynced)); ; i++ {
		if p.unsynced&(1<<i) == 0 {
			continue
		}
		if k == 0 {
			break
		}
		k--
	}
	if n := rng.IntN(int(p.pastLen[i]) + 1); n < int(p.pastLen[i]) {
		return p.past[i][n].stamp
	}
	return p.stamp[i]
}
