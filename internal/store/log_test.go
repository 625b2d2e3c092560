package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/lockstep-ha/lockstep/bitmap"
)

type regions = []bitmap.RegionIndex

func TestSaveLog_IsFoundByTheNextOpen(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		r := made(t, dir)
		s := r.open(t)
		must(t, s.SaveLog(regions{1, 5, 70}))
		must(t, s.SaveLog(regions{1, 2, 5, 70}))
		must(t, s.Close(false))
		s = r.open(t)
		if active, clean := s.Recovered(); clean || !slices.Equal(active, regions{1, 2, 5, 70}) {
			t.Errorf("%v, clean %t", active, clean)
		}
		must(t, s.SaveLog(regions{2}))
		must(t, s.Close(true))
		if active, clean := r.open(t).Recovered(); !clean || !slices.Equal(active, regions{2}) {
			t.Errorf("after a clean stop: %v, clean %t", active, clean)
		}
	})
}

func TestSaveLog_DroppedRegionLingersUntilItsDataAndPagesAreStable(t *testing.T) {
	r := made(t, t.TempDir())
	s, data, _ := r.openFaulty(t)
	found := func() regions {
		tab, warn, err := loadTable(s.meta.dev, s.meta.lay, s.meta.instance)
		must(t, errors.Join(warn, err))
		return tab.suspects()
	}
	must(t, s.SaveLog(regions{3, 4}))
	must(t, s.SaveLog(regions{4}))
	if got := found(); !slices.Equal(got, regions{4}) {
		t.Errorf("nothing was written, yet the log says %v", got)
	}
	must(t, s.WriteAt([]byte{1}, 4*bitmap.RegionSize, false))
	must(t, s.SaveLog(nil))
	if got := found(); !slices.Equal(got, regions{4}) || data.syncs != 1 {
		t.Errorf("unstable data dropped: %v, %d syncs", got, data.syncs)
	}
	must(t, s.SaveLog(nil))
	if got := found(); len(got) != 0 || data.syncs != 1 {
		t.Errorf("after the sync: %v, %d syncs", got, data.syncs)
	}
	must(t, s.SaveLog(regions{7}))
	must(t, s.SaveBitmapPages(0, []PageImage{{Index: 0, Bits: bytes.Repeat([]byte{1}, bitmap.PageSize)}}))
	must(t, s.SaveLog(nil))
	if got := found(); !slices.Equal(got, regions{7}) {
		t.Errorf("dropped with its page: %v", got)
	}
	must(t, s.Close(true))
	if active, _ := r.open(t).Recovered(); len(active) != 0 {
		t.Errorf("a clean stop left %v lingering", active)
	}
}

func TestSaveLog_RestartForgetsNoLingeringRegion(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	must(t, s.SaveLog(regions{4}))
	must(t, s.WriteAt([]byte{1}, 4*bitmap.RegionSize, false))
	must(t, s.SaveLog(nil))
	must(t, s.Close(false))
	s, data, _ := r.openFaulty(t)
	if active, _ := s.Recovered(); !slices.Equal(active, regions{4}) {
		t.Fatalf("recovered %v", active)
	}
	must(t, s.SaveLog(nil))
	tab, _, err := loadTable(s.meta.dev, s.meta.lay, s.meta.instance)
	if err != nil || !slices.Equal(tab.suspects(), regions{4}) || data.syncs != 1 {
		t.Errorf("log %v, %d syncs of what the killed process wrote; %v", tab, data.syncs, err)
	}
}

func TestSaveLog_AfterAStartWithMoreThanItHolds(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	many := make(regions, s.meta.lay.maxEntries())
	for i := range many {
		many[i] = bitmap.RegionIndex(i)
	}
	must(t, s.SaveLog(many))
	must(t, s.Close(false))
	s = r.open(t)
	must(t, s.SaveLog(regions{1000}))
	must(t, s.Close(false))
	if active, _ := r.open(t).Recovered(); !slices.Equal(active, regions{1000}) {
		t.Errorf("%v", active)
	}
}

func TestLogTable_TornAtAnyByteLeavesTheOlderOne(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	must(t, s.SaveLog(regions{9}))
	must(t, s.SaveLog(regions{1, 2, 3, 4, 5, 9}))
	size, slot := int(s.meta.lay.tableSize()), (s.meta.log.seq+1)%2
	was := contents(t, r.MetaPath, s.meta.lay.tableOff(slot), size)
	other := contents(t, r.MetaPath, s.meta.lay.tableOff(1-slot), size)
	must(t, s.SaveLog(regions{1, 2, 3, 9, 10, 11, 12, 13, 14}))
	now := contents(t, r.MetaPath, s.meta.lay.tableOff(slot), size)
	if bytes.Equal(was, now) {
		t.Fatal("the newer table went over the newest one")
	}
	tornSlots(was, now, func(cut int, b []byte) {
		image := make([]byte, s.meta.lay.bitmapOff())
		copy(image[s.meta.lay.tableOff(slot):], b)
		copy(image[s.meta.lay.tableOff(1-slot):], other)
		got, warn, err := loadTable(fileDevice{memFile{b: image}}, s.meta.lay, s.meta.instance)
		if err != nil || !slices.Equal(got.suspects(), regions{1, 2, 3, 4, 5, 9}) || warn == nil && !bytes.Equal(b, was) {
			t.Fatalf("cut at %d: %v, %v, %v", cut, got, warn, err)
		}
	})
}

const crashSize = bitmap.PageSpan + 32<<20 // two pages, 40 regions, in a log of 7

// crashFile remembers what the disk is sure to hold, and what was written since.
type crashFile struct {
	file
	m       *crashModel
	durable []byte
	pending []pendingWrite
}

type pendingWrite struct {
	off int64
	p   []byte
}

func (f *crashFile) pwrite(p []byte, off int64, dsync bool) (int, error) {
	f.m.mu.Lock()
	f.pending = append(f.pending, pendingWrite{off, bytes.Clone(p)})
	f.m.mu.Unlock()
	return f.file.pwrite(p, off, dsync)
}

func (f *crashFile) datasync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.crash(f, 2)
	for _, w := range f.pending {
		copy(f.durable[w.off:], w.p)
	}
	f.pending = nil
	f.m.crash(f, 1)
	return nil
}

// image returns what a crash now may leave: of the pending writes any 512-byte sector may have
// reached the disk, or not.
func (f *crashFile) image(rng *rand.Rand) []byte {
	b := bytes.Clone(f.durable)
	keep := rng.IntN(4) // 0: none, 3: all
	for _, w := range f.pending {
		for at := 0; at < len(w.p); at += 512 {
			if keep == 3 || keep > 0 && rng.IntN(2) == 0 {
				copy(b[w.off+int64(at):], w.p[at:min(at+512, len(w.p))])
			}
		}
	}
	return b
}

// crashData is the backing: it only has to say when it was made stable.
type crashData struct {
	file
	m *crashModel
}

func (f *crashData) datasync() error {
	f.m.mu.Lock()
	f.m.crash(f.m.meta, 2)
	f.m.unstable.Reset()
	f.m.mu.Unlock()
	return nil
}

// crashModel holds what must not be forgotten: blocks that a peer lacks (bits in memory, slot 2),
// and blocks written here and not stable yet.
type crashModel struct {
	mu       sync.Mutex
	t        *rapid.T
	rng      *rand.Rand
	s        *Store
	meta     *crashFile
	lacking  *bitmap.Bitmap
	unstable *bitmap.Bitmap
}

// crash opens what a crash at this moment may leave, some times over, and checks that nothing that
// matters is forgotten. It is called with mu held.
func (m *crashModel) crash(f *crashFile, times int) {
	if m.s == nil {
		return
	}
	for range times {
		image := fileDevice{memFile{b: f.image(m.rng)}}
		tab, _, err := loadTable(image, m.s.meta.lay, m.s.meta.instance)
		if err != nil {
			m.t.Fatalf("no log after a crash: %v", err)
		}
		known, _, _, err := loadBitmap(image, m.s.meta.lay, crashSize, 2, m.s.meta.instance)
		if err != nil {
			m.t.Fatal(err)
		}
		suspects := bitmap.New(crashSize)
		for _, r := range tab.suspects() {
			suspects.Mark(r.Extent())
		}
		lost := m.unstable.Clone()
		lost.AndNot(suspects)
		missed := m.lacking.Clone()
		known.Or(suspects)
		missed.AndNot(known)
		if !lost.Empty() || !missed.Empty() {
			a, _ := lost.NextRun(0, 1<<20)
			b, _ := missed.NextRun(0, 1<<20)
			m.t.Fatalf("after a crash %v may be lost unnoticed, %v stays different; log %v", a, b, tab)
		}
	}
}

func TestCrash_EveryBlockThatMayDifferIsInTheLogOrInTheBitmap(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-store-") // real syncs would only take time
	need(t, err == nil, "a tmpfs at /dev/shm")
	t.Cleanup(func() { os.RemoveAll(dir) })
	rapid.Check(t, func(t *rapid.T) {
		r := replicaIn(dir)
		os.Remove(r.DataPath)
		os.Remove(r.MetaPath)
		r.Regions, r.Size = bitmap.MinRegions, crashSize
		if _, err := Create(r.CreateOptions); err != nil {
			t.Fatal(err)
		}
		m := &crashModel{t: t, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
			lacking: bitmap.New(crashSize), unstable: bitmap.New(crashSize)}
		o := r.options()
		o.wrap = func(name string, f file) file {
			if name == "data" {
				return &crashData{f, m}
			}
			size, _ := f.seek(0, unix.SEEK_END)
			m.meta = &crashFile{file: f, m: m, durable: make([]byte, size)}
			if err := readFull(f, m.meta.durable, 0); err != nil {
				t.Fatal(err)
			}
			return m.meta
		}
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(false)
		m.mu.Lock()
		m.s = s
		m.mu.Unlock()
		m.run(t, s)
	})
}

// run drives a log and its store as a replica does.
func (m *crashModel) run(t *rapid.T, s *Store) {
	l := bitmap.NewLog(bitmap.MinRegions)
	l.SetWatermark(1<<64 - 1)
	write := func(e bitmap.Extent) {
		m.mu.Lock()
		m.unstable.Mark(e)
		if rapid.Bool().Draw(t, "peer away") {
			m.lacking.Mark(e)
		}
		m.mu.Unlock()
		if err := s.WriteAt(make([]byte, e.Len), e.Off, false); err != nil {
			t.Fatal(err)
		}
		l.End(e, 1)
	}
	transact := func() {
		tx, ok := l.NextTx()
		if !ok {
			return
		}
		for _, r := range tx.Evicted {
			m.mu.Lock()
			p := PageImage{r.Page(), m.lacking.Page(r.Page())}
			m.mu.Unlock()
			if err := s.SaveBitmapPages(2, []PageImage{p}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SaveLog(tx.Active); err != nil {
			t.Fatal(err)
		}
		l.Committed(tx.Gen)
	}
	t.Repeat(map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			e := bitmap.Extent{Off: rapid.Int64Range(0, crashSize/bitmap.BlockSize-1).Draw(t, "block") * bitmap.BlockSize, Len: 4096}
			adm, _ := l.Begin(e)
			if adm == bitmap.Staged {
				transact()
			}
			if adm != bitmap.Full {
				write(e)
			}
		},
		"evict": func(*rapid.T) { l.EvictIdle(); transact() },
		"sync": func(t *rapid.T) {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		},
		"": func(*rapid.T) {
			m.mu.Lock()
			m.crash(m.meta, 1)
			m.mu.Unlock()
		},
	})
}

func TestLoadBitmap_BadHalfPagesAreAllDirty(t *testing.T) {
	const half = bitmap.PageSpan / 2
	good := bitmap.New(testSize)
	good.Mark(bitmap.Extent{Off: 4096, Len: 8192})
	good.Mark(bitmap.Extent{Off: bitmap.PageSpan + 100, Len: 1})
	good.Mark(bitmap.Extent{Off: testSize - 1, Len: 1})
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, path string, l layout)
		dirty []bitmap.Extent
		bad   int
	}{
		{"nothing", func(*testing.T, string, layout) {}, nil, 0},
		{"a bit of the second half of page 0", func(t *testing.T, path string, l layout) {
			patch(t, path, l.pageOff(0, 3)+diskBlock+headerSize+7, []byte{1})
		}, []bitmap.Extent{{Off: half, Len: half}}, 1},
		{"one blank half", func(t *testing.T, path string, l layout) {
			patch(t, path, l.pageOff(1, 3), make([]byte, diskBlock))
		}, []bitmap.Extent{{Off: 2 * half, Len: half}}, 1},
		{"the page of another slot", func(t *testing.T, path string, l layout) {
			patch(t, path, l.pageOff(2, 3), contents(t, path, l.pageOff(2, 4), pageStride))
		}, []bitmap.Extent{{Off: 4 * half, Len: testSize - 4*half}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := made(t, t.TempDir())
			s := r.open(t)
			for _, slot := range []int{3, 4} {
				must(t, s.SaveBitmap(slot, good))
			}
			must(t, s.Close(false))
			c.spoil(t, r.MetaPath, s.meta.lay)
			s = r.open(t)
			want := good.Clone()
			for _, e := range c.dirty {
				want.Mark(e)
			}
			got, bad, err := s.LoadBitmap(3)
			must(t, err)
			if bad != c.bad || !sameBits(got, want) || (len(s.Warnings()) > 0) != (bad > 0) {
				t.Errorf("%d bad, %d dirty bytes, want %d; warnings %v", bad, got.Bytes(), want.Bytes(), s.Warnings())
			}
			other, bad, err := s.LoadBitmap(4)
			if err != nil || bad != 0 || !sameBits(other, good) {
				t.Errorf("slot 4: %d bad, %v", bad, err)
			}
		})
	}
}

func sameBits(a, b *bitmap.Bitmap) bool {
	c, d := a.Clone(), b.Clone()
	c.AndNot(b)
	d.AndNot(a)
	return c.Empty() && d.Empty()
}

func TestSaveBitmap_ReplacesWhatWasStored(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		r := made(t, dir)
		s := r.open(t)
		m := bitmap.New(testSize)
		m.Mark(bitmap.Extent{Off: 0, Len: testSize})
		must(t, s.SaveBitmap(0, m))
		m.Clear(bitmap.Extent{Off: 0, Len: bitmap.PageSpan + 4096})
		must(t, s.SaveBitmap(0, m))
		must(t, s.SyncMeta())
		must(t, s.Close(false))
		s = r.open(t)
		got, bad, err := s.LoadBitmap(0)
		if err != nil || bad != 0 || !sameBits(got, m) {
			t.Errorf("%d dirty bytes, want %d; %d bad, %v", got.Bytes(), m.Bytes(), bad, err)
		}
		if empty, _, err := s.LoadBitmap(1); err != nil || !empty.Empty() {
			t.Errorf("slot 1: %d dirty bytes, %v", empty.Bytes(), err)
		}
	})
}

func FuzzDecodeTable(f *testing.F) {
	f.Add(encodeTable(table{seq: 2, active: regions{1, 2}, linger: regions{0}}, 5), uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seq uint64) {
		decodeTable(b, seq%2, 5)
		if len(b) < headerSize {
			return
		}
		words := [6]uint32{binary.BigEndian.Uint32(b[40:]), binary.BigEndian.Uint32(b[44:])}
		seal(b, tableMagic, header{seq: seq, instance: 5, words: words})
		got, err := decodeTable(b, seq%2, 5)
		if err != nil {
			return
		}
		if again := encodeTable(got, 5); !bytes.Equal(again[:len(b)], b) {
			t.Fatalf("%x came back as %x", b, again)
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	b := make([]byte, pageStride)
	encodePage(b, PageImage{Index: 1, Bits: bytes.Repeat([]byte{3}, bitmap.PageSize)}, 2, 9, 5)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, in []byte, sealed bool) {
		b := make([]byte, pageStride)
		copy(b, in)
		if sealed {
			encodePage(b, PageImage{Index: 1, Bits: bytes.Clone(b[:bitmap.PageSize])}, 2, 9, 5)
		}
		m := bitmap.New(bitmap.PageSpan + 5000*bitmap.BlockSize)
		bad, why := decodePage(m, b, 1, 2, 5)
		if (bad > 0) != (why != nil) || bad > 0 && m.Empty() || m.Any(bitmap.Extent{Len: bitmap.PageSpan}) {
			t.Fatalf("%d bad, %v, %d dirty blocks", bad, why, m.Blocks())
		}
	})
}
