package bitmap

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the bitmap written naively: one bool a block.
type model struct {
	size  int64
	dirty []bool
}

func (m *model) blockLen(i int) int64 { return min(BlockSize, m.size-int64(i)*BlockSize) }

func (m *model) extentOf(i int) Extent { return Extent{int64(i) * BlockSize, m.blockLen(i)} }

func (m *model) each(e Extent, f func(i int)) {
	for i := range m.dirty {
		if m.extentOf(i).Overlaps(e) {
			f(i)
		}
	}
}

func (m *model) resize(n int64) {
	m.size = n
	for int64(len(m.dirty))*BlockSize < n {
		m.dirty = append(m.dirty, false)
	}
}

func (m *model) bitmap() *Bitmap {
	b := New(m.size)
	for i, d := range m.dirty {
		if d {
			b.Mark(m.extentOf(i))
		}
	}
	return b
}

// drawExtent favours whole pages and the ends of the device, where the cases are.
func drawExtent(t *rapid.T, size int64) Extent {
	edge := func(name string) int64 {
		at := rapid.Int64Range(0, size).Draw(t, name)
		switch rapid.IntRange(0, 4).Draw(t, name+" kind") {
		case 0:
			return at &^ (BlockSize - 1)
		case 1:
			return at &^ (PageSpan - 1)
		case 2:
			return size
		}
		return at
	}
	a, b := edge("a"), edge("b")
	if a > b {
		a, b = b, a
	}
	if rapid.Bool().Draw(t, "short") {
		b = min(b, a+rapid.Int64Range(0, 3*BlockSize).Draw(t, "len"))
	}
	return Extent{a, b - a}
}

func check(t *rapid.T, b *Bitmap, m *model) {
	var blocks, byteCount int64
	for i, d := range m.dirty {
		if d != b.isSet(int64(i)) {
			t.Fatalf("block %d: %t, want %t", i, !d, d)
		}
		if d {
			blocks++
			byteCount += m.blockLen(i)
		}
	}
	if b.Blocks() != blocks || b.Bytes() != byteCount || b.Empty() != (blocks == 0) {
		t.Fatalf("%d blocks, %d bytes, empty %t; want %d blocks, %d bytes", b.Blocks(), b.Bytes(), b.Empty(), blocks, byteCount)
	}
	for i, p := range b.pages {
		if p == nil {
			continue
		}
		if n := countBits(p); n != p.dirty || n == 0 || (n == PageBlocks) != (p == allDirty) {
			t.Fatalf("page %d holds %d bits, says %d", i, n, p.dirty)
		}
	}
	if n := countBits(allDirty); n != PageBlocks {
		t.Fatalf("the shared page was written: %d bits", n)
	}
}

func countBits(p *page) int {
	n := 0
	for i := range PageBlocks {
		n += int(p.words[i/64] >> (i % 64) & 1)
	}
	return n
}

func TestBitmap_BehavesLikeOneBoolABlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 2*PageSpan+5*BlockSize).Draw(t, "size")
		b, m := New(size), &model{}
		m.resize(size)
		t.Repeat(map[string]func(*rapid.T){
			"mark": func(t *rapid.T) {
				e := drawExtent(t, m.size)
				var want int64
				m.each(e, func(i int) {
					if !m.dirty[i] {
						want++
					}
					m.dirty[i] = true
				})
				if got := b.Mark(e); got != want {
					t.Fatalf("Mark(%v) = %d, want %d", e, got, want)
				}
			},
			"clear": func(t *rapid.T) {
				e := drawExtent(t, m.size)
				var want int64
				m.each(e, func(i int) {
					if e.Contains(m.extentOf(i)) {
						if m.dirty[i] {
							want++
						}
						m.dirty[i] = false
					}
				})
				if got := b.Clear(e); got != want {
					t.Fatalf("Clear(%v) = %d, want %d", e, got, want)
				}
			},
			"any and all": func(t *rapid.T) {
				e := drawExtent(t, m.size)
				anyDirty, allSet := false, true
				m.each(e, func(i int) { anyDirty, allSet = anyDirty || m.dirty[i], allSet && m.dirty[i] })
				if b.Any(e) != anyDirty || b.All(e) != allSet {
					t.Fatalf("%v: any %t, all %t; want %t, %t", e, b.Any(e), b.All(e), anyDirty, allSet)
				}
			},
			"run": func(t *rapid.T) { checkRun(t, b, m) },
			"grow": func(t *rapid.T) {
				m.resize(m.size + rapid.Int64Range(0, 3*BlockSize).Draw(t, "more"))
				b.Resize(m.size)
			},
			"reset": func(*rapid.T) { b.Reset(); clear(m.dirty) },
			"":      func(t *rapid.T) { check(t, b, m) },
		})
	})
}

func checkRun(t *rapid.T, b *Bitmap, m *model) {
	from := rapid.Int64Range(0, m.size+BlockSize).Draw(t, "from")
	maxBlocks := rapid.Int64Range(1, 300).Draw(t, "max")
	first := int(from / BlockSize)
	for first < len(m.dirty) && !m.dirty[first] {
		first++
	}
	e, ok := b.NextRun(from, maxBlocks*BlockSize)
	if ok != (first < len(m.dirty)) {
		t.Fatalf("NextRun(%d): %v %t, want block %d of %d", from, e, ok, first, len(m.dirty))
	}
	if !ok {
		return
	}
	end := first
	for end < len(m.dirty) && m.dirty[end] && int64(end-first) < maxBlocks {
		end++
	}
	if want := (Extent{int64(first) * BlockSize, int64(end-first) * BlockSize}).Clip(m.size); e != want {
		t.Fatalf("NextRun(%d, %d) = %v, want %v", from, maxBlocks*BlockSize, e, want)
	}
}

// drawPair returns two bitmaps of sizes that may differ, the second not larger.
func drawBitmap(t *rapid.T, size int64) (*Bitmap, *model) {
	m := &model{}
	m.resize(size)
	for range rapid.IntRange(0, 6).Draw(t, "extents") {
		m.each(drawExtent(t, size), func(i int) { m.dirty[i] = true })
	}
	return m.bitmap(), m
}

func TestOrAndNot_AreSetOperations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 2*PageSpan).Draw(t, "size")
		a, ma := drawBitmap(t, size)
		b, mb := drawBitmap(t, size)
		c := a.Clone()
		c.Or(b)
		mc := &model{size: size, dirty: slices.Clone(ma.dirty)}
		for i, d := range mb.dirty {
			mc.dirty[i] = mc.dirty[i] || d
		}
		check(t, c, mc)
		check(t, a, ma)
		c.AndNot(b)
		for i, d := range mb.dirty {
			mc.dirty[i] = ma.dirty[i] && !d
		}
		check(t, c, mc)
		check(t, b, mb)
	})
}

func TestPagesAndRuns_CarryEveryBlockAcross(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 3*PageSpan).Draw(t, "size")
		b, m := drawBitmap(t, size)
		byPage, byRuns := New(size), New(size)
		for i := range b.DirtyPages() {
			if err := byPage.SetPage(i, b.Page(i)); err != nil {
				t.Fatal(err)
			}
		}
		check(t, byPage, m)
		maxBytes := rapid.IntRange(MinRunBytes, 100).Draw(t, "bytes")
		for from := int64(0); from >= 0; {
			runs, next := b.AppendRuns([]byte("x"), from, maxBytes)
			if len(runs)-1 > maxBytes || next >= 0 && next <= from && from > 0 {
				t.Fatalf("%d bytes of code, limit %d; from %d next %d", len(runs)-1, maxBytes, from, next)
			}
			if err := byRuns.MarkRuns(runs[1:]); err != nil {
				t.Fatal(err)
			}
			from = next
		}
		check(t, byRuns, m)
	})
}

func TestMarkRuns_RefusesWhatAppendRunsWouldNotWrite(t *testing.T) {
	for _, c := range []struct {
		name string
		runs []byte
	}{
		{"run of no blocks", []byte{1, 0}},
		{"runs that touch", []byte{0, 1, 0, 1}},
		{"skip beyond the device", []byte{11, 1}},
		{"run beyond the device", []byte{9, 2}},
		{"pair cut short", []byte{1}},
		{"overlong skip", []byte{0x81, 0, 1}},
		{"overlong run", []byte{1, 0x81, 0}},
		{"number over 64 bits", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1}},
		{"sum over 64 bits", []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
		{"fault after a good pair", []byte{0, 1, 3, 0}},
	} {
		b := New(10 * BlockSize)
		if err := b.MarkRuns(c.runs); !errors.Is(err, ErrRuns) || !b.Empty() {
			t.Errorf("%s: error %v, %d blocks marked", c.name, err, b.Blocks())
		}
	}
}

func TestSetPage_RefusesWhatPageWouldNotReturn(t *testing.T) {
	b := New(PageSpan + 3*BlockSize + 1)
	b.Mark(Extent{PageSpan, BlockSize})
	ones := bytes.Repeat([]byte{0xff}, PageSize)
	beyond := make([]byte, PageSize)
	beyond[0] = 1 << 4
	for name, err := range map[string]error{
		"index below":       b.SetPage(-1, ones),
		"index above":       b.SetPage(2, ones),
		"short":             b.SetPage(0, ones[1:]),
		"all bits beyond":   b.SetPage(1, ones),
		"first beyond":      b.SetPage(1, beyond),
		"last bit of page":  b.SetPage(1, append(make([]byte, PageSize-1), 0x80)),
		"second word of it": b.SetPage(1, append(make([]byte, 8), ones[8:]...)),
	} {
		if !errors.Is(err, ErrPage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.Blocks() != 1 {
		t.Errorf("a refused page changed the bitmap: %d blocks", b.Blocks())
	}
	if err := b.SetPage(0, ones); err != nil || b.Blocks() != PageBlocks+1 {
		t.Errorf("full page: %v, %d blocks", err, b.Blocks())
	}
	if err := b.SetPage(0, nil); err != nil || b.Blocks() != 1 {
		t.Errorf("clean page: %v, %d blocks", err, b.Blocks())
	}
}

func TestBitmap_PanicsOnBrokenCallers(t *testing.T) {
	b := New(10 * BlockSize)
	for name, f := range map[string]func(){
		"negative offset": func() { b.Mark(Extent{-1, 2}) },
		"negative length": func() { b.Clear(Extent{0, -1}) },
		"shrink":          func() { b.Resize(BlockSize) },
		"or of larger":    func() { b.Or(New(11 * BlockSize)) },
		"and-not of less": func() { b.AndNot(New(9 * BlockSize)) },
		"tiny code":       func() { b.AppendRuns(nil, 0, MinRunBytes-1) },
		"too large":       func() { New(MaxSize + 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestMark_OfAllOf16TiBHoldsNoPages(t *testing.T) {
	const size = 16 << 40
	b := New(size)
	if got := b.Mark(Extent{0, size}); got != size/BlockSize || b.Bytes() != size {
		t.Fatalf("%d blocks", got)
	}
	runs, next := b.AppendRuns(nil, 0, MinRunBytes)
	if next != -1 || len(runs) > MinRunBytes {
		t.Errorf("%d bytes of code, next %d", len(runs), next)
	}
	for i, p := range b.pages {
		if p != allDirty {
			t.Fatalf("page %d has memory of its own", i)
		}
	}
}

func TestMark_DoesNotAllocateWhenThePageExists(t *testing.T) {
	b := New(1 << 30)
	b.Mark(Extent{0, 1})
	at := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		at = (at + 7*BlockSize) % (PageSpan / 2)
		b.Mark(Extent{at, 64 << 10})
		b.Clear(Extent{at, 64 << 10})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMarkRuns(f *testing.F) {
	f.Add([]byte{0, 1}, int64(1))
	f.Add([]byte{3, 5, 0x80, 1, 0xff, 0xff, 0xff, 0x7f}, int64(PageSpan+7))
	f.Fuzz(func(t *testing.T, runs []byte, size int64) {
		b := New(size & (1<<36 - 1))
		if err := b.MarkRuns(runs); err != nil {
			if !b.Empty() || !errors.Is(err, ErrRuns) {
				t.Fatalf("refused with %v, yet %d blocks marked", err, b.Blocks())
			}
			return
		}
		if again, next := b.AppendRuns(nil, 0, len(runs)+MinRunBytes); next != -1 || !bytes.Equal(again, runs) {
			t.Fatalf("%x came back as %x, next %d", runs, again, next)
		}
	})
}

func FuzzSetPage(f *testing.F) {
	f.Add(make([]byte, PageSize), int64(1), 0)
	f.Fuzz(func(t *testing.T, data []byte, size int64, i int) {
		b := New(size & (1<<32 - 1))
		if b.SetPage(i, data) != nil {
			if !b.Empty() {
				t.Fatal("a refused page was set")
			}
			return
		}
		if got := b.Page(i); got != nil && !bytes.Equal(got, data) {
			t.Fatal("page came back changed")
		}
	})
}

func BenchmarkMark(b *testing.B) {
	m := New(16 << 40)
	m.Mark(Extent{0, 16 << 40})
	m.Clear(Extent{0, 1 << 40})
	m.Mark(Extent{0, 1})
	b.ReportAllocs()
	for i := range b.N {
		m.Mark(Extent{int64(i) % 30000 * BlockSize, BlockSize})
		m.Clear(Extent{int64(i) % 30000 * BlockSize, BlockSize})
	}
}

func BenchmarkNextRun_EmptyDevice16TiB(b *testing.B) {
	m := New(16 << 40)
	m.Mark(Extent{16<<40 - 1, 1})
	for range b.N {
		m.NextRun(0, 1<<20)
	}
}
