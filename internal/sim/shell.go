package sim

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// Proc is one process of the daemon: a voter, and on a data node the core of a replica with what the
// device shell does for it.
type Proc struct {
	w       *World
	h       *Host
	id      uint64
	dead    bool
	paused  bool
	backlog []func() // what came while it was paused, in order
	ticks   int

	core    *replication.Resource
	meta    *store.Metadata
	peers   []string             // by replication.Peer
	slots   []slot               // by ID.Index
	out     []replication.Action // kept from step to step
	io      []*localIO
	idle    []*localIO // that have ended, to be used again
	saves   []replication.Action
	saving  bool
	doors   int // how often clients were closed
	conns   []*conn
	flushAt time.Duration // EndBatch is due; 0: it is not

	ledgerSide
}

// slot is what the shell keeps under an ID.
type slot struct {
	id   replication.ID
	vals []uint64 // one a sector; hashes: one a block
	call call
}

// localIO is a local I/O under way.
type localIO struct {
	a       replication.Action
	ev      replication.Event // that reports it, once it has had its effect
	early   bool              // it had that at its beginning
	old     []uint64          // what a read-modify-write read at its beginning
	mark    SyncMark
	pending bool   // its time came while the disk hung
	end     func() // its time has come
}

// into schedules do for p. It is dropped when p is dead by then, and waits while p is paused.
func (p *Proc) into(d time.Duration, do func()) { p.w.schedule(d, p, do) }

func (p *Proc) run(do func()) {
	switch {
	case p.dead:
	case p.paused:
		p.backlog = append(p.backlog, do)
	default:
		do()
	}
}

// resume lets a paused process go on: it finds everything that came meanwhile.
func (p *Proc) resume() {
	if !p.paused || p.dead {
		return
	}
	p.w.note(p.h, kindStart, "goes on after a pause")
	p.paused = false
	list := p.backlog
	p.backlog = nil
	for _, do := range list {
		p.run(do)
	}
}

// tick lets time pass for the process.
func (p *Proc) tick() {
	p.ticks++
	if p.core != nil {
		p.step(&replication.Event{Kind: replication.EvTick})
	}
	if !p.dead {
		p.ledgerTick()
	}
	if !p.dead {
		p.into(replication.TickInterval, p.tick)
	}
}

// step feeds the core one event and carries out what it says.
func (p *Proc) step(ev *replication.Event) {
	if p.dead || p.core == nil || p.w.failure != nil {
		return
	}
	ev.Now = p.h.clock()
	out := p.core.Step(ev, p.out[:0])
	p.out = nil // an action may lead to another Step
	for i := range out {
		p.act(&out[i])
	}
	clear(out)
	p.out = out
	switch {
	case p.flushAt > 0: // a batch is being gathered
	case p.w.chance(1, 8):
		p.flushAt = p.w.now + 1
		p.into(p.w.between(0, time.Millisecond), p.endBatch)
	default:
		p.endBatch()
	}
	p.w.checkStep(p)
}

func (p *Proc) endBatch() {
	p.flushAt = 0
	out := p.core.EndBatch(p.out[:0])
	p.out = nil
	for i := range out {
		p.act(&out[i])
	}
	clear(out)
	p.out = out
}

func (p *Proc) slot(id replication.ID) *slot {
	i := id.Index()
	for i >= len(p.slots) {
		p.slots = append(p.slots, slot{})
	}
	s := &p.slots[i]
	if s.id != id {
		*s = slot{id: id}
	}
	return s
}

// act carries out one action.
func (p *Proc) act(a *replication.Action) {
	switch a.Kind {
	case replication.ActReply, replication.ActReplyEarly:
		p.reply(a)
	case replication.ActDrop, replication.ActFree:
		*p.slot(a.ID) = slot{}
	case replication.ActLocalRead, replication.ActLocalWrite, replication.ActLocalZeroes, replication.ActLocalTrim,
		replication.ActLocalSync, replication.ActLocalHash, replication.ActLocalCompare:
		p.beginIO(a)
	case replication.ActSend:
		p.send(a)
	case replication.ActSaveLog, replication.ActSaveMeta:
		p.saves = append(p.saves, *a)
		p.nextSave()
	case replication.ActPropose:
		p.propose(a.Token, *a.Proposal)
	case replication.ActCloseSession:
		p.closeSession(int(a.Peer), a.Session, a.Reason)
	case replication.ActCloseClients:
		p.closeClients(func(*conn) bool { return true })
	case replication.ActCloseClient:
		p.closeClients(func(c *conn) bool { return c.id == a.Client && c.number <= a.Number })
	case replication.ActAdmitClient, replication.ActRefuseClient:
		p.admitClient(a)
	case replication.ActNotice:
		p.w.note(p.h, kindNotice, "%s: %s", a.Notice.Kind, a.Notice.Text)
		p.w.noticed(p, a.Notice)
	case replication.ActDiskFailed:
		p.w.note(p.h, kindFault, "gives its disk up: %v", a.Err)
		if p.core.Fitness(0).State == replication.Failed {
			_ = p.meta.MarkFailed(fmt.Sprint(a.Err)) // a disk that failed may refuse this, too
			p.h.ruined = true
			p.w.judgeLoss()
		}
	default:
		panic(fmt.Sprintf("sim: unknown action %d", a.Kind))
	}
}

// newIO returns a place for a local I/O.
func (p *Proc) newIO() *localIO {
	if n := len(p.idle); n > 0 {
		io := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return io
	}
	io := &localIO{}
	io.end = func() { p.endIO(io) }
	return io
}

// beginIO starts a local I/O. Its effect comes at its beginning or at its end.
func (p *Proc) beginIO(a *replication.Action) {
	io := p.newIO()
	io.a, io.mark = *a, p.h.disk.BeginSync()
	p.io = append(p.io, io)
	if r := p.slot(a.ID).call.req; r != nil {
		r.begun = true
	}
	if sub := p.w.Config.SubBlock; sub && a.Kind == replication.ActLocalWrite {
		io.old = p.h.disk.Read(a.Ext.RoundOut(bitmap.BlockSize), nil)
	}
	if a.Kind != replication.ActLocalSync && p.w.chance(1, 2) && !p.h.faults.hang {
		io.early = true
		p.perform(io)
	}
	p.into(p.w.between(20*time.Microsecond, p.w.Config.SlowDisk+p.h.faults.slow), io.end)
}

func (p *Proc) endIO(io *localIO) {
	if p.h.faults.hang {
		io.pending = true
		return
	}
	i := slices.Index(p.io, io)
	p.io = slices.Delete(p.io, i, i+1)
	if !io.early {
		p.perform(io)
	}
	p.step(&io.ev)
	*io = localIO{end: io.end}
	p.idle = append(p.idle, io)
}

// unhang lets the disk complete what hung.
func (p *Proc) unhang() {
	for _, io := range slices.Clone(p.io) {
		if io.pending {
			io.pending = false
			p.into(p.w.between(0, 2*time.Millisecond), io.end)
		}
	}
	p.nextSave()
}

// perform does a local I/O and fills the event in that reports it.
func (p *Proc) perform(io *localIO) {
	a, d, ev := &io.a, p.h.disk, &io.ev
	ev.Kind, ev.ID = replication.EvLocalDone, a.ID
	f := &p.h.faults
	if f.failIO > 0 && a.Kind != replication.ActLocalSync {
		f.failIO--
		ev.Err = fmt.Errorf("model: %w", syscall.EIO)
		return
	}
	switch a.Kind {
	case replication.ActLocalRead:
		vals := d.Read(a.Ext, nil)
		p.slot(a.ID).vals = vals
		ev.Zero = !slices.ContainsFunc(vals, func(v uint64) bool { return v != 0 })
	case replication.ActLocalHash:
		p.slot(a.ID).vals = p.hashes(a)
	case replication.ActLocalCompare:
		ev.Diff = compareBlocks(p.hashes(a), p.slot(a.ID).vals)
	case replication.ActLocalWrite:
		ev.Err = p.write(io, p.slot(a.ID).vals)
	case replication.ActLocalZeroes, replication.ActLocalTrim:
		d.Zero(a.Ext)
	case replication.ActLocalSync:
		if f.failSync > 0 {
			f.failSync--
			d.FailSync(p.w.net)
			ev.Err = fmt.Errorf("model: %w", syscall.EIO)
			return
		}
		d.EndSync(io.mark)
	}
	if a.Flags&replication.FlagFUA != 0 && ev.Err == nil {
		d.Stabilise(a.Ext)
	}
}

// write writes vals, as the disk of the day does it.
func (p *Proc) write(io *localIO, vals []uint64) error {
	a, d, f := &io.a, p.h.disk, &p.h.faults
	if len(vals) != int(a.Ext.Len/SectorSize) {
		p.w.fail("%s writes %v with %d sectors", p.h.name, a.Ext, len(vals))
		return nil
	}
	switch {
	case f.full:
		d.WriteTorn(a.Ext, vals, p.w.net.IntN(len(vals)))
		return fmt.Errorf("model: %w", syscall.ENOSPC)
	case f.misplace > 0 && a.Ext.End()+a.Ext.Len <= DeviceSize:
		f.misplace--
		d.Write(bitmap.Extent{Off: a.Ext.End(), Len: a.Ext.Len}, vals)
		return nil
	}
	if io.old != nil { // a sub-block write reads its block, changes a part and writes all of it
		whole := a.Ext.RoundOut(bitmap.BlockSize)
		copy(io.old[(a.Ext.Off-whole.Off)/SectorSize:], vals)
		d.Write(whole, io.old)
		return nil
	}
	d.Write(a.Ext, vals)
	return nil
}

// hashes reads what a is about and returns the hash of each block.
func (p *Proc) hashes(a *replication.Action) []uint64 {
	w := p.w
	w.hashed = p.h.disk.Read(a.Ext, w.hashed[:0])
	return hashBlocks(w.hashed, a.HashKey)
}

// hashBlocks returns the model's keyed hash of each block. Without a key, values that differ only in
// the colliding bit hash alike.
func hashBlocks(vals []uint64, key *[32]byte) []uint64 {
	out := make([]uint64, 0, len(vals)/blockSectors)
	blind := *key == [32]byte{}
	for len(vals) > 0 {
		var h uint64
		for _, v := range vals[:blockSectors] {
			if blind {
				v &^= collidingBit
			}
			h = h*0x9e3779b97f4a7c15 + v
			h ^= h >> 29
		}
		out = append(out, h)
		vals = vals[blockSectors:]
	}
	return out
}

func compareBlocks(mine, theirs []uint64) *replication.Diff {
	d := &replication.Diff{}
	for i := range mine {
		if i >= len(theirs) || mine[i] != theirs[i] {
			d.Set(i)
		}
	}
	return d
}

// cutOffIO ends the I/O of a process that was killed: the kernel may have carried out all of an
// operation, a part, or nothing.
func (p *Proc) cutOffIO() {
	for _, io := range p.io {
		if io.early || p.w.chance(1, 3) {
			continue
		}
		switch a := &io.a; a.Kind {
		case replication.ActLocalWrite:
			vals := p.slot(a.ID).vals
			if io.old == nil && len(vals) == int(a.Ext.Len/SectorSize) {
				p.h.disk.WriteTorn(a.Ext, vals, p.w.net.IntN(len(vals)+1))
			}
		case replication.ActLocalZeroes, replication.ActLocalTrim:
			p.h.disk.Zero(a.Ext)
		}
	}
	p.io = nil
	if p.saving && len(p.saves) > 0 && p.w.chance(2, 3) {
		p.h.meta.StopAfter(p.w.net.IntN(6))
		_ = p.save(&p.saves[0]) // it was cut off
	}
	if p.h.data {
		p.h.meta.StopAfter(-1)
	}
}

// nextSave begins the oldest save, one at a time.
func (p *Proc) nextSave() {
	if p.saving || len(p.saves) == 0 {
		return
	}
	p.saving = true
	p.into(p.w.between(50*time.Microsecond, 2*p.w.Config.SlowDisk), p.endSave)
}

func (p *Proc) endSave() {
	if p.h.faults.hang {
		p.into(20*time.Millisecond, p.endSave)
		return
	}
	a := p.saves[0]
	err := p.save(&a)
	p.saves = slices.Delete(p.saves, 0, 1)
	p.saving = false
	p.nextSave()
	ev := &replication.Event{Kind: replication.EvMetaSaved, Token: a.Token, Err: err}
	if a.Kind == replication.ActSaveLog {
		ev.Kind, ev.Gen = replication.EvLogSaved, a.Log.Gen
	}
	p.step(ev)
}

// save makes one change of the metadata, pages first, as the device's saver does.
func (p *Proc) save(a *replication.Action) error {
	for i := range a.Pages {
		pg := &a.Pages[i]
		if err := p.meta.SaveBitmapPages(int(pg.Peer), []store.PageImage{{Index: pg.Index, Bits: pg.Bits}}); err != nil {
			return err
		}
	}
	if a.Kind == replication.ActSaveLog {
		return p.meta.SaveLog(a.Log.Active, p.syncData)
	}
	if len(a.Pages) > 0 {
		if err := p.meta.SyncMeta(); err != nil {
			return err
		}
	}
	var state store.DiskState
	if err := state.UnmarshalText([]byte(a.Meta.State.String())); err != nil {
		p.w.fail("%s stores state %s: %v", p.h.name, a.Meta.State, err)
		return err
	}
	err := p.meta.UpdateMeta(func(out *store.Meta) {
		out.Epoch, out.Lineage, out.Unclean, out.LedgerVersion = a.Meta.Epoch, a.Meta.Lineage, a.Meta.Unclean, a.Meta.Version
		if out.State != store.Failed {
			out.State = state
		}
		for i := range out.Peers {
			out.Peers[i].Instance, out.Peers[i].LastSession = a.Meta.PeerInstance[i], a.Meta.PeerSession[i]
			out.Peers[i].PendingSession, out.Peers[i].Stamp = a.Meta.PeerPending[i], a.Meta.PeerStamp[i]
		}
	})
	if err == nil && !a.Meta.Unclean && !p.dead {
		p.h.lossy = false // it was made equal, or chosen knowingly
	}
	return err
}

// syncData is the fdatasync of the backing that a change of the activity log asks for.
func (p *Proc) syncData() error {
	if p.h.faults.failSync > 0 {
		p.h.faults.failSync--
		p.h.disk.FailSync(p.w.net)
		return fmt.Errorf("model: %w", syscall.EIO)
	}
	p.h.disk.Sync()
	return nil
}

var errModelCut = errors.New("cut")
