package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/bitmap"
)

const testDiskSize = 48 << 20

func testRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// span is the extent of n sectors from sector first.
func span(first, n int64) bitmap.Extent {
	return bitmap.Extent{Off: first * SectorSize, Len: n * SectorSize}
}

func repeat(v uint64, n int) []uint64 { return slices.Repeat([]uint64{v}, n) }

// diskModel is the disk written naively: all values that a sector had since it was last made durable.
type diskModel struct {
	sectors [][]uint64 // the durable value, then every value since
	marks   []int      // of a sync under way: how many values there were at its begin
}

func (m *diskModel) write(first int64, vals []uint64) {
	for i, v := range vals {
		m.sectors[first+int64(i)] = append(m.sectors[first+int64(i)], v)
	}
}

func (m *diskModel) begin() {
	m.marks = m.marks[:0]
	for _, s := range m.sectors {
		m.marks = append(m.marks, len(s))
	}
}

func (m *diskModel) end() {
	for i, n := range m.marks {
		m.sectors[i] = m.sectors[i][n-1:]
	}
	m.marks = m.marks[:0]
}

func (m *diskModel) read(i int) uint64 { return m.sectors[i][len(m.sectors[i])-1] }

func TestDisk_AgreesWithModel_ThroughWritesSyncsAndCrashes(t *testing.T) {
	const sectors = 40
	for seed := range uint64(300) {
		rng := testRand(seed)
		d, m := NewDisk(testDiskSize), &diskModel{}
		for range sectors {
			m.sectors = append(m.sectors, []uint64{0})
		}
		var mark SyncMark
		for step := range 120 {
			first := rng.Int64N(sectors)
			n := 1 + rng.Int64N(min(sectors-first, 20))
			vals := repeat(uint64(rng.IntN(50)), int(n))
			switch rng.IntN(12) {
			default:
				d.Write(span(first, n), vals)
				m.write(first, vals)
			case 0:
				d.Fill(span(first, n), vals[0])
				m.write(first, vals)
			case 1:
				d.Zero(span(first, n))
				m.write(first, repeat(0, int(n)))
			case 2:
				keep := rng.IntN(int(n) + 1)
				d.WriteTorn(span(first, n), vals, keep)
				m.write(first, vals[:keep])
			case 3:
				mark = d.BeginSync()
				m.begin()
			case 4:
				if len(m.marks) > 0 {
					d.EndSync(mark)
					m.end()
				}
			case 5:
				d.Crash(rng)
				for i := range m.sectors {
					got := d.Sector(int64(i))
					if !slices.Contains(m.sectors[i], got) {
						t.Fatalf("seed %d step %d: sector %d is %d after a crash, not one of %v", seed, step, i, got, m.sectors[i])
					}
					m.sectors[i] = []uint64{got}
				}
				m.marks = m.marks[:0]
			}
			got := d.Read(span(0, sectors), nil)
			for i := range m.sectors {
				if got[i] != m.read(i) {
					t.Fatalf("seed %d step %d: sector %d reads as %d, not %d", seed, step, i, got[i], m.read(i))
				}
				if len(m.sectors[i]) == 1 && d.Durable(int64(i)) != m.read(i) {
					t.Fatalf("seed %d step %d: sector %d is %d on the platter, not %d", seed, step, i, d.Durable(int64(i)), m.read(i))
				}
			}
		}
	}
}

func TestDisk_Crash_ShowsEveryOutcome(t *testing.T) {
	e := span(8, 8)
	seen := map[string]bool{}
	for seed := range uint64(400) {
		d := NewDisk(testDiskSize)
		d.Fill(e, 1)
		d.Sync()
		d.Fill(e, 2)
		d.Fill(e, 3)
		d.Crash(testRand(seed))
		vals := slices.Compact(d.Read(e, nil))
		if len(vals) == 1 {
			seen[fmt.Sprint(vals[0])] = true
		} else {
			seen["torn"] = true
		}
		if d.Unsynced(e) {
			t.Fatalf("seed %d: something is unsynced after a crash", seed)
		}
	}
	for _, want := range []string{"1", "2", "3", "torn"} {
		if !seen[want] {
			t.Errorf("no crash of 400 left the block as %s: %v", want, seen)
		}
	}
}

func TestDisk_EndSync_LeavesWhatWasWrittenSinceItBeganUnsynced(t *testing.T) {
	d := NewDisk(testDiskSize)
	d.Fill(span(0, 8), 1)
	m := d.BeginSync()
	d.Fill(span(0, 4), 2)
	d.Fill(span(16, 1), 3)
	d.EndSync(m)
	if got := [...]uint64{d.Durable(0), d.Durable(7), d.Durable(16)}; got != [...]uint64{1, 1, 0} {
		t.Errorf("durable after the sync: %v", got)
	}
	if !d.Unsynced(span(0, 8)) || d.Unsynced(span(4, 4)) || !d.Unsynced(span(16, 1)) {
		t.Error("unsynced is not what was written during the sync")
	}
	// A value written again during the sync is still the one it has to write.
	d.Fill(span(32, 1), 7)
	m = d.BeginSync()
	d.Fill(span(32, 1), 7)
	d.EndSync(m)
	if d.Durable(32) != 7 {
		t.Error("a sync did not write what was there when it began")
	}
	// Nor may many overwritings during the sync push it out.
	m = d.BeginSync()
	for v := range uint64(10) {
		d.Fill(span(32, 1), 100+v)
	}
	d.EndSync(m)
	if got := d.Durable(32); got != 7 && got < 100 {
		t.Errorf("durable is %d, older than the sync", got)
	}
}

func TestDisk_FailSync_ForgetsForGood(t *testing.T) {
	lost := 0
	for seed := range uint64(100) {
		d, rng := NewDisk(testDiskSize), testRand(seed)
		d.Fill(span(0, 64), 5)
		d.FailSync(rng)
		if got := slices.Compact(d.Read(span(0, 64), nil)); !slices.Equal(got, []uint64{5}) {
			t.Fatalf("seed %d: reads show %v after a failed sync", seed, got)
		}
		if !d.Unsynced(span(0, 64)) {
			t.Fatalf("seed %d: a failed sync forgot nothing", seed)
		}
		d.Sync() // the retry that succeeds and lies
		c := d.Clone()
		d.Crash(rng)
		c.DropCache()
		if d.Unsynced(span(0, 64)) || c.Unsynced(span(0, 64)) {
			t.Fatalf("seed %d: there is more to lose", seed)
		}
		if _, differ := FirstDiff(c, d, span(0, 64)); differ {
			t.Fatalf("seed %d: a crash and an eviction lost different sectors", seed)
		}
		for s := range int64(64) {
			if d.Sector(s) == 0 {
				lost++
			}
		}
	}
	if lost == 0 || lost == 100*64 {
		t.Errorf("%d of %d sectors were lost", lost, 100*64)
	}
}

func TestDisk_FailSync_RewrittenSectorIsWrittenByTheNextSync(t *testing.T) {
	d := NewDisk(testDiskSize)
	d.Fill(span(0, 8), 5)
	d.FailSync(testRand(1)) // one block alone: it is forgotten
	d.Fill(span(3, 1), 5)
	d.Sync()
	d.Crash(testRand(2))
	if got, want := d.Read(span(0, 8), nil), []uint64{0, 0, 0, 5, 0, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("after the crash %v, not %v", got, want)
	}
}

func TestDisk_Stabilise_IsForItsExtentAlone(t *testing.T) {
	d := NewDisk(testDiskSize)
	d.Fill(span(0, 24), 5)
	d.Stabilise(span(6, 4))
	for s := range int64(24) {
		if want := s >= 6 && s < 10; (d.Durable(s) == 5) != want || d.Unsynced(span(s, 1)) == want {
			t.Errorf("sector %d: durable %d, unsynced %v", s, d.Durable(s), d.Unsynced(span(s, 1)))
		}
	}
}

func TestDisk_CloneAndRestore_ShareNothing(t *testing.T) {
	d := NewDisk(testDiskSize)
	d.Fill(span(0, 8), 1)
	d.Sync()
	d.Fill(span(4, 8), 2)
	snap := d.Clone()
	d.Fill(span(0, 100), 3)
	if s, differ := FirstDiff(snap, d, span(0, 100)); !differ || s != 0 || snap.Sector(0) != 1 || !snap.Unsynced(span(4, 8)) {
		t.Fatalf("the clone changed with its original: first difference %d %v", s, differ)
	}
	d.Restore(snap)
	if s, differ := FirstDiff(snap, d, bitmap.Extent{Len: testDiskSize}); differ {
		t.Fatalf("restored disk differs in sector %d", s)
	}
	d.Crash(testRand(1))
	if s, differ := FirstDiff(snap, d, bitmap.Extent{Len: testDiskSize}); differ {
		t.Fatalf("restored disk is not durable in sector %d", s)
	}
	snap.Crash(testRand(4))
	if snap.Sector(0) != 1 || snap.Sector(4) == 3 {
		t.Fatal("the clone lost what was durable")
	}
}

func TestDisk_TouchedAndFirstDiff_FindLoneSectors(t *testing.T) {
	a, b := NewDisk(testDiskSize), NewDisk(testDiskSize)
	const last = testDiskSize/SectorSize - 1
	a.Fill(span(last, 1), 9)
	a.Flip(70_001, 4)
	a.Fill(span(5, 2), 1)
	a.Zero(span(5, 1))
	a.Zero(span(500, 500)) // zeros over zeros touch nothing
	if got, want := slices.Collect(a.Touched()), []int64{5, 6, 70_001, last}; !slices.Equal(got, want) {
		t.Errorf("touched %v, not %v", got, want)
	}
	all := bitmap.Extent{Len: testDiskSize}
	for _, want := range []int64{6, 70_001, last} {
		got, ok := FirstDiff(a, b, all)
		if back, _ := FirstDiff(b, a, all); !ok || got != want || back != want {
			t.Fatalf("first difference in %d or %d (%v), not %d", got, back, ok, want)
		}
		b.Flip(want, a.Sector(want))
	}
	if _, ok := FirstDiff(a, b, all); ok {
		t.Error("equal disks differ")
	}
	if a.Durable(70_001) != 4 || a.Durable(last) != 0 {
		t.Error("a flip is on the platter at once, a write is not")
	}
}

func TestDisk_Grow_KeepsAndZeroes(t *testing.T) {
	d := NewDisk(4 << 20)
	d.Fill(span(0, 8192), 1)
	d.Grow(8 << 20)
	if d.Size() != 8<<20 || d.Sector(8191) != 1 || d.Sector(8192) != 0 {
		t.Error("growing changed the content")
	}
}

func TestDisk_Rewriting_DoesNotAllocate(t *testing.T) {
	d := NewDisk(testDiskSize)
	vals := repeat(7, 16)
	out := make([]uint64, 0, 16)
	if n := testing.AllocsPerRun(100, func() {
		vals[3]++
		d.Write(span(4, 16), vals)
		out = d.Read(span(4, 16), out[:0])
		d.Sync()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDisk(b *testing.B) {
	rng := testRand(1)
	var out []uint64
	for b.Loop() { // one run: three disks, 60 blocks, 1000 writes each, syncs and a crash
		for range 3 {
			d := NewDisk(testDiskSize)
			for i := range uint64(1000) {
				block := int64(i*7%60) * 193
				d.Fill(span(block*8, 8), i+1)
				out = d.Read(span(block*8, 8), out[:0])
				if i%50 == 0 {
					d.Sync()
				}
			}
			d.Crash(rng)
		}
	}
}
