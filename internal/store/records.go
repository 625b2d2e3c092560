package store

import (
	"errors"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// What a Store asks of its Metadata. The Metadata reports what happened; the Store decides what it
// means for the disk, and refuses everything once the disk has failed.

// judge returns what an error of the Metadata means for the disk.
func (s *Store) judge(err error) error {
	var e *MetaError
	switch {
	case !errors.As(err, &e):
		return err
	case e.Sync:
		return s.fail(e.Op, e.Err)
	}
	return s.ioError(e.Op, e.Err)
}

// Meta returns what the newest superblock says. The copy is the caller's.
func (s *Store) Meta() Meta { return s.meta.Meta() }

// LogSeq is that of Metadata.
func (s *Store) LogSeq() uint64 { return s.meta.LogSeq() }

// Recovered returns the activity log as Open found it, see Metadata.Recovered.
func (s *Store) Recovered() (active []bitmap.RegionIndex, clean bool) { return s.meta.Recovered() }

// Warnings returns what was found damaged and could be passed over, see Metadata.Warnings. Someone
// should look at the disk.
func (s *Store) Warnings() []error { return s.meta.Warnings() }

// SaveMeta makes m durable before it returns, but for the fields that belong to the store, which
// keep their values (see Meta). On an error the superblock says what it said before, or m.
// Errors: ErrEpochBack, ErrTooLarge, ErrFailed, ErrClosed, and ENOSPC on a copy-on-write filesystem.
func (s *Store) SaveMeta(m Meta) error {
	return s.UpdateMeta(func(cur *Meta) { *cur = m.Clone() })
}

// UpdateMeta lets f change a copy of the present Meta and makes it durable, as SaveMeta does, with
// no other change in between. f must not call the store.
func (s *Store) UpdateMeta(f func(*Meta)) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.judge(s.meta.UpdateMeta(f))
}

// SaveLog stores the activity log, see Metadata.SaveLog. The data of the backing is made stable at
// the same time where regions are dropped and something was written since the last sync.
func (s *Store) SaveLog(active []bitmap.RegionIndex) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	syncData := s.syncData
	if !s.unsynced() {
		syncData = nil
	}
	return s.judge(s.meta.SaveLog(active, syncData))
}

// syncBoth runs both syncs at the same time. A failure of the first is known before the second ends.
func (s *Store) syncBoth(meta, data func() error) error {
	done := make(chan error, 1)
	go func() { done <- data() }()
	err := s.judge(meta())
	return errors.Join(err, <-done)
}

// LoadBitmap returns the dirty bitmap of a slot as stored, see Metadata.LoadBitmap.
// Errors: ErrFailed, ErrClosed.
func (s *Store) LoadBitmap(slot int) (m *bitmap.Bitmap, badPages int, err error) {
	if err := s.enter(); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	m, badPages, err = s.meta.LoadBitmap(slot)
	return m, badPages, s.judge(err)
}

// SaveBitmapPages stores pages of a slot's bitmap. They are durable when a SaveLog or SyncMeta that
// begins later has returned. ENOSPC is possible: the metadata file is sparse. It panics on a slot,
// index or length out of range.
func (s *Store) SaveBitmapPages(slot int, pages []PageImage) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.judge(s.meta.SaveBitmapPages(slot, pages))
}

// SaveBitmap stores all of m in a slot, in place of what was there, like SaveBitmapPages. m must
// describe the device's present size.
func (s *Store) SaveBitmap(slot int, m *bitmap.Bitmap) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.judge(s.meta.SaveBitmap(slot, m))
}

// SyncMeta returns when all bitmap pages saved before are durable.
func (s *Store) SyncMeta() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.judge(s.meta.SyncMeta())
}
