package device

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// Open opens the replica that cfg names and makes a Device of it, which does nothing until Run.
// The replica has been made by store.Create. Errors wrap those of store.Open; a replica that
// failed earlier opens, and the core treats it as failed.
func Open(cfg Config, deps Deps) (*Device, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s, err := store.Open(store.OpenOptions{
		DataPath:         cfg.DataPath,
		MetaPath:         cfg.MetaPath,
		Direct:           cfg.Direct,
		BootID:           cfg.Boot,
		ExpectCluster:    cfg.Cluster,
		ExpectResource:   cfg.Resource,
		ExpectResourceID: cfg.ResourceID,
		ExpectNode:       cfg.Node,
	})
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", cfg.Resource, err)
	}
	d, err := assemble(cfg, deps, s)
	if err != nil {
		_ = s.Close(false) // err is what matters
		return nil, fmt.Errorf("resource %s: %w", cfg.Resource, err)
	}
	return d, nil
}

// assemble makes the Device and its core around an open store.
func assemble(cfg Config, deps Deps, s *store.Store) (*Device, error) {
	d := newDevice(cfg, deps, s)
	meta := s.Meta()
	if err := d.assignSlots(s, meta.Peers); err != nil {
		return nil, err
	}
	st, err := d.stored(s)
	if err != nil {
		return nil, err
	}
	for _, w := range s.Warnings() {
		d.log.Warn("metadata damaged but usable", "resource", cfg.Resource, "err", w)
	}
	newID := deps.NewID
	if newID == nil {
		newID = randomID
	}
	block := int64(1)
	if cfg.Direct {
		block = s.Alignment()
	}
	rc := replication.Config{
		Resource: cfg.Resource, ResourceID: cfg.ResourceID, Node: cfg.Node,
		Instance: meta.Instance, Boot: cfg.Boot, Process: cfg.Process,
		LogicalBlock: block, Regions: meta.Regions,
		BeaconInterval: cfg.Timing.BeaconInterval, Lease: cfg.Timing.Lease, MaxLease: cfg.Timing.MaxLease,
		DriftPercent: cfg.Timing.DriftPercent, PeerTimeout: cfg.Timing.PeerTimeout,
		StallTimeout: cfg.Timing.StallTimeout, DiskTimeout: cfg.Timing.DiskTimeout, DropGrace: cfg.Timing.DropGrace,
		StopTimeout: cfg.Timing.StopTimeout, Window: cfg.Window, LatencyPercent: cfg.Timing.LatencyPercent,
		NewID: newID,
	}
	for _, p := range cfg.Peers {
		rc.Peers = append(rc.Peers, p.Node)
	}
	r, err := replication.New(rc, st)
	if err != nil {
		return nil, err
	}
	d.core = r
	for i, l := range d.links {
		l.link = d.newLink(l, cfg.Peers[i])
	}
	return d, nil
}

// assignSlots gives every peer the bitmap slot that the metadata keeps for it, or a free one, and
// makes that durable. The slots of nodes that are no peers any more are freed: their bitmaps were
// not kept up since, so nothing may ever be read from them again. On a failed disk nothing is
// stored; the core gives it no work.
func (d *Device) assignSlots(s *store.Store, slots []store.PeerSlot) error {
	table := make([]store.PeerSlot, store.MaxPeers)
	copy(table, slots)
	wanted := make(map[string]int, len(d.cfg.Peers))
	for i, p := range d.cfg.Peers {
		wanted[p.Node] = i
	}
	d.links = make([]*link, len(d.cfg.Peers))
	for n := range table {
		i, ok := wanted[table[n].Node]
		if !ok || d.links[i] != nil {
			table[n] = store.PeerSlot{}
			continue
		}
		d.links[i] = &link{d: d, p: replication.Peer(i), node: table[n].Node, slot: n}
	}
	failed := s.Failed() != nil
	for i, p := range d.cfg.Peers {
		if d.links[i] != nil {
			continue
		}
		n := slices.IndexFunc(table, func(p store.PeerSlot) bool { return p.Node == "" })
		table[n] = store.PeerSlot{Node: p.Node}
		d.links[i] = &link{d: d, p: replication.Peer(i), node: p.Node, slot: n}
		if failed {
			continue
		}
		if err := s.SaveBitmap(n, bitmap.New(s.Meta().Size)); err != nil {
			return fmt.Errorf("empty bitmap %d: %w", n, err)
		}
	}
	if failed || slices.Equal(table, slots) {
		return nil
	}
	if err := s.SyncMeta(); err != nil {
		return err
	}
	return s.UpdateMeta(func(m *store.Meta) { m.Peers = table })
}

// stored returns what the core must know of the time before this process.
func (d *Device) stored(s *store.Store) (replication.Stored, error) {
	m := s.Meta()
	st := replication.Stored{Meta: replication.Meta{
		Epoch: m.Epoch, Lineage: m.Lineage, State: coreState(m.State), Unclean: m.Unclean,
		Version: m.LedgerVersion, Size: m.Size,
		PeerInstance: make([]uint64, len(d.links)),
		PeerSession:  make([]uint64, len(d.links)),
		PeerPending:  make([]uint64, len(d.links)),
		PeerStamp:    make([]uint64, len(d.links)),
	}}
	st.Active, st.Clean = s.Recovered()
	st.LogSeq = s.LogSeq()
	for i, l := range d.links {
		if s.Failed() != nil {
			break
		}
		p := m.Peers[l.slot]
		st.PeerInstance[i], st.PeerSession[i], st.PeerPending[i] = p.Instance, p.LastSession, p.PendingSession
		st.PeerStamp[i] = p.Stamp
		b, bad, err := s.LoadBitmap(l.slot)
		if err != nil {
			return st, fmt.Errorf("bitmap for %s: %w", l.node, err)
		}
		if bad > 0 {
			d.log.Warn("bitmap pages could not be read and are taken as all dirty",
				"resource", d.cfg.Resource, "peer", l.node, "pages", bad)
		}
		st.Bitmaps = append(st.Bitmaps, b)
	}
	return st, nil
}

// The names of the states are the same in both packages but for those that only one of them has.

func coreState(s store.DiskState) replication.DiskState {
	return replication.ParseDiskState(s.String())
}

func storedState(s replication.DiskState) (out store.DiskState, err error) {
	err = out.UnmarshalText([]byte(s.String()))
	return out, err
}
