package device

import (
	"fmt"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/replication"
)

// job is one local I/O. mem keeps the memory of b alive until the end, whatever becomes of the
// ID meanwhile.
type job struct {
	kind   replication.ActionKind
	flags  replication.OpFlags
	copied bool // a read of the core's own: its bytes go to a buffer made for it
	id     replication.ID
	ext    bitmap.Extent
	mem    *buf.Buf
	b      []byte // payload of a write, room of a client's read, hashes to compare with
	key    [32]byte

	// Results.
	err  error
	zero bool
	out  *buf.Buf // becomes the payload of id; nil: the payload stays as it is
	diff replication.Diff
}

// quick reports whether j is so short on a buffered backing that waking a worker would cost more.
func (j *job) quick() bool {
	if j.ext.Len > inlineMax || j.flags&replication.FlagFUA != 0 {
		return false
	}
	switch j.kind {
	case replication.ActLocalWrite:
		return true
	case replication.ActLocalRead:
		return !j.copied
	case replication.ActLocalZeroes:
		return j.flags&replication.FlagPunch == 0
	}
	return false
}

// run does j, unless the backing was given up. No lock is held.
func (d *Device) run(j *job) {
	if f := d.fault.Load(); f != nil {
		j.err = *f
	} else {
		j.run(d.store)
	}
	j.mem.Release()
	j.mem, j.b = nil, nil
}

// run does the I/O and notes the result.
func (j *job) run(s backing) {
	fua := j.flags&replication.FlagFUA != 0
	switch j.kind {
	case replication.ActLocalRead:
		j.read(s)
	case replication.ActLocalWrite:
		j.err = s.WriteAt(j.payload(), j.ext.Off, fua)
	case replication.ActLocalZeroes:
		j.err = s.WriteZeroes(j.ext, j.flags&replication.FlagPunch != 0, fua)
	case replication.ActLocalTrim:
		j.err = s.Trim(j.ext, fua)
	case replication.ActLocalSync:
		j.err = s.Sync()
	case replication.ActLocalHash:
		j.out, j.err = j.hash(s)
	case replication.ActLocalCompare:
		j.compare(s)
	default:
		panic(fmt.Sprintf("device: action %d is no local I/O", j.kind))
	}
}

// payload returns what a write writes.
func (j *job) payload() []byte {
	if int64(len(j.b)) != j.ext.Len {
		panic(fmt.Sprintf("device: operation %#x writes %s with a payload of %d bytes", uint64(j.id), j.ext, len(j.b)))
	}
	return j.b
}

// read fills a client's buffer, or one made for a copy, of which it also says whether it is all
// zero.
func (j *job) read(s backing) {
	if !j.copied {
		j.err = s.ReadAt(j.payload(), j.ext.Off)
		return
	}
	j.out, j.err = readNew(s, j.ext)
	j.zero = j.out != nil && allZero(j.out.B)
}

// hash reads the extent and returns the keyed hashes of its blocks.
func (j *job) hash(s backing) (*buf.Buf, error) {
	data, err := readNew(s, j.ext)
	if err != nil {
		return nil, err
	}
	defer data.Release()
	out := buf.Get(hashesLen(j.ext.Len))
	appendHashes(out.B[:0], &j.key, data.B)
	return out, nil
}

// compare hashes the extent and marks the blocks whose hash is not the one in the payload.
func (j *job) compare(s backing) {
	if len(j.b) != hashesLen(j.ext.Len) {
		panic(fmt.Sprintf("device: operation %#x compares %s with %d bytes of hashes", uint64(j.id), j.ext, len(j.b)))
	}
	ours, err := j.hash(s)
	if err != nil {
		j.err = err
		return
	}
	diffHashes(&j.diff, ours.B, j.b)
	ours.Release()
}

// readNew reads e into a new buffer.
func readNew(s backing, e bitmap.Extent) (*buf.Buf, error) {
	b := buf.Get(int(e.Len))
	if err := s.ReadAt(b.B, e.Off); err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}
