package sim

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/store"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, d *MetaDev) []byte {
	t.Helper()
	n, err := d.Size()
	must(t, err)
	b := make([]byte, n)
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMetaDev_AgreesWithModel_ThroughWritesSyncsAndCrashes(t *testing.T) {
	const size = 5*metaPageSize + 700
	for seed := range uint64(100) {
		rng := testRand(seed)
		d := NewMetaDev()
		must(t, d.Truncate(size))
		must(t, d.Sync())
		cache, durable := make([]byte, size), make([]byte, size)
		var old, young int
		for step := range 60 {
			switch rng.IntN(10) {
			case 0:
				must(t, d.Sync())
				copy(durable, cache)
			case 1:
				d.Crash(rng)
				got := contents(t, d)
				for s := 0; s < size; s += SectorSize {
					end := min(s+SectorSize, size)
					isNew, isOld := bytes.Equal(got[s:end], cache[s:end]), bytes.Equal(got[s:end], durable[s:end])
					switch {
					case !isNew && !isOld:
						t.Fatalf("seed %d step %d: sector %d is neither old nor new", seed, step, s/SectorSize)
					case !isNew:
						old++
					case !isOld:
						young++
					}
				}
				copy(cache, got)
				copy(durable, got)
			default:
				off := rng.IntN(size)
				p := make([]byte, 1+rng.IntN(min(size-off, 9000)))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				if n, err := d.WriteAt(p, int64(off)); n != len(p) || err != nil {
					t.Fatalf("seed %d: write: %d, %v", seed, n, err)
				}
				copy(cache[off:], p)
			}
			if !bytes.Equal(contents(t, d), cache) {
				t.Fatalf("seed %d step %d: reads do not show what was written", seed, step)
			}
		}
		if old+young == 0 {
			t.Errorf("seed %d: no crash found anything unsynced", seed)
		}
	}
}

func TestMetaDev_ReadAtAndSeekData_KnowHolesAndTheEnd(t *testing.T) {
	d := NewMetaDev()
	must(t, d.Truncate(3*metaPageSize+10))
	_, err := d.WriteAt([]byte("abc"), 2*metaPageSize+5)
	must(t, err)
	p := []byte("xxxxxxxxxxxx")
	if n, err := d.ReadAt(p, 3*metaPageSize); n != 10 || err != io.EOF || !bytes.Equal(p, append(make([]byte, 10), "xx"...)) {
		t.Errorf("read over the end: %d, %v, %q", n, err, p)
	}
	if n, err := d.ReadAt(p[:3], 2*metaPageSize+5); n != 3 || err != nil || string(p[:3]) != "abc" {
		t.Errorf("read: %d, %v, %q", n, err, p[:3])
	}
	for _, c := range []struct{ from, want int64 }{{0, 2 * metaPageSize}, {2*metaPageSize + 100, 2*metaPageSize + 100}, {3 * metaPageSize, -1}} {
		got, err := d.SeekData(c.from)
		if err == io.EOF {
			got = -1
		} else {
			must(t, err)
		}
		if got != c.want {
			t.Errorf("data after %d: %d, not %d", c.from, got, c.want)
		}
	}
}

func TestMetaDev_Faults_LeaveWhatTheySay(t *testing.T) {
	d := NewMetaDev()
	must(t, d.Truncate(2*metaPageSize))
	_, err := d.WriteAt([]byte("old"), 0)
	must(t, err)
	must(t, d.Sync())

	d.NoRoom(true)
	_, err = d.WriteAt([]byte("new"), 0)
	must(t, err)
	n, err := d.WriteAt(bytes.Repeat([]byte("z"), 100), metaPageSize-50)
	if n != 50 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write into a hole of a full file system: %d, %v", n, err)
	}
	if err := d.Truncate(3 * metaPageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("growth of a full file system: %v", err)
	}
	d.NoRoom(false)

	d.FailWrites(syscall.EIO)
	if _, err := d.WriteAt([]byte("bad"), 0); err != syscall.EIO {
		t.Errorf("write: %v", err)
	}
	d.FailWrites(nil)

	d.FailSync(syscall.EIO)
	if err := d.Sync(); err != syscall.EIO {
		t.Errorf("sync: %v", err)
	}
	d.FailSync(nil)
	must(t, d.Sync()) // the retry that lies
	if got := contents(t, d); string(got[:3]) != "new" {
		t.Errorf("after a failed sync reads show %q", got[:3])
	}
	_, err = d.WriteAt([]byte("rewritten"), metaPageSize-50)
	must(t, err)
	must(t, d.Sync())
	kept := d.Clone()
	for seed := range uint64(20) { // whatever is drawn
		d.Crash(testRand(seed))
	}
	if got := contents(t, d); string(got[:3]) != "old" {
		t.Errorf("a crash after a failed sync left %q", got[:3])
	} else if got := got[metaPageSize-50:]; string(got[:9]) != "rewritten" {
		t.Errorf("what was written again after a failed sync is %q", got[:9])
	}
	kept.Crash(testRand(1))
	if got := contents(t, kept); string(got[:3]) != "new" {
		t.Errorf("the copy holds %q", got[:3])
	}
}

func TestMetaDev_Crash_MayTakeBackGrowth(t *testing.T) {
	seen := map[int64]bool{}
	for seed := range uint64(40) {
		d := NewMetaDev()
		must(t, d.Truncate(metaPageSize))
		must(t, d.Sync())
		must(t, d.Truncate(4*metaPageSize))
		_, err := d.WriteAt([]byte("x"), 3*metaPageSize)
		must(t, err)
		d.Crash(testRand(seed))
		n, _ := d.Size()
		seen[n] = true
		if n == metaPageSize { // and what was there is not there when it grows again
			must(t, d.Truncate(4*metaPageSize))
			if got := contents(t, d); got[3*metaPageSize] != 0 {
				t.Fatalf("seed %d: the lost part came back", seed)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("sizes after the crash: %v", seen)
	}
}

// The real metadata code stops after each of its changes in turn, and then the host crashes.
func TestMetaDev_UnderMetadata_AnySaveCutOffLeavesOldOrNew(t *testing.T) {
	fresh := NewMetaDev()
	must(t, store.FormatMetadata(fresh, store.Meta{
		Identity: store.Identity{Cluster: "c", Resource: "r", ResourceID: 1, Node: "n1", Instance: 7, Size: testDiskSize},
		Regions:  16, State: store.UpToDate, Boot: "b1",
	}))
	const first, second = 5, 6
	finished, seen := false, map[uint64]bool{}
	for n := 1; !finished; n++ {
		for seed := range uint64(8) {
			d := fresh.Clone()
			m, err := store.OpenMetadata(d, "b1")
			must(t, err)
			must(t, m.UpdateMeta(func(m *store.Meta) { m.Epoch = first }))
			d.StopAfter(n)
			err = m.UpdateMeta(func(m *store.Meta) { m.Epoch = second })
			if stopped := errors.Is(err, ErrStopped); !stopped {
				must(t, err)
				finished = true
			} else if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrStopped) {
				t.Fatalf("a read after the stop: %v", err)
			}
			d.StopAfter(-1)
			d.Crash(testRand(seed))
			again, err := store.OpenMetadata(d, "b2")
			must(t, err)
			got := again.Meta()
			seen[got.Epoch] = true
			if got.Epoch != first && got.Epoch != second || !got.Unclean {
				t.Fatalf("stopped after %d: epoch %d, unclean %v", n, got.Epoch, got.Unclean)
			}
			if finished && got.Epoch != second {
				t.Fatalf("a save that returned is gone: epoch %d", got.Epoch)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("epochs after the crash: %v", seen)
	}
}

func BenchmarkMetaDev_Metadata(b *testing.B) {
	fresh := NewMetaDev()
	if err := store.FormatMetadata(fresh, store.Meta{
		Identity: store.Identity{Cluster: "c", Resource: "r", ResourceID: 1, Node: "n1", Instance: 7, Size: testDiskSize},
		Regions:  16, State: store.UpToDate, Boot: "b1",
	}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d := fresh.Clone()
		m, err := store.OpenMetadata(d, "b1")
		if err != nil {
			b.Fatal(err)
		}
		for e := range uint64(10) {
			if err := m.UpdateMeta(func(m *store.Meta) { m.Epoch = e }); err != nil {
				b.Fatal(err)
			}
		}
	}
}
