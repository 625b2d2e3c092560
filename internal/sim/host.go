package sim

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// Host is one machine: what survives its processes, and what survives its crashes.
type Host struct {
	w     *World
	index int
	name  string
	data  bool // it holds a replica
	up    bool

	boot     int
	booted   time.Duration // when
	base     time.Duration // what its clock showed then
	rate     float64       // of its clock
	instance uint64        // of its replica
	disk     *Disk
	meta     *MetaDev
	ledger   *ledgerDisk
	proc     *Proc

	faults   diskFaults
	restored bool // its disk was put back to a copy, and it has not joined since
	ruined   bool // its disk has failed: what it holds counts for nothing
	lossy    bool // it lost power and has not been made equal since: unflushed writes may be gone
	epoch    uint64
	snapshot *Disk // of an operator, with its metadata
	snapMeta *MetaDev
}

// diskFaults is what is wrong with a host's disks now.
type diskFaults struct {
	hang     bool // nothing completes
	slow     time.Duration
	full     bool // writes fail with ENOSPC, some after a part
	failSync int  // the next so many syncs fail
	failIO   int  // the next so many reads or writes fail with EIO
	misplace int  // the next so many writes go elsewhere
}

// clock returns what CLOCK_BOOTTIME shows on h.
func (h *Host) clock() time.Duration {
	return h.base + time.Duration(float64(h.w.now-h.booted)*h.rate)
}

func (h *Host) bootID() string { return fmt.Sprintf("%s-boot-%d", h.name, h.boot) }

// powerOn boots h and starts the daemon.
func (h *Host) powerOn() {
	if h.up {
		return
	}
	h.up = true
	h.boot++
	h.booted, h.base = h.w.now, time.Minute+time.Duration(h.w.net.Int64N(int64(time.Hour)))
	h.w.note(h, kindStart, "powers on, boot %d", h.boot)
	h.start()
}

// start begins a new process of the daemon.
func (h *Host) start() {
	if !h.up || h.proc != nil {
		return
	}
	p := &Proc{w: h.w, h: h, id: h.w.net.Uint64() | 1}
	h.proc = p
	h.w.note(h, kindStart, "daemon starts")
	p.openLedger()
	if h.data {
		p.openReplica()
	}
	p.tick()
}

// kill ends the daemon at once. What it had handed to the kernel ends one way or the other; the page
// cache stays.
func (h *Host) kill() {
	p := h.proc
	if p == nil {
		return
	}
	h.w.note(h, kindStop, "daemon is killed")
	p.dead = true
	h.proc = nil
	p.cutOffIO()
	h.w.procGone(p)
}

// crash ends everything on h at once; what its disks had not made stable is kept, lost or torn.
func (h *Host) crash() {
	if !h.up {
		return
	}
	h.w.stats.Crashes++
	h.w.note(h, kindStop, "loses power")
	h.kill()
	h.up = false
	h.faults = diskFaults{}
	if h.data {
		h.lossy = true
		h.disk.Crash(h.w.net)
		h.meta.Crash(h.w.net)
		h.w.judgeLoss()
	}
	h.ledger.crash(h.w.net)
}

// newReplica formats a replica on a new, empty disk.
func (h *Host) newReplica(state store.DiskState, peers []string) {
	h.instance = h.w.net.Uint64() | 1
	h.disk = NewDisk(DeviceSize)
	h.meta = NewMetaDev()
	m := store.Meta{
		Identity: store.Identity{Cluster: "c", Resource: resourceName, ResourceID: resourceID, Node: h.name,
			Instance: h.instance, Size: DeviceSize},
		Regions: bitmap.MinRegions, State: state, Boot: h.bootID(),
	}
	for _, n := range peers {
		m.Peers = append(m.Peers, store.PeerSlot{Node: n})
	}
	if err := store.FormatMetadata(h.meta, m); err != nil {
		h.w.fail("format metadata on %s: %v", h.name, err)
	}
	h.epoch, h.lossy, h.ruined = 0, false, false
}

// openReplica opens the metadata and makes the core.
func (p *Proc) openReplica() {
	h := p.h
	m, err := store.OpenMetadata(h.meta, h.bootID())
	if err != nil {
		h.w.fail("metadata of %s does not open: %v", h.name, err)
		return
	}
	p.meta = m
	meta := m.Meta()
	if meta.Epoch < h.epoch {
		h.w.fail("epoch of %s went back from %d to %d", h.name, h.epoch, meta.Epoch)
	}
	h.epoch = meta.Epoch
	st := replication.Stored{Meta: replication.Meta{
		Epoch: meta.Epoch, Lineage: meta.Lineage, State: replication.ParseDiskState(meta.State.String()),
		Unclean: meta.Unclean, Version: meta.LedgerVersion, Size: meta.Size,
	}}
	st.Active, st.Clean = m.Recovered()
	st.LogSeq = m.LogSeq()
	for i, s := range meta.Peers {
		st.PeerInstance = append(st.PeerInstance, s.Instance)
		st.PeerSession = append(st.PeerSession, s.LastSession)
		st.PeerPending = append(st.PeerPending, s.PendingSession)
		st.PeerStamp = append(st.PeerStamp, s.Stamp)
		p.peers = append(p.peers, s.Node)
		if meta.State == store.Failed {
			st.Bitmaps = append(st.Bitmaps, nil)
			continue
		}
		b, _, err := m.LoadBitmap(i)
		if err != nil {
			h.w.fail("bitmap %d of %s: %v", i, h.name, err)
			return
		}
		st.Bitmaps = append(st.Bitmaps, b)
	}
	core, err := replication.New(h.w.coreConfig(p), st)
	if err != nil {
		h.w.fail("core of %s: %v", h.name, err)
		return
	}
	p.core = core
	p.step(&replication.Event{Kind: replication.EvTick})
	if r := p.ledgerRecord(); r != nil {
		p.learn(r)
	}
}

// coreConfig is the configuration of every core.
func (w *World) coreConfig(p *Proc) replication.Config {
	block := int64(1)
	if w.Config.SubBlock {
		block = bitmap.BlockSize
	}
	return replication.Config{
		Resource: resourceName, ResourceID: resourceID, Node: p.h.name, Instance: p.h.instance, Boot: p.h.bootID(),
		Process: p.id, Peers: p.peers, Regions: bitmap.MinRegions, LogicalBlock: block,
		MaxLease: 300 * time.Millisecond, DiskTimeout: 3 * time.Second, StallTimeout: 2 * time.Second,
		PeerTimeout: peerTimeout, Window: 1 << 20, ConfirmReads: w.Config.Confirm,
		NewID: func() uint64 { return w.net.Uint64() | 1 },
	}
}

const (
	peerTimeout  = time.Second
	resourceName = "r0"
	resourceID   = 77
)
