package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/planted"
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
func loadSuper(dev MetaDevice) (m Meta, seq uint64, warn, err error) {
	var bad []error
	for slot := range uint64(2) {
		b, err := readSuper(dev, slot)
		if err != nil {
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

// readSuper returns the disk blocks of a slot that say something, as far as the first one can be
// believed. Most superblocks fit into it.
func readSuper(dev MetaDevice, slot uint64) ([]byte, error) {
	b := make([]byte, diskBlock)
	err := readBlocks(dev, b, superOff(slot))
	n := headerSize + int64(binary.BigEndian.Uint32(b[12:]))
	if err == nil && n > diskBlock && n <= superSize {
		b = make([]byte, roundUp(n, diskBlock))
		err = readBlocks(dev, b, superOff(slot))
	}
	return b, err
}

// Meta returns what the newest superblock says. The copy is the caller's.
func (m *Metadata) Meta() Meta {
	m.superMu.Lock()
	defer m.superMu.Unlock()
	return m.meta.Clone()
}

// UpdateMeta lets f change a copy of the present Meta and makes it durable before it returns, with
// no other change in between; the fields that belong to the store keep their values (see Meta). On an
// error the superblock says what it said before, or what f made of it. Errors: ErrEpochBack,
// ErrTooLarge, *MetaError.
func (m *Metadata) UpdateMeta(f func(*Meta)) error {
	return m.change(false, func(c *Meta) {
		own := *c
		f(c)
		c.Identity, c.Regions, c.Backing = own.Identity, own.Regions, own.Backing
		c.Boot, c.Clean, c.Failure = own.Boot, own.Clean, own.Failure
		if own.State == Failed {
			c.State = Failed // recorded since the caller looked; rule 13
		}
	})
}

// MarkFailed records that the disk has failed, and why. It is tried even after a fatal error: the
// metadata may stand on another disk than the data. When it fails, the superblock says what it said.
func (m *Metadata) MarkFailed(why string) error {
	return m.change(true, func(c *Meta) {
		c.State = Failed
		c.Failure = why
	})
}

// change makes what f does to the Meta durable: it writes the slot that does not hold the newest
// superblock, then waits for the disk. After an error that slot is the one written next, too, so
// the newest valid superblock is never overwritten. last: also to a failed disk.
func (m *Metadata) change(last bool, f func(*Meta)) error {
	m.superMu.Lock()
	defer m.superMu.Unlock()
	next := m.meta.Clone()
	f(&next)
	if next.Epoch < m.meta.Epoch {
		return fmt.Errorf("%w: from %d to %d", ErrEpochBack, m.meta.Epoch, next.Epoch)
	}
	seq := m.seq + 1
	if planted.On(planted.SameSlotTwice) {
		seq++
	}
	b, err := encodeSuper(next, seq)
	if err != nil {
		return fmt.Errorf("resource %s: metadata: %w", m.meta.Resource, err)
	}
	if err := m.write("write superblock", b, superOff(seq%2), last); err != nil {
		return err
	}
	if !planted.On(planted.MetaSyncSkipped) {
		err = m.sync(last)
	}
	if err != nil {
		return err
	}
	m.meta, m.seq = next, seq
	return nil
}
