package bitmap

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// logModel says what Begin must answer, from nothing but what was asked and committed before.
type logModel struct {
	capacity  int
	refs      map[RegionIndex]int
	seq       map[RegionIndex]uint64
	busyUntil map[RegionIndex]bool // staged or in the outstanding transaction: no victim
	durable   map[RegionIndex]bool // on disk for certain: in the committed table and the outstanding one
	committed []RegionIndex
	tx        *Tx
	gen       uint64
	watermark uint64
}

type grant struct {
	e   Extent
	gen uint64 // 0: hot
}

// pinned reports whether the slot of r cannot be taken from it.
func (m *logModel) pinned(r RegionIndex) bool {
	return m.refs[r] > 0 || m.busyUntil[r] || m.durable[r] && m.seq[r] > m.watermark
}

func (m *logModel) wouldFit(e Extent) bool {
	all := map[RegionIndex]bool{}
	for r := range m.refs {
		if m.pinned(r) {
			all[r] = true
		}
	}
	for r := range m.durable {
		if m.pinned(r) {
			all[r] = true
		}
	}
	first, n := RegionsOf(e)
	for i := range n {
		all[first+RegionIndex(i)] = true
	}
	return len(all) <= m.capacity
}

func (m *logModel) onDisk(e Extent) bool {
	first, n := RegionsOf(e)
	for i := range n {
		if !m.durable[first+RegionIndex(i)] {
			return false
		}
	}
	return true
}

func (m *logModel) setDurable() {
	clear(m.durable)
	for _, r := range m.committed {
		if m.tx == nil || slices.Contains(m.tx.Active, r) {
			m.durable[r] = true
		}
	}
}

func TestLog_AdmitsExactlyWhatIsDurableAndFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(MinRegions, 80).Draw(t, "capacity")
		l := NewLog(capacity)
		m := &logModel{capacity: capacity, refs: map[RegionIndex]int{}, seq: map[RegionIndex]uint64{},
			busyUntil: map[RegionIndex]bool{}, durable: map[RegionIndex]bool{}}
		var granted []grant
		var seq uint64
		if restored := rapid.IntRange(0, 2*capacity).Draw(t, "restored"); restored > 0 {
			for i := range restored {
				r := RegionIndex(2 * i)
				m.committed = append(m.committed, r)
				m.seq[r] = math.MaxUint64
			}
			l.Restore(m.committed)
			m.setDurable()
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				first := rapid.Int64Range(0, int64(3*capacity)).Draw(t, "region")
				n := rapid.Int64Range(1, int64(max(1, capacity/2))).Draw(t, "regions")
				e := Extent{first*RegionSize + 5, (n-1)*RegionSize + 1}
				granted = m.begin(t, l, e, granted)
			},
			"end": func(t *rapid.T) {
				if len(granted) == 0 {
					t.Skip("nothing granted")
				}
				i := rapid.IntRange(0, len(granted)-1).Draw(t, "which")
				g := granted[i]
				granted = slices.Delete(granted, i, i+1)
				seq++
				l.End(g.e, seq)
				m.end(g.e, seq)
			},
			"next": func(t *rapid.T) { m.next(t, l) },
			"commit": func(t *rapid.T) {
				if m.tx == nil {
					t.Skip("none outstanding")
				}
				m.commit(l)
			},
			"watermark": func(t *rapid.T) {
				m.watermark = rapid.Uint64Range(m.watermark, max(m.watermark, seq)).Draw(t, "seq")
				l.SetWatermark(m.watermark)
			},
			"renumber": func(t *rapid.T) {
				l.Renumber()
				clear(m.seq)
				m.watermark = 0
			},
			"evict idle": func(t *rapid.T) { l.EvictIdle() },
			"": func(t *rapid.T) {
				for _, g := range granted {
					if g.gen <= m.gen && (m.tx == nil || g.gen < m.tx.Gen) && !m.onDisk(g.e) {
						t.Fatalf("%v may be written (gen %d) but the disk may lack its regions", g.e, g.gen)
					}
				}
			},
		})
		m.drain(t, l, granted)
	})
}

func (m *logModel) begin(t *rapid.T, l *Log, e Extent, granted []grant) []grant {
	first, n := RegionsOf(e)
	fits := m.wouldFit(e)
	adm, gen := l.Begin(e)
	switch {
	case adm == Full:
		if fits {
			t.Fatalf("Begin(%v) is full, yet there is room", e)
		}
		return granted
	case adm == Hot:
		if !m.onDisk(e) {
			t.Fatalf("Begin(%v) is hot, yet the disk may lack it", e)
		}
		gen = 0
	case gen != m.gen && gen != m.gen+1 || gen == m.gen && m.tx == nil:
		t.Fatalf("Begin(%v) waits for transaction %d; last is %d", e, gen, m.gen)
	}
	if !fits && adm != Hot && len(m.committed) <= m.capacity {
		t.Fatalf("Begin(%v) is %v, yet there is no room", e, adm)
	}
	for i := range n {
		r := first + RegionIndex(i)
		m.refs[r]++
		if !m.durable[r] {
			m.busyUntil[r] = true
		}
	}
	return append(granted, grant{e, gen})
}

func (m *logModel) end(e Extent, seq uint64) {
	first, n := RegionsOf(e)
	for i := range n {
		r := first + RegionIndex(i)
		m.refs[r]--
		m.seq[r] = max(m.seq[r], seq)
	}
}

func (m *logModel) next(t *rapid.T, l *Log) {
	tx, ok := l.NextTx()
	if !ok {
		return
	}
	if m.tx != nil || tx.Gen != m.gen+1 {
		t.Fatalf("transaction %d after %d, outstanding %v", tx.Gen, m.gen, m.tx)
	}
	m.gen, m.tx = tx.Gen, &tx
	if !slices.IsSorted(tx.Active) || !slices.IsSorted(tx.Evicted) || len(slices.Compact(slices.Clone(tx.Active))) != len(tx.Active) {
		t.Fatalf("order: %v", tx)
	}
	if len(tx.Active) > max(m.capacity, len(m.committed)) {
		t.Fatalf("%d regions in a table of %d", len(tx.Active), m.capacity)
	}
	for _, r := range m.committed {
		out := slices.Contains(tx.Evicted, r)
		if out == slices.Contains(tx.Active, r) {
			t.Fatalf("region %d is evicted %t and still active, or neither", r, out)
		}
		if out && (m.refs[r] > 0 || m.seq[r] > m.watermark && m.watermark > 0) {
			t.Fatalf("region %d left with %d references, seq %d above %d", r, m.refs[r], m.seq[r], m.watermark)
		}
	}
	for r := range m.busyUntil {
		if !slices.Contains(tx.Active, r) {
			t.Fatalf("region %d was staged and is not in %v", r, tx.Active)
		}
	}
	m.setDurable()
}

func (m *logModel) commit(l *Log) {
	l.Committed(m.tx.Gen)
	for _, r := range m.tx.Active {
		delete(m.busyUntil, r)
	}
	m.committed = m.tx.Active
	m.tx = nil
	m.setDurable()
	// What was evicted by this transaction and asked for since is staged for the next one.
	for r, n := range m.refs {
		if n > 0 && !m.durable[r] {
			m.busyUntil[r] = true
		}
	}
}

// drain checks that an idle log with a full watermark admits anything, and can be emptied.
func (m *logModel) drain(t *rapid.T, l *Log, granted []grant) {
	for _, g := range granted {
		l.End(g.e, 1)
	}
	l.SetWatermark(math.MaxUint64)
	if m.tx != nil {
		l.Committed(m.tx.Gen)
	}
	if tx, ok := l.NextTx(); ok {
		l.Committed(tx.Gen)
	}
	e := Extent{7, l.MaxExtent()}
	if adm, _ := l.Begin(e); adm == Full {
		t.Fatalf("an idle log refuses %v", e)
	}
	l.End(e, 2)
	for range 2 {
		if tx, ok := l.NextTx(); ok {
			l.Committed(tx.Gen)
		}
		l.EvictIdle()
	}
	if tx, ok := l.NextTx(); ok {
		l.Committed(tx.Gen)
	}
	if got := l.Active(); len(got) != 0 || len(l.regions) != 0 || l.held != 0 {
		t.Fatalf("not empty after the eviction of all: %v, %d held", got, l.held)
	}
}

func at(region, count int64) Extent { return Extent{region * RegionSize, count * RegionSize} }

// commit makes everything staged durable.
func commit(tb testing.TB, l *Log) Tx {
	tb.Helper()
	tx, ok := l.NextTx()
	if !ok {
		tb.Fatal("no transaction")
	}
	l.Committed(tx.Gen)
	return tx
}

func TestBegin_MissesWhileATransactionIsOutstandingShareTheNext(t *testing.T) {
	l := NewLog(100)
	_, first := l.Begin(at(1, 1))
	tx, _ := l.NextTx()
	_, second := l.Begin(at(2, 1))
	_, third := l.Begin(at(3, 1))
	_, again := l.Begin(at(1, 1))
	if first != 1 || tx.Gen != 1 || second != 2 || third != 2 || again != 1 {
		t.Errorf("generations %d %d %d %d", first, second, third, again)
	}
	if _, ok := l.NextTx(); ok {
		t.Error("a second transaction beside the outstanding one")
	}
	l.Committed(1)
	if tx := commit(t, l); !slices.Equal(tx.Active, []RegionIndex{1, 2, 3}) {
		t.Errorf("table %v", tx.Active)
	}
}

func TestBegin_TwoHugeTrimsDoNotWaitForEachOther(t *testing.T) {
	l := NewLog(10)
	a, b := at(0, 8), at(100, 8)
	if adm, _ := l.Begin(a); adm != Staged {
		t.Fatalf("first: %v", adm)
	}
	if adm, _ := l.Begin(b); adm != Full {
		t.Fatalf("second: %v", adm)
	}
	if got := len(l.regions); got != 8 {
		t.Fatalf("the refused request holds regions: %d", got)
	}
	l.SetWatermark(math.MaxUint64)
	commit(t, l)
	l.End(a, 1)
	if adm, _ := l.Begin(b); adm != Staged {
		t.Errorf("second, after the first: %v", adm)
	}
}

func TestBegin_RegionInAnEvictionUnderWayIsNotHot(t *testing.T) {
	l := NewLog(MinRegions)
	l.SetWatermark(math.MaxUint64)
	for i := range int64(MinRegions) {
		l.Begin(at(i, 1))
	}
	commit(t, l)
	l.End(at(0, 1), 1)
	l.Begin(at(50, 1))
	tx, _ := l.NextTx()
	if !slices.Equal(tx.Evicted, []RegionIndex{0}) {
		t.Fatalf("evicted %v", tx.Evicted)
	}
	l.End(at(1, 1), 2)
	adm, gen := l.Begin(at(0, 1))
	if adm != Staged || gen != tx.Gen+1 {
		t.Fatalf("%v of %d", adm, gen)
	}
	l.Committed(tx.Gen)
	if tx := commit(t, l); !slices.Contains(tx.Active, 0) || slices.Contains(tx.Active, 1) {
		t.Errorf("table %v", tx.Active)
	}
	if adm, _ := l.Begin(at(0, 1)); adm != Hot {
		t.Errorf("after the commit: %v", adm)
	}
}

func TestEvict_TakesTheLeastRecentlyUsedAndABatch(t *testing.T) {
	l := NewLog(320)
	l.SetWatermark(math.MaxUint64)
	for i := range int64(320) {
		l.Begin(at(i, 1))
	}
	commit(t, l)
	for i := range int64(320) {
		l.End(at((i+100)%320, 1), 1)
	}
	l.Begin(at(1000, 1))
	tx := commit(t, l)
	if len(tx.Evicted) != 10 || tx.Evicted[0] != 100 || tx.Evicted[9] != 109 {
		t.Errorf("evicted %v", tx.Evicted)
	}
}

func TestEvict_SparesWhatIsAboveTheWatermark(t *testing.T) {
	l := NewLog(MinRegions)
	for i := range int64(MinRegions) {
		l.Begin(at(i, 1))
	}
	commit(t, l)
	for i := range int64(MinRegions) {
		l.End(at(i, 1), uint64(10+i))
	}
	if adm, _ := l.Begin(at(50, 1)); adm != Full {
		t.Fatalf("below the watermark is nothing, yet %v", adm)
	}
	l.SetWatermark(10)
	if adm, _ := l.Begin(at(50, 1)); adm != Staged {
		t.Fatalf("region 0 is free, yet %v", adm)
	}
	if tx := commit(t, l); !slices.Equal(tx.Evicted, []RegionIndex{0}) {
		t.Errorf("evicted %v", tx.Evicted)
	}
}

func TestLog_PanicsOnBrokenCallers(t *testing.T) {
	for name, f := range map[string]func(l *Log){
		"larger than the log":  func(l *Log) { l.Begin(at(0, MinRegions+1)) },
		"end without begin":    func(l *Log) { l.End(at(0, 1), 1) },
		"commit of nothing":    func(l *Log) { l.Committed(0) },
		"restore out of order": func(l *Log) { l.Restore([]RegionIndex{2, 1}) },
		"restore twice":        func(l *Log) { l.Restore([]RegionIndex{1}); l.Restore([]RegionIndex{1}) },
		"capacity":             func(*Log) { NewLog(MinRegions - 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(NewLog(MinRegions))
		}()
	}
}

func TestBeginEnd_OfAHotRegionDoNotAllocate(t *testing.T) {
	l := NewLog(DefaultRegions)
	l.Begin(at(3, 2))
	commit(t, l)
	seq := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		seq++
		if adm, _ := l.Begin(at(3, 2)); adm != Hot {
			t.Fatal(adm)
		}
		l.End(at(3, 2), seq)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBeginEnd_Hot(b *testing.B) {
	l := NewLog(DefaultRegions)
	for i := range int64(DefaultRegions) {
		l.Begin(at(i, 1))
	}
	commit(b, l)
	b.ReportAllocs()
	for i := range b.N {
		e := Extent{int64(i) % DefaultRegions * RegionSize, 4096}
		l.Begin(e)
		l.End(e, uint64(i))
	}
}

func BenchmarkBegin_Miss(b *testing.B) {
	l := NewLog(DefaultRegions)
	l.SetWatermark(math.MaxUint64)
	b.ReportAllocs()
	for i := range b.N {
		e := Extent{int64(i) % 1000000 * RegionSize, 4096}
		l.Begin(e)
		if tx, ok := l.NextTx(); ok {
			l.Committed(tx.Gen)
		}
		l.End(e, 1)
	}
}
