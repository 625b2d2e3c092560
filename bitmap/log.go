package bitmap

import (
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

const (
	// DefaultRegions is the usual capacity of a Log: 1237 regions, 4.8 GiB of hot device.
	DefaultRegions = 1237
	// MinRegions and MaxRegions bound the capacity of a Log.
	MinRegions = 7
	MaxRegions = 65536
)

// Admission is what Begin decided.
type Admission uint8

const (
	// Hot: every region is durably in the log. The write may start.
	Hot Admission = iota
	// Staged: the references are taken; the write may start once the named transaction is durable.
	Staged
	// Full: nothing was taken. Ask again after an End, a Committed or a SetWatermark.
	Full
)

func (a Admission) String() string {
	switch a {
	case Hot:
		return "hot"
	case Staged:
		return "staged"
	case Full:
		return "full"
	}
	return fmt.Sprintf("admission(%d)", uint8(a))
}

// regionState says where a region stands between the log in memory and the log on disk.
//
//	absent --Begin--> staged --NextTx--> entering --Committed--> hot
//	hot --made room--> leaving --NextTx--> departing --Committed--> absent
//	leaving --Begin--> hot              (no transaction says yet that it left)
//	departing --Begin--> staged         (it must enter again: the disk may already lack it)
type regionState uint8

const (
	stStaged    regionState = iota // goes into the next transaction
	stEntering                     // in the outstanding transaction
	stHot                          // durable
	stLeaving                      // durable; the next transaction leaves it out
	stDeparting                    // the outstanding transaction leaves it out
)

func (s regionState) String() string {
	names := [...]string{"staged", "entering", "hot", "leaving", "departing"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

type region struct {
	index      RegionIndex
	state      regionState
	refs       int32  // requests between Begin and End
	pos        int32  // in Log.above, -1 elsewhere
	seq        uint64 // highest sequence number written in it
	prev, next *region
	hoarded    bool // by SplitTrim; never in a normal build
}

// Tx is one change of the log on disk. The caller makes it durable, then calls Committed.
type Tx struct {
	Gen     uint64        // counts transactions from 1
	Active  []RegionIndex // the whole table after it, ascending; the caller's to keep
	Evicted []RegionIndex // what it leaves out of the table before, ascending
}

// Log is the activity log of one replica: which regions may be written now, and which of them the
// disk knows of. It does no I/O and knows no clock; one owner calls it at a time.
//
// # Model
//
// A region is durable from the Committed of the transaction that brings it to the NextTx of the
// one that leaves it out. Only then may its blocks be written. While a transaction is outstanding
// all further misses gather in the next one, so a hundred writes to new regions cost two
// transactions.
//
// # Room
//
// Regions that are staged, entering or hot hold a slot, at most capacity of them. A miss without a
// free slot takes the slot of the idle region that was used longest ago, at once, in the same call
// that admits the request: what Staged promised can no longer fail. Idle means: no reference, and
// no write above the watermark, because such a write may exist on this replica alone. NextTx then
// evicts further idle regions, capacity/32 in all, so that the next misses find room.
//
// # No deadlock
//
// A request takes all its regions or none, and what it waits for is only ever a transaction, which
// waits for no request. Taking regions one by one fails: two large trims that each hold half of
// the log wait for each other for good.
type Log struct {
	capacity  int
	regions   map[RegionIndex]*region
	held      int           // regions that are staged, entering or hot
	idle      regionList    // hot, no reference, seq <= watermark; least recently used first
	above     regionHeap    // hot, no reference, seq > watermark; lowest seq first
	leaving   regionList    // state leaving
	staged    []*region     // state staged, for the next transaction
	entering  []*region     // state entering
	departing []*region     // left out by the outstanding transaction, some staged again since
	table     []RegionIndex // Active of the last transaction
	gen       uint64        // of the last transaction
	pending   bool          // that transaction is outstanding
	watermark uint64
}

// NewLog returns an empty log for capacity regions, MinRegions to MaxRegions; it panics outside.
// Its watermark is 0.
func NewLog(capacity int) *Log {
	if capacity < MinRegions || capacity > MaxRegions {
		panic(fmt.Sprintf("bitmap: log of %d regions", capacity))
	}
	return &Log{
		capacity: capacity,
		regions:  make(map[RegionIndex]*region, capacity),
		above:    make(regionHeap, 0, capacity),
	}
}

// Capacity returns the number of regions that may be active at once.
func (l *Log) Capacity() int { return l.capacity }

// MaxExtent returns the length in bytes up to which every extent, however aligned, can be admitted
// once the log is idle. Callers split at a fraction of it, so that a large request need not wait
// for the whole log to fall idle.
func (l *Log) MaxExtent() int64 { return int64(l.capacity-1) * RegionSize }

// Begin asks to write e. Hot and Staged take one reference on every region of e, which one End
// gives back. With Staged the write must not start before Committed(gen). Full takes nothing.
//
// An empty e is Hot and takes nothing. An e of more regions than the capacity panics: it could
// never be admitted.
func (l *Log) Begin(e Extent) (adm Admission, gen uint64) {
	first, count := RegionsOf(e)
	if count > l.capacity {
		panic(fmt.Sprintf("bitmap: extent %v takes %d regions of a log of %d", e, count, l.capacity))
	}
	need, ownIdle := 0, 0
	for i := range count {
		r := l.regions[first+RegionIndex(i)]
		switch {
		case r == nil || r.state == stLeaving || r.state == stDeparting:
			need++
		case r.state == stHot && r.refs == 0 && r.pos < 0:
			ownIdle++
		}
	}
	victims := 0
	if need > 0 { // a request whose regions are all there needs no room, even in a log overfull after Restore
		victims = max(0, l.held+need-l.capacity)
	}
	if victims > l.idle.len-ownIdle {
		if planted.On(planted.SplitTrim) {
			l.hoard(first, count)
		}
		return Full, 0
	}
	for i := range count {
		r := l.take(first + RegionIndex(i))
		if r.hoarded {
			r.hoarded, r.refs = false, r.refs-1
		}
		switch r.state {
		case stStaged:
			adm, gen = Staged, l.gen+1
		case stEntering:
			adm, gen = Staged, max(gen, l.gen)
		}
	}
	for range victims {
		l.release(l.idle.first())
	}
	return adm, gen
}

// hoard is what SplitTrim plants: a request that is not admitted keeps those of its regions that it
// could get, for its next attempt.
func (l *Log) hoard(first RegionIndex, count int) {
	for i := range count {
		index := first + RegionIndex(i)
		r := l.regions[index]
		if r != nil && r.hoarded {
			continue
		}
		if r == nil || r.state == stLeaving || r.state == stDeparting {
			if l.held >= l.capacity && l.idle.len == 0 {
				return
			}
			if l.held >= l.capacity {
				l.release(l.idle.first())
			}
		}
		l.take(index).hoarded = true
	}
}

// take adds one reference to the region at index, which it stages or brings back as needed. Room
// has been found for it before.
func (l *Log) take(index RegionIndex) *region {
	r := l.regions[index]
	switch {
	case r == nil:
		r = &region{index: index, pos: -1}
		l.regions[index] = r
		l.stage(r)
	case r.state == stDeparting:
		l.stage(r)
	case r.state == stLeaving:
		l.leaving.remove(r)
		r.state = stHot
		l.held++
	case r.state == stHot && r.refs == 0:
		l.unpark(r)
	}
	r.refs++
	return r
}

func (l *Log) stage(r *region) {
	r.state = stStaged
	l.staged = append(l.staged, r)
	l.held++
}

// release gives the slot of idle region r away; the next transaction leaves it out.
func (l *Log) release(r *region) {
	l.idle.remove(r)
	r.state = stLeaving
	l.leaving.push(r)
	l.held--
}

// park puts a hot region without references where its sequence number belongs.
func (l *Log) park(r *region) {
	if r.seq <= l.watermark {
		l.idle.push(r)
	} else {
		l.above.push(r)
	}
}

func (l *Log) unpark(r *region) {
	if r.pos >= 0 {
		l.above.remove(r)
	} else {
		l.idle.remove(r)
	}
}

// End gives back what Begin took for e. seq is the sequence number of the write, 0 when nothing
// was written. It panics when Begin took nothing.
func (l *Log) End(e Extent, seq uint64) {
	first, count := RegionsOf(e)
	for i := range count {
		index := first + RegionIndex(i)
		r := l.regions[index]
		if r == nil || r.refs == 0 {
			panic(fmt.Sprintf("bitmap: end of %v: no reference on region %d", e, index))
		}
		r.seq = max(r.seq, seq)
		r.refs--
		if r.refs == 0 && r.state == stHot {
			l.park(r)
		}
	}
}

// SetWatermark says that every write numbered seq or below is complete on all replicas that count.
// A region last written above it stays in the log however idle it is. A primary, whose own End
// already means just that, passes math.MaxUint64. A lower seq than before holds back only what
// falls idle from now on.
func (l *Log) SetWatermark(seq uint64) {
	l.watermark = seq
	for len(l.above) > 0 && l.above[0].seq <= seq {
		r := l.above[0]
		l.above.remove(r)
		l.idle.push(r)
	}
}

// Renumber forgets all sequence numbers and sets the watermark to 0: regions count as written at
// 0. It is called when a session starts to number afresh, after what was above the watermark, or
// was found by Restore, has been made equal on all members or handed over to their bitmaps.
func (l *Log) Renumber() {
	for len(l.above) > 0 {
		r := l.above[0]
		l.above.remove(r)
		l.idle.push(r)
	}
	for _, r := range l.regions {
		r.seq = 0
	}
	l.watermark = 0
}

// EvictIdle gives up the slot of every idle region, so that the next transaction empties the table
// as far as it can; for a clean stop. It returns how many regions that transaction leaves out.
func (l *Log) EvictIdle() int {
	for l.idle.len > 0 {
		l.release(l.idle.first())
	}
	return l.leaving.len
}

// NextTx returns the next transaction to make durable; false while one is outstanding and when
// there is nothing to do. Before its table is written, what the caller knows of the evicted
// regions must be on its way to disk: their bitmap pages and their data.
func (l *Log) NextTx() (tx Tx, ok bool) {
	if l.pending || len(l.staged) == 0 && l.leaving.len == 0 {
		return Tx{}, false
	}
	for batch := l.capacity / 32; l.leaving.len > 0 && l.leaving.len < batch && l.idle.len > 0; {
		l.release(l.idle.first())
	}
	l.gen++
	l.pending = true
	l.staged, l.entering = l.entering[:0], l.staged
	enter := make([]RegionIndex, len(l.entering))
	for i, r := range l.entering {
		r.state = stEntering
		enter[i] = r.index
	}
	evicted := make([]RegionIndex, 0, l.leaving.len)
	for l.leaving.len > 0 {
		r := l.leaving.first()
		l.leaving.remove(r)
		r.state = stDeparting
		l.departing = append(l.departing, r)
		evicted = append(evicted, r.index)
	}
	slices.Sort(enter)
	slices.Sort(evicted)
	l.table = merge(l.table, enter, evicted)
	return Tx{Gen: l.gen, Active: slices.Clone(l.table), Evicted: evicted}, true
}

// merge returns table with enter added and evicted removed. All are ascending.
func merge(table, enter, evicted []RegionIndex) []RegionIndex {
	out := make([]RegionIndex, 0, len(table)+len(enter)-len(evicted))
	for _, x := range table {
		for len(enter) > 0 && enter[0] < x {
			out, enter = append(out, enter[0]), enter[1:]
		}
		if len(evicted) > 0 && evicted[0] == x {
			evicted = evicted[1:]
			continue
		}
		out = append(out, x)
	}
	return append(out, enter...)
}

// Committed says that transaction gen, the outstanding one, is durable: what it brought is hot,
// what it left out is gone. It panics for any other gen.
func (l *Log) Committed(gen uint64) {
	if !l.pending || gen != l.gen {
		panic(fmt.Sprintf("bitmap: commit of transaction %d, last is %d, outstanding %t", gen, l.gen, l.pending))
	}
	l.pending = false
	for _, r := range l.entering {
		r.state = stHot
		if r.refs == 0 {
			l.park(r)
		}
	}
	for _, r := range l.departing {
		if r.state == stDeparting {
			delete(l.regions, r.index)
		}
	}
	l.entering, l.departing = l.entering[:0], l.departing[:0]
}

// Active returns the table as of the last transaction, outstanding or not, ascending. It is a copy.
func (l *Log) Active() []RegionIndex { return slices.Clone(l.table) }

// Restore fills an empty log with the regions that a start found on disk, ascending; there may be
// more than the capacity, and then a miss first finds them too many. All are hot and count as
// written above any watermark but math.MaxUint64: they are suspect until Renumber. It panics when
// the log is not new or the order is wrong.
func (l *Log) Restore(active []RegionIndex) {
	if l.gen != 0 || len(l.regions) != 0 {
		panic(fmt.Sprintf("bitmap: restore into a log with %d regions", len(l.regions)))
	}
	for i, index := range active {
		if i > 0 && active[i-1] >= index {
			panic(fmt.Sprintf("bitmap: restore: region %d follows %d", index, active[i-1]))
		}
		r := &region{index: index, pos: -1, state: stHot, seq: ^uint64(0)}
		l.regions[index] = r
		l.held++
		l.park(r)
	}
	l.table = slices.Clone(active)
}
