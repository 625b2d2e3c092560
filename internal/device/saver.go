package device

import (
	"fmt"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// save is one change of the metadata file.
type save struct {
	log   *bitmap.Tx        // of ActSaveLog
	meta  *replication.Meta // of ActSaveMeta
	pages []replication.Page
	token uint64
}

func newSave(a *replication.Action) save {
	return save{log: a.Log, meta: a.Meta, pages: a.Pages, token: a.Token}
}

// runSaver makes saves durable, one after the other in the order in which the core asked, until
// the queue is closed.
func (d *Device) runSaver() {
	for {
		s, ok := d.saves.pop()
		if !ok {
			return
		}
		err := d.save(&s)
		t := d.begin(false)
		t.lock()
		if s.log != nil {
			ev := t.event(replication.EvLogSaved)
			ev.Gen, ev.Err = s.log.Gen, err
		} else {
			ev := t.event(replication.EvMetaSaved)
			ev.Token, ev.Err = s.token, err
		}
		t.step()
		d.ended()
		t.unlock()
		t.finish()
	}
}

// save does one. Pages come first: a crash in between leaves bits beside metadata that is older,
// or a log that still lists their regions, which costs a copy, not data.
func (d *Device) save(s *save) error {
	if err := d.savePages(s.pages); err != nil {
		return err
	}
	if s.log != nil {
		// SaveLog makes the pages durable, and the backing too when regions leave the log: a
		// region outside it is believed after a crash.
		return d.store.SaveLog(s.log.Active)
	}
	if len(s.pages) > 0 {
		if err := d.store.SyncMeta(); err != nil {
			return err
		}
	}
	return d.saveMeta(s.meta)
}

// savePages writes bitmap pages, those of one peer at a time.
func (d *Device) savePages(pages []replication.Page) error {
	for len(pages) > 0 {
		p := pages[0].Peer
		var images []store.PageImage
		n := 0
		for n < len(pages) && pages[n].Peer == p {
			images = append(images, store.PageImage{Index: pages[n].Index, Bits: pages[n].Bits})
			n++
		}
		if err := d.store.SaveBitmapPages(d.links[p].slot, images); err != nil {
			return fmt.Errorf("bitmap for %s: %w", d.links[p].node, err)
		}
		pages = pages[n:]
	}
	return nil
}

// saveMeta lays m over what the superblock says of other things.
func (d *Device) saveMeta(m *replication.Meta) error {
	state, err := storedState(m.State)
	if err != nil {
		return fmt.Errorf("resource %s: %w", d.cfg.Resource, err)
	}
	return d.store.UpdateMeta(func(out *store.Meta) {
		out.Epoch, out.Lineage, out.Unclean, out.LedgerVersion = m.Epoch, m.Lineage, m.Unclean, m.Version
		if out.State != store.Failed { // which the store itself may have found out since
			out.State = state
		}
		for _, l := range d.links {
			p := &out.Peers[l.slot]
			if int(l.p) < len(m.PeerInstance) {
				p.Instance = m.PeerInstance[l.p]
			}
			if int(l.p) < len(m.PeerSession) {
				p.LastSession = m.PeerSession[l.p]
			}
			if int(l.p) < len(m.PeerStamp) {
				p.Stamp = m.PeerStamp[l.p]
			}
			if int(l.p) < len(m.PeerPending) {
				p.PendingSession = m.PeerPending[l.p]
			}
		}
	})
}
