package replication

import (
	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// verifyRun is the range compared at once, in bytes: it is locked for one round trip.
const verifyRun = 256 << 10

// maxListed bounds the offsets that a verify lists.
const maxListed = 1024

// verifyState is the verify that runs, or the last one. Mismatches have a list of their own and
// never enter the dirty bitmap unless repair was asked for (rule 16).
type verifyState struct {
	status  VerifyStatus
	peer    *peer
	cursor  int64
	pending int
	repair  bool
	found   *bitmap.Bitmap
}

// startVerify begins to compare p's replica with this one.
func (r *Resource) startVerify(p *peer, repair bool) {
	if r.verify.status.Running {
		return
	}
	r.verify = verifyState{peer: p, repair: repair, found: bitmap.New(r.meta.Size),
		status: VerifyStatus{Node: p.node, Running: true, Total: r.meta.Size}}
	if r.role != rolePrimary || p.phase != phaseFollowing || !p.inSet {
		r.endVerify(p.node + " is not a connected member of the in-sync set")
	}
}

// advanceVerify keeps comparisons on their way. A range is compared while it is locked, after
// every earlier write to it is complete on both sides, so a mismatch needs no second look.
func (r *Resource) advanceVerify() {
	v := &r.verify
	if !v.status.Running {
		return
	}
	p := v.peer
	if p.phase != phaseFollowing || !p.inSet {
		r.endVerify("the connection to " + p.node + " was lost; what was compared before is listed")
		return
	}
	for v.pending < 2 && v.cursor < r.meta.Size {
		i, _ := r.alloc()
		o := &r.ops[i]
		o.kind, o.verify, o.peer = opCompare, true, p.idx
		o.ext = bitmap.Extent{Off: v.cursor, Len: verifyRun}.Clip(r.meta.Size)
		v.cursor = o.ext.End()
		v.pending++
		r.lock(i)
	}
	if v.pending > 0 || v.cursor < r.meta.Size {
		return
	}
	if v.repair && !v.found.Empty() && !v.status.Repaired {
		v.status.Repaired = true
		p.dirty.Or(v.found)
		p.coarse.AndNot(v.found)
		return // the copier does the rest
	}
	if v.status.Repaired && (!p.dirty.Empty() || p.sync != syncIdle) {
		return
	}
	r.endVerify("")
}

// verified takes the comparison of op i's range.
func (r *Resource) verified(p *peer, i int32, d *Diff) {
	v := &r.verify
	ext := r.ops[i].ext
	for b := int64(0); b*bitmap.BlockSize < ext.Len; b++ {
		if !d.Has(int(b)) {
			continue
		}
		off := ext.Off + b*bitmap.BlockSize
		v.found.Mark(bitmap.Extent{Off: off, Len: 1})
		if planted.On(planted.VerifyMarksDirty) {
			p.mark(bitmap.Extent{Off: off, Len: 1})
		}
		v.status.Mismatches++
		if len(v.status.First) < maxListed {
			v.status.First = append(v.status.First, off)
		}
	}
	v.status.Done += ext.Len
	v.pending--
	r.endCopy(p, i)
}

// endVerify ends the verify with a result, or with why there is none.
func (r *Resource) endVerify(why string) {
	v := &r.verify
	if !v.status.Running {
		return
	}
	v.status.Running, v.status.Err, v.pending = false, why, 0
	if why != "" {
		r.notice(NoticeVerifyDone, v.status.Node, "verify with %s ended early: %s", v.status.Node, why)
		return
	}
	r.notice(NoticeVerifyDone, v.status.Node, "verify with %s is complete: %d blocks differ", v.status.Node, v.status.Mismatches)
}
