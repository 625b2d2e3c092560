package replication

import (
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/mark"
)

// saveRetry is the wait before a save is tried again that found no room.
const saveRetry = 500 * time.Millisecond

// retrySaves tries again what found no room.
func (r *Resource) retrySaves() {
	if r.logRetryAt != 0 && r.now >= r.logRetryAt {
		r.emitLog()
	}
	if r.metaRetryAt != 0 && r.now >= r.metaRetryAt {
		r.metaRetryAt = 0
		for _, p := range r.peers {
			p.unsaved = true // which pages found no room is not remembered
		}
		again := r.onRetry
		r.onRetry = nil
		r.saveMeta(func() {
			for _, do := range again {
				do()
			}
		})
	}
}

// saveMeta has the metadata made durable as it is now; do, if any, is called once it is.
func (r *Resource) saveMeta(do func()) {
	r.saveToken++
	m := r.meta
	m.Lineage = slices.Clone(m.Lineage)
	m.PeerInstance = slices.Clone(m.PeerInstance)
	m.PeerSession = slices.Clone(m.PeerSession)
	m.PeerPending = slices.Clone(m.PeerPending)
	m.PeerStamp = slices.Clone(m.PeerStamp)
	for i, p := range r.peers {
		m.PeerStamp[i] = p.stamp
	}
	a := Action{Kind: ActSaveMeta, Token: r.saveToken, Meta: &m}
	for _, p := range r.peers {
		if p.unsaved {
			p.unsaved = false
			a.Pages = append(a.Pages, r.peerPages(p)...)
		}
	}
	r.emit(a)
	if do != nil {
		r.onSaved = append(r.onSaved, afterSave{r.saveToken, do})
	}
}

// metaSaved calls those that waited for it.
func (r *Resource) metaSaved(ev *Event) {
	switch {
	case ev.Err == nil:
	case transient(ev.Err): // those who wait for it wait for its repetition, which has its pages
		mark.Hit("save-found-no-room")
		r.metaRetryAt = r.now + saveRetry
		for len(r.onSaved) > 0 && r.onSaved[0].token <= ev.Token {
			r.onRetry = append(r.onRetry, r.onSaved[0].do)
			r.onSaved = r.onSaved[1:]
		}
		return
	default:
		r.onSaved = nil
		r.diskError(ev.Err)
		return
	}
	for len(r.onSaved) > 0 && r.onSaved[0].token <= ev.Token { // saves end in order
		do := r.onSaved[0].do
		r.onSaved = r.onSaved[1:]
		do()
	}
}

// saveBitmap has p's bitmap stored as it is now; bits that were cleared disappear from the disk.
func (r *Resource) saveBitmap(p *peer) {
	p.unsaved = true
	r.saveMeta(nil)
}

// peerPages returns the images of all of p's pages that hold a bit, here or in storage.
func (r *Resource) peerPages(p *peer) []Page {
	extra := r.extra(p)
	var pages []Page
	for i := range p.dirty.PageCount() {
		if page, ok := p.pageToStore(i, extra); ok {
			pages = append(pages, page)
		}
	}
	return pages
}

// pageToStore returns the image of page i unless both it and the stored one are empty.
func (p *peer) pageToStore(i int, extra *bitmap.Bitmap) (Page, bool) {
	empty := p.dirty.Page(i) == nil && p.unstable.Page(i) == nil && p.flushing.Page(i) == nil &&
		(extra == nil || extra.Page(i) == nil)
	if empty {
		if !p.stored[i] {
			return Page{}, false
		}
		delete(p.stored, i)
		return Page{Peer: p.idx, Index: i, Bits: make([]byte, bitmap.PageSize)}, true
	}
	p.stored[i] = true
	return Page{Peer: p.idx, Index: i, Bits: p.image(i, extra)}, true
}

// extra returns what p may lack beyond its block sets: frames on their way. nil is nothing.
func (r *Resource) extra(p *peer) *bitmap.Bitmap {
	if p.inflight.len() == 0 && r.started.n == 0 {
		return nil
	}
	b := bitmap.New(r.meta.Size)
	for _, f := range p.inflight.items() {
		b.Mark(f.ext)
	}
	for i := r.started.head; i >= 0; i = r.ops[i].next {
		if r.ops[i].need&p.bit() != 0 {
			b.Mark(r.ops[i].ext)
		}
	}
	return b
}

// evictedPages returns the bitmap pages of regions that leave the activity log: from now on the
// stored bitmap alone speaks for them.
func (r *Resource) evictedPages(evicted []bitmap.RegionIndex) []Page {
	if len(evicted) == 0 {
		return nil
	}
	var pages []Page
	for _, p := range r.peers {
		extra := r.extra(p)
		last := -1
		for _, reg := range evicted {
			i := reg.Page()
			if i == last {
				continue
			}
			last = i
			if page, ok := p.pageToStore(i, extra); ok {
				pages = append(pages, page)
			}
		}
	}
	return pages
}

// Final returns what a clean stop records: the metadata and every bitmap page. The caller has
// seen Quiet, syncs the backing device first and saves an empty activity log with it.
func (r *Resource) Final() (Meta, []Page) {
	r.keepSuspects()
	var pages []Page
	for _, p := range r.peers {
		pages = append(pages, r.peerPages(p)...)
	}
	for i, p := range r.peers {
		r.meta.PeerStamp[i] = p.stamp
	}
	return r.meta, pages
}

func wholeDevice(size int64) bitmap.Extent { return bitmap.Extent{Len: size} }
