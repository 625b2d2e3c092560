package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// table is the activity log as it stands in one of its two places.
//
// # Why a region lingers
//
// A region leaves the log only when what replaces it is stable: its bits in the bitmap pages, and
// the data itself, because a host crash loses what was written and not flushed, and then only the
// log knows where. But pages and table are written before one fdatasync, and a crash in between
// may keep the table and lose the pages. So the table that drops a region still lists it, apart, as
// lingering, and a start takes it as active. It is gone from the table after, which is not written
// before that fdatasync has returned. Two fdatasyncs in a row would do as well, at twice the wait.
//
// # Why the older table will do when the newer one is torn
//
// A table is torn only if the crash came before its SaveLog returned. The regions that it adds
// were not in use then, for a write waits until the table that names its region is durable. The
// regions that it drops still stand in the older one, which makes that one say too much, never too
// little. The same holds for a table that is whole but whose fdatasync was not finished: what it
// drops, it still lists as lingering.
type table struct {
	seq    uint64
	active []bitmap.RegionIndex // ascending
	linger []bitmap.RegionIndex // ascending, none of them active
}

// suspects returns all regions of t, ascending.
func (t table) suspects() []bitmap.RegionIndex {
	all := slices.Concat(t.active, t.linger)
	slices.Sort(all)
	return all
}

func encodeTable(t table, instance uint64) []byte {
	n := headerSize + 4*(len(t.active)+len(t.linger))
	b := make([]byte, roundUp(int64(n), diskBlock))
	at := headerSize
	for _, list := range [2][]bitmap.RegionIndex{t.active, t.linger} {
		for _, r := range list {
			binary.BigEndian.PutUint32(b[at:], uint32(r))
			at += 4
		}
	}
	seal(b[:n], tableMagic, header{seq: t.seq, instance: instance,
		words: [6]uint32{uint32(len(t.active)), uint32(len(t.linger))}})
	return b
}

// decodeTable returns the table in b, which was found in the given slot.
func decodeTable(b []byte, slot, instance uint64) (table, error) {
	h, body, err := unseal(b, tableMagic)
	if err != nil {
		return table{}, err
	}
	actives, lingers := uint64(h.words[0]), uint64(h.words[1])
	switch {
	case h.seq%2 != slot || h.seq == 0:
		return table{}, fmt.Errorf("%w: sequence %d in slot %d", ErrDamaged, h.seq, slot)
	case h.instance != instance:
		return table{}, fmt.Errorf("%w: of instance %016x", ErrDamaged, h.instance)
	case 4*(actives+lingers) != uint64(len(body)) || [4]uint32(h.words[2:]) != [4]uint32{}:
		return table{}, fmt.Errorf("%w: words %v with %d bytes", ErrDamaged, h.words, len(body))
	}
	list := func(n uint64) []bitmap.RegionIndex {
		out := make([]bitmap.RegionIndex, n)
		for i := range out {
			out[i] = bitmap.RegionIndex(binary.BigEndian.Uint32(body[4*i:]))
		}
		body = body[4*n:]
		return out
	}
	t := table{seq: h.seq, active: list(actives), linger: list(lingers)}
	all := t.suspects()
	if !ascending(t.active) || !ascending(t.linger) || !ascending(all) {
		return table{}, fmt.Errorf("%w: regions out of order", ErrDamaged)
	}
	return t, nil
}

func ascending(list []bitmap.RegionIndex) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return false
		}
	}
	return true
}

// loadTable reads both places and returns the newer valid table; warn tells of one passed over.
func loadTable(dev MetaDevice, l layout, instance uint64) (t table, warn, err error) {
	var bad []error
	b := make([]byte, l.tableSize())
	for slot := range uint64(2) {
		err := readBlocks(dev, b, l.tableOff(slot))
		var found table
		if err == nil {
			found, err = decodeTable(b, slot, instance)
		}
		switch {
		case errors.Is(err, ErrNewerVersion):
			return table{}, nil, fmt.Errorf("activity log %d: %w", slot, err)
		case err != nil:
			bad = append(bad, fmt.Errorf("activity log %d: %w", slot, err))
		case found.seq > t.seq:
			t = found
		}
	}
	if t.seq == 0 {
		return table{}, nil, fmt.Errorf("%w: no valid activity log: %w", ErrDamaged, errors.Join(bad...))
	}
	return t, errors.Join(bad...), nil
}

// Recovered returns the activity log as the start found it, ascending, and whether the stop before was
// clean. There may be up to twice as many regions as the log's capacity. After an unclean stop
// they are suspect; after a clean one, too, if there are any: the caller left them because they
// were above the watermark.
func (m *Metadata) Recovered() (active []bitmap.RegionIndex, clean bool) {
	return slices.Clone(m.recovered), m.wasClean
}

// LogSeq returns how often the activity log was changed since the metadata was made. It never falls
// but when an older copy of the metadata is put back, and it rises before a write goes to a region
// that the log did not name: so a copy that was put back either says so, or names what it lacks.
func (m *Metadata) LogSeq() uint64 {
	m.logMu.Lock()
	defer m.logMu.Unlock()
	return m.log.seq
}

// SaveLog makes the activity log on disk list exactly the regions of active, ascending, as seen by
// a later start; regions that it drops may be listed until the next SaveLog, see table. The same
// Sync makes all bitmap pages durable that were saved before. If regions are dropped, the data has to
// become stable as well: where a write was lost, the log must know. syncData does that; nil says that
// what was written to those regions is stable already. On an error the log on disk is the one before,
// or the new one. Errors: those of syncData, *MetaError.
func (m *Metadata) SaveLog(active []bitmap.RegionIndex, syncData func() error) error {
	m.logMu.Lock()
	defer m.logMu.Unlock()
	return m.saveLog(active, syncData)
}

func (m *Metadata) saveLog(active []bitmap.RegionIndex, syncData func() error) error {
	if !ascending(active) || len(active) > m.lay.maxEntries() {
		panic(fmt.Sprintf("store: activity log of %d regions, ascending %t", len(active), ascending(active)))
	}
	next := table{seq: m.log.seq + 1, active: slices.Clone(active)}
	dropped := without(m.log.active, active)
	if len(dropped) == 0 {
		syncData = nil
	}
	if (syncData != nil || m.pagesUnsynced) && !planted.On(planted.LogLingerSkipped) {
		next.linger = dropped
	}
	if len(next.active)+len(next.linger) > m.lay.maxEntries() {
		// Only after a Recovered of more than the capacity: no room to let them linger.
		if err := m.syncBoth(syncData); err != nil {
			return err
		}
		syncData, next.linger = nil, nil
	}
	b := encodeTable(next, m.instance)
	if err := m.write("write activity log", b, m.lay.tableOff(next.seq%2), false); err != nil {
		return err
	}
	if err := m.syncBoth(syncData); err != nil {
		return err
	}
	m.log = next
	m.pagesUnsynced = false
	return nil
}

// syncBoth makes the metadata stable and, if there is a way given, the data.
func (m *Metadata) syncBoth(syncData func() error) error {
	syncMeta := func() error { return m.sync(false) }
	if syncData == nil || planted.On(planted.EvictWithoutDataSync) {
		return syncMeta()
	}
	return m.together(syncMeta, syncData)
}

// without returns the members of a that are not in b. Both are ascending.
func without(a, b []bitmap.RegionIndex) []bitmap.RegionIndex {
	var out []bitmap.RegionIndex
	for _, x := range a {
		for len(b) > 0 && b[0] < x {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != x {
			out = append(out, x)
		}
	}
	return out
}
