package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// encodeSuper returns the bytes of a superblock slot that says m, in whole disk blocks.
func encodeSuper(m Meta, seq uint64) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if headerSize+len(body) > superSize {
		return nil, fmt.Errorf("superblock of %d bytes: %w", headerSize+len(body), ErrTooLarge)
	}
	b := make([]byte, roundUp(int64(headerSize+len(body)), diskBlock))
	copy(b[headerSize:], body)
	seal(b[:headerSize+len(body)], superMagic, header{seq: seq, instance: m.Instance})
	return b, nil
}

// decodeSuper returns what the superblock in b says. slot is where it was found: a superblock in the
// place of the other one is damage, because it would be overwritten out of turn.
func decodeSuper(b []byte, slot uint64) (m Meta, seq uint64, err error) {
	h, body, err := unseal(b, superMagic)
	if err != nil {
		return Meta{}, 0, err
	}
	if h.seq%2 != slot || h.words != [6]uint32{} {
		return Meta{}, 0, fmt.Errorf("%w: sequence %d in slot %d, words %v", ErrDamaged, h.seq, slot, h.words)
	}
	var mb metaBody
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&mb); err != nil {
		return Meta{}, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	m = Meta(mb.plainMeta)
	m.Lineage = mb.Lineage
	if err := m.validate(); err != nil {
		return Meta{}, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.Instance != h.instance || dec.More() {
		return Meta{}, 0, fmt.Errorf("%w: body does not fit its header", ErrDamaged)
	}
	return m, h.seq, nil
}

// loadSuper reads both slots and returns the newer valid one. warn tells of a slot that had to be
// passed over; a write of it was cut off by a crash, or the disk lost it since. A slot of a newer
// version refuses the whole file: what it says is newer than what we could fall back to.
func loadSuper(f file) (m Meta, seq uint64, warn, err error) {
	var bad []error
	b := make([]byte, superSize)
	for slot := range uint64(2) {
		if err := readFull(f, b, superOff(slot)); err != nil {
			bad = append(bad, fmt.Errorf("superblock %d: %w", slot, err))
			continue
		}
		found, s, err := decodeSuper(b, slot)
		switch {
		case errors.Is(err, ErrNewerVersion):
			return Meta{}, 0, nil, fmt.Errorf("superblock %d: %w", slot, err)
		case err != nil:
			bad = append(bad, fmt.Errorf("superblock %d: %w", slot, err))
		case seq != 0 && found.Instance != m.Instance:
			return Meta{}, 0, nil, fmt.Errorf("%w: superblocks of two replicas", ErrDamaged)
		case s > seq:
			m, seq = found, s
		}
	}
	if seq == 0 {
		return Meta{}, 0, nil, fmt.Errorf("%w: no valid superblock: %w", ErrDamaged, errors.Join(bad...))
	}
	return m, seq, errors.Join(bad...), nil
}

// Meta returns what the newest superblock says. The copy is the caller's.
func (s *Store) Meta() Meta {
	s.metaMu.Lock()
	defer s.metaMu.Unlock()
	return s.meta.Clone()
}

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
	return s.change(func(m *Meta) {
		own := *m
		f(m)
		m.Identity, m.Regions, m.Backing = own.Identity, own.Regions, own.Backing
		m.Boot, m.Clean, m.Failure = own.Boot, own.Clean, own.Failure
		if own.State == Failed {
			m.State = Failed // recorded since the caller looked; rule 13
		}
	})
}

// change makes what f does to the Meta durable: it writes the slot that does not hold the newest
// superblock, then waits for the disk. After an error that slot is the one written next, too, so
// the newest valid superblock is never overwritten.
func (s *Store) change(f func(*Meta)) error {
	s.metaMu.Lock()
	defer s.metaMu.Unlock()
	m := s.meta.Clone()
	f(&m)
	if m.Epoch < s.meta.Epoch {
		return fmt.Errorf("%w: from %d to %d", ErrEpochBack, s.meta.Epoch, m.Epoch)
	}
	seq := s.metaSeq + 1
	b, err := encodeSuper(m, seq)
	if err != nil {
		return fmt.Errorf("resource %s: metadata: %w", s.meta.Resource, err)
	}
	if err := writeFull(s.metaFile, b, superOff(seq%2), false); err != nil {
		return s.ioError("write superblock", err)
	}
	if err := s.syncMeta(); err != nil {
		return err
	}
	s.meta, s.metaSeq = m, seq
	return nil
}
