package store

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
)

const (
	crashSlot = 2                           // of the bitmap that is kept
	grownSize = crashSize + bitmap.PageSpan // after the resize: three pages
)

// metaOf returns what the script stores with an epoch: every field says it, and they fill more than
// one sector, so that a mixture of two superblocks shows.
func metaOf(m *Meta, epoch uint64) {
	m.Epoch, m.LedgerVersion = epoch, epoch
	m.Lineage = slices.Repeat([]uint64{epoch}, 60)
	m.Peers = []PeerSlot{{}, {}, {Node: "b", Instance: 5, LastSession: epoch}}
}

// formatted returns the image of a new replica's metadata.
func formatted() (diskImage, error) {
	m := Meta{Identity: Identity{Resource: "r0", Instance: 7, Size: crashSize}, Regions: bitmap.MinRegions, State: UpToDate, Boot: "boot-0"}
	metaOf(&m, 1)
	d := newMemDevice(diskImage{blocks: map[int64]*[diskBlock]byte{}})
	err := FormatMetadata(d, m)
	return d.durable, err
}

// script is a replica at work on metadata: what it has been promised, and what it must find again.
type script struct {
	dev       *memDevice
	m         *Metadata
	dataFirst bool // data is synced before metadata, not after it

	epoch, epochTried uint64
	size, sizeTried   int64
	mayBeClean        bool           // a clean stop may be recorded
	lacking           *bitmap.Bitmap // blocks that the peer lacks
	unstable          *bitmap.Bitmap // blocks written and not synced
	err               error          // the first; what follows is not done
}

// newScript starts a process on dev.
func newScript(dev *memDevice, dataFirst bool) *script {
	s := &script{dev: dev, dataFirst: dataFirst, epoch: 1, epochTried: 1, size: crashSize, sizeTried: crashSize, mayBeClean: true,
		lacking: bitmap.New(grownSize), unstable: bitmap.New(grownSize)}
	s.open()
	return s
}

// next returns the script of another process, on a device in the same state.
func (s *script) next(operations int) *script {
	n := *s
	n.dev, n.err = s.dev.again(operations), nil
	n.lacking, n.unstable = s.lacking.Clone(), s.unstable.Clone()
	n.open()
	return &n
}

func (s *script) open() {
	s.m, s.err = OpenMetadata(s.dev, "boot-1")
	if s.err != nil {
		return
	}
	s.mayBeClean = false
	if s.dataFirst {
		s.m.together = func(a, b func() error) error { return inTurn(b, a) }
	}
}

func (s *script) do(f func() error) {
	if s.err == nil {
		s.err = f()
	}
}

func (s *script) update(epoch uint64) {
	s.do(func() error {
		s.epochTried = epoch
		err := s.m.UpdateMeta(func(m *Meta) { metaOf(m, epoch) })
		if err == nil {
			s.epoch = epoch
		}
		return err
	})
}

func (s *script) write(r bitmap.RegionIndex, peerAway bool) {
	s.do(func() error {
		e := bitmap.Extent{Off: r.Extent().Off + 5*bitmap.BlockSize, Len: bitmap.BlockSize}
		s.unstable.Mark(e)
		if peerAway {
			s.lacking.Mark(e)
		}
		return nil
	})
}

func (s *script) flush() error {
	if s.dev.stopped() {
		return errStopped
	}
	s.unstable.Reset()
	return nil
}

func (s *script) log(active ...bitmap.RegionIndex) {
	s.do(func() error {
		if s.unstable.Empty() {
			return s.m.SaveLog(active, nil)
		}
		return s.m.SaveLog(active, s.flush)
	})
}

func (s *script) page(i int) {
	s.do(func() error { return s.m.SaveBitmapPages(crashSlot, []PageImage{{Index: i, Bits: s.lacking.Page(i)}}) })
}

func (s *script) resize() {
	s.do(func() error {
		s.sizeTried = grownSize
		err := s.m.Resize(grownSize)
		if err == nil {
			s.size = grownSize
		}
		return err
	})
}

func (s *script) stop() {
	s.do(s.flush)
	s.do(func() error {
		s.mayBeClean = true
		return s.m.MarkClean(1)
	})
}

// run does everything that metadata is for. Regions up to 31 stand in page 0, up to 63 in page 1.
func (s *script) run() {
	s.update(2)
	s.log(1, 2)
	s.write(1, true)
	s.write(2, false)
	s.log(1, 2, 3)
	s.write(3, true)
	s.page(0)
	s.log(2, 3)
	s.log(2, 3, 33)
	s.write(33, true)
	s.update(3)
	s.page(0)
	s.page(1)
	s.log(33)
	s.log(33, 34, 35, 36, 37, 38, 39)
	s.write(33, true)
	s.page(1)
	s.log()
	s.log()
	s.log(4)
	s.write(4, true)
	s.page(0)
	s.resize()
	s.log(4, 64)
	s.write(64, true)
	s.page(2)
	s.update(4)
	s.log()
	s.page(0)
	s.do(s.m.SyncMeta)
	s.log(5)
	s.write(5, false)
	s.stop()
}

// check compares what an open finds with what must be found.
func (s *script) check(m *Metadata) error {
	meta := m.Meta()
	want := meta.Clone()
	metaOf(&want, meta.Epoch)
	switch {
	case meta.Epoch != s.epoch && meta.Epoch != s.epochTried:
		return fmt.Errorf("epoch %d, not %d or %d", meta.Epoch, s.epoch, s.epochTried)
	case !slices.Equal(meta.Lineage, want.Lineage) || !slices.Equal(meta.Peers, want.Peers) || meta.LedgerVersion != meta.Epoch:
		return fmt.Errorf("a mixture of two superblocks: %+v", meta)
	case meta.Size != s.size && meta.Size != s.sizeTried:
		return fmt.Errorf("size %d, not %d or %d", meta.Size, s.size, s.sizeTried)
	}
	active, clean := m.Recovered()
	if clean && !s.mayBeClean {
		return errors.New("a clean stop that there was not")
	}
	suspects := bitmap.New(grownSize)
	for _, r := range active {
		suspects.Mark(r.Extent())
	}
	known, _, err := m.LoadBitmap(crashSlot)
	if err != nil {
		return err
	}
	known.Resize(grownSize)
	known.Or(suspects)
	lost, missed := s.unstable.Clone(), s.lacking.Clone()
	lost.AndNot(suspects)
	missed.AndNot(known)
	if !lost.Empty() || !missed.Empty() {
		return fmt.Errorf("%d bytes may be lost unnoticed, %d stay different; log %v", lost.Bytes(), missed.Bytes(), active)
	}
	return nil
}

// hostCrash checks everything that a crash of the host may leave now.
func (s *script) hostCrash() error {
	return s.dev.images(true, func(d diskImage) error {
		m, err := OpenMetadata(newMemDevice(d), "boot-2")
		if err == nil {
			err = s.check(m)
		}
		if err == nil && !m.wasClean && !m.Meta().Unclean {
			err = errors.New("a new boot after an unclean stop is not unclean")
		}
		return err
	})
}

// killedAtStart kills the first process of the next boot after so many operations, and checks what
// the one after it finds.
func (s *script) killedAtStart(operations int) error {
	return s.dev.images(false, func(d diskImage) error {
		dev := newMemDevice(d)
		first, err := loadMetadata(dev)
		if err != nil {
			return err
		}
		killed := dev.again(operations)
		OpenMetadata(killed, "boot-2")
		m, err := OpenMetadata(killed.again(math.MaxInt), "boot-2")
		if err == nil {
			err = s.check(m)
		}
		if err == nil && !first.wasClean && !m.Meta().Unclean {
			err = errors.New("the unclean mark was lost when the process was killed")
		}
		return err
	})
}

// kill checks what a process finds that takes over from a killed one, and what it leaves when the
// host crashes after so many of its own operations.
func (s *script) kill(operations int) error {
	n := s.next(math.MaxInt)
	if n.err != nil {
		return n.err
	}
	if n.m.Meta().Unclean {
		return errors.New("unclean in the boot of the killed process")
	}
	if err := s.check(n.m); err != nil {
		return err
	}
	n = s.next(operations)
	if n.err == nil {
		n.epoch = n.m.Meta().Epoch
		n.update(n.epoch + 1)
		active, _ := n.m.Recovered()
		n.log(active...)
		n.log(append(active, 66)...)
	}
	return n.hostCrash()
}

// crashEverywhere stops a script before each of its operations, by a crash of the host and, if kills
// says so, by a kill; it returns the first thing that is wrong then.
func crashEverywhere(dataFirst, kills bool) error {
	image, err := formatted()
	if err != nil {
		return err
	}
	for at := 0; ; at++ {
		dev := newMemDevice(image)
		dev.left = at
		s := newScript(dev, dataFirst)
		if s.err == nil {
			s.run()
		}
		err := s.hostCrash()
		for n := 0; n < 5 && err == nil && kills; n++ {
			err = s.killedAtStart(n)
		}
		for n := 0; n < 8 && err == nil && kills; n++ {
			err = s.kill(n)
		}
		if err != nil {
			return fmt.Errorf("crash before operation %d: %w", at, err)
		}
		if s.err == nil {
			return nil
		}
	}
}

func TestMetadata_CrashAtEveryOperation_NothingPromisedIsForgotten(t *testing.T) {
	must(t, crashEverywhere(true, false))
	must(t, crashEverywhere(false, true))
}

// memReplica returns the metadata of a new replica of 48 MiB on a device in memory, and the device.
func memReplica(tb testing.TB) (*Metadata, *memDevice) {
	tb.Helper()
	d := newMemDevice(diskImage{blocks: map[int64]*[diskBlock]byte{}})
	must(tb, FormatMetadata(d, Meta{Identity: Identity{Resource: "r0", Instance: 7, Size: 48 << 20}, State: UpToDate}))
	m, err := OpenMetadata(d, "boot-1")
	must(tb, err)
	return m, d
}

func TestMetadata_OfASmallDeviceIsFoundAgain(t *testing.T) {
	m, d := memReplica(t)
	if got := m.Meta(); got.Regions != bitmap.DefaultRegions || got.Clean || m.Size() != 48<<20 || d.cache.size != 393216 {
		t.Errorf("%+v in %d bytes", got, d.cache.size)
	}
	dirty := bitmap.New(48 << 20)
	dirty.Mark(bitmap.Extent{Off: 48<<20 - 1, Len: 1})
	must(t, m.SaveBitmap(7, dirty))
	must(t, m.SaveLog([]bitmap.RegionIndex{0, 11}, nil))
	must(t, m.MarkClean(5))
	m, err := OpenMetadata(newMemDevice(d.durable), "boot-2")
	must(t, err)
	got, bad, err := m.LoadBitmap(7)
	must(t, err)
	active, clean := m.Recovered()
	if bad != 0 || !sameBits(got, dirty) || !clean || !slices.Equal(active, []bitmap.RegionIndex{0, 11}) || m.Meta().Unclean || m.Meta().Backing.MTime != 5 {
		t.Errorf("%d bad, %d dirty bytes, log %v, clean %t, %+v", bad, got.Bytes(), active, clean, m.Meta())
	}
}

func TestMetadata_AfterAFailedSyncOnlyTheFailureIsSaved(t *testing.T) {
	m, d := memReplica(t)
	d.onSync = func() error { d.onSync = nil; return unix.ENOSPC }
	err := m.SaveLog([]bitmap.RegionIndex{1}, nil)
	var e *MetaError
	if !errors.As(err, &e) || !e.Sync || !e.Fatal() || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v", err)
	}
	_, _, load := m.LoadBitmap(0)
	for name, again := range map[string]error{
		"log": m.SaveLog(nil, nil), "meta": m.UpdateMeta(func(*Meta) {}), "pages": m.SaveBitmapPages(0, nil), "sync": m.SyncMeta(),
		"bitmap": m.SaveBitmap(0, bitmap.New(48<<20)), "load": load, "resize": m.Resize(49 << 20), "stop": m.MarkClean(0),
	} {
		if again != err {
			t.Errorf("%s: %v", name, again)
		}
	}
	must(t, m.MarkFailed(err.Error()))
	before := d.durable.clone()
	m, err = OpenMetadata(d, "boot-2")
	must(t, err)
	if got := m.Meta(); got.State != Failed || got.Failure != e.Error() || got.Boot != "boot-1" || got.Clean {
		t.Errorf("%+v", got)
	}
	if err := m.UpdateMeta(func(m *Meta) { m.State = UpToDate }); !errors.Is(err, ErrFailed) {
		t.Errorf("error %v", err)
	}
	if len(d.pending) != 0 || !maps.Equal(d.durable.blocks, before.blocks) {
		t.Error("the metadata of a failed replica was changed")
	}
}

func TestMetadata_LackOfSpaceIsAnAnswer(t *testing.T) {
	m, d := memReplica(t)
	d.onWrite = func() error { return unix.ENOSPC }
	page := []PageImage{{Index: 0, Bits: pattern(bitmap.PageSize, 1)}}
	clear(page[0].Bits[48<<20/bitmap.BlockSize/8:])
	for name, err := range map[string]error{
		"pages": m.SaveBitmapPages(0, page), "log": m.SaveLog([]bitmap.RegionIndex{1}, nil), "meta": m.UpdateMeta(func(m *Meta) { m.Epoch = 2 }),
	} {
		var e *MetaError
		if !errors.As(err, &e) || e.Fatal() || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.onWrite = nil
	must(t, m.SaveBitmapPages(0, page))
	must(t, m.SaveLog([]bitmap.RegionIndex{1}, nil))
	must(t, m.UpdateMeta(func(m *Meta) { m.Epoch = 3 }))
	m, err := OpenMetadata(newMemDevice(d.durable), "boot-1")
	must(t, err)
	dirty, bad, err := m.LoadBitmap(0)
	must(t, err)
	if active, _ := m.Recovered(); bad != 0 || dirty.Empty() || m.Meta().Epoch != 3 || !slices.Equal(active, []bitmap.RegionIndex{1}) {
		t.Errorf("%d bad, log %v, epoch %d", bad, active, m.Meta().Epoch)
	}
}

func TestMetadata_AFailedDataSyncKeepsTheRegionsInTheLog(t *testing.T) {
	m, d := memReplica(t)
	must(t, m.SaveLog([]bitmap.RegionIndex{1, 2}, nil))
	if err := m.SaveLog([]bitmap.RegionIndex{2}, eio); !errors.Is(err, unix.EIO) {
		t.Errorf("error %v", err)
	}
	m, err := OpenMetadata(newMemDevice(d.durable), "boot-1")
	must(t, err)
	if active, _ := m.Recovered(); !slices.Equal(active, []bitmap.RegionIndex{1, 2}) {
		t.Errorf("log %v", active)
	}
}

func BenchmarkMetadata(b *testing.B) {
	m, d := memReplica(b)
	b.Run("open", func(b *testing.B) {
		for range b.N {
			if _, err := OpenMetadata(d, "boot-1"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		for range b.N {
			must(b, m.UpdateMeta(func(m *Meta) { m.LedgerVersion++ }))
		}
	})
	b.Run("log", func(b *testing.B) {
		for i := range b.N {
			must(b, m.SaveLog([]bitmap.RegionIndex{1, bitmap.RegionIndex(2 + i%2)}, nil))
		}
	})
}
