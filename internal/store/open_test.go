package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCreate_MakesASparseBackingAndMetadataThatOpens(t *testing.T) {
	on(t, func(t *testing.T, dir string) {
		r := newReplica(t, dir)
		id, err := Create(r.CreateOptions)
		must(t, err)
		s := r.open(t, func(o *OpenOptions) {
			o.ExpectCluster, o.ExpectResource, o.ExpectResourceID, o.ExpectNode = "c1", "r0", 77, "a"
		})
		m := s.Meta()
		if m.Identity != id || id.Instance == 0 || m.Size != testSize || m.State != UpToDate || m.Regions != 50 ||
			!reflect.DeepEqual(m.Lineage, r.Lineage) || m.Unclean || m.Clean || m.Boot != "boot-1" || !m.Backing.Made {
			t.Errorf("%+v", m)
		}
		if active, clean := s.Recovered(); len(active) != 0 || !clean {
			t.Errorf("activity log %v, clean %t", active, clean)
		}
		var st unix.Stat_t
		must(t, unix.Stat(r.DataPath, &st))
		if st.Size != testSize || st.Blocks != 0 {
			t.Errorf("backing of %d bytes in %d sectors", st.Size, st.Blocks)
		}
		left, err := os.ReadDir(dir)
		must(t, err)
		if len(left) != 2 {
			t.Errorf("files left behind: %v", left)
		}
	})
}

func TestCreate_RefusesWhatIsThereAndLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(r *replica) error
		want    error
	}{
		{"metadata exists", func(r *replica) error { return os.WriteFile(r.MetaPath, nil, 0o600) }, ErrExists},
		{"backing exists", func(r *replica) error { return os.WriteFile(r.DataPath, nil, 0o600) }, ErrDataExists},
		{"backing too short", func(r *replica) error {
			r.TakeExisting = true
			return os.WriteFile(r.DataPath, make([]byte, 100), 0o600)
		}, ErrBackingShort},
		{"backing is a directory", func(r *replica) error {
			r.TakeExisting = true
			return os.Mkdir(r.DataPath, 0o700)
		}, ErrBackingKind},
		{"no such directory for metadata", func(r *replica) error {
			r.MetaPath = filepath.Join(filepath.Dir(r.MetaPath), "nowhere", "meta")
			return nil
		}, os.ErrNotExist},
		{"lineage too long", func(r *replica) error { r.Lineage = make([]uint64, MaxLineage+1); return nil }, ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			r := newReplica(t, dir)
			must(t, c.prepare(r))
			before, _ := os.ReadDir(dir)
			if _, err := Create(r.CreateOptions); !errors.Is(err, c.want) {
				t.Errorf("error %v", err)
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("left behind: %v", after)
			}
		})
	}
}

func TestCreate_TakesInAnExistingBackingWithoutTouchingIt(t *testing.T) {
	r := newReplica(t, t.TempDir())
	r.TakeExisting, r.Size = true, 4096
	must(t, os.WriteFile(r.DataPath, pattern(10000, 3), 0o600))
	_, err := Create(r.CreateOptions)
	must(t, err)
	p := make([]byte, 4096)
	s := r.open(t)
	must(t, s.ReadAt(p, 0))
	if !bytes.Equal(p, pattern(10000, 3)[:4096]) || s.Meta().Backing.Made {
		t.Error("the data changed, or counts as made here")
	}
}

func TestOpen_RefusesWhatItCannotVouchFor(t *testing.T) {
	truncate := func(n int64) func(*testing.T, *replica) {
		return func(t *testing.T, r *replica) { must(t, os.Truncate(r.DataPath, n)) }
	}
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, r *replica)
		change func(o *OpenOptions)
		want   error
	}{
		{"no metadata", func(t *testing.T, r *replica) { must(t, os.Remove(r.MetaPath)) }, nil, os.ErrNotExist},
		{"no backing", func(t *testing.T, r *replica) { must(t, os.Remove(r.DataPath)) }, nil, ErrBackingMissing},
		{"short backing after a crash", func(t *testing.T, r *replica) {
			r.open(t).Close(false)
			truncate(testSize-1)(t, r)
		}, nil, ErrBackingShort},
		{"backing written after the clean stop", func(t *testing.T, r *replica) {
			must(t, os.Chtimes(r.DataPath, time.Time{}, time.Unix(1, 0)))
		}, nil, ErrBackingChanged},
		{"backing replaced by a copy", func(t *testing.T, r *replica) {
			must(t, os.Rename(r.DataPath, r.DataPath+".old"))
			must(t, os.WriteFile(r.DataPath, nil, 0o600))
			truncate(testSize)(t, r)
		}, nil, ErrBackingReplaced},
		{"metadata cut off", func(t *testing.T, r *replica) { must(t, os.Truncate(r.MetaPath, 300<<10)) }, nil, ErrDamaged},
		{"metadata of zeros", func(t *testing.T, r *replica) { patch(t, r.MetaPath, 0, make([]byte, 2*superSize)) }, nil, ErrDamaged},
		{"activity logs of zeros", func(t *testing.T, r *replica) {
			patch(t, r.MetaPath, 2*superSize, make([]byte, 2*layout{50}.tableSize()))
		}, nil, ErrDamaged},
		{"newer version in one slot", func(t *testing.T, r *replica) { patch(t, r.MetaPath, superSize+8, []byte{0, 0, 0, 2}) }, nil, ErrNewerVersion},
		{"other cluster", nil, func(o *OpenOptions) { o.ExpectCluster = "c2" }, ErrOtherResource},
		{"other resource", nil, func(o *OpenOptions) { o.ExpectResource = "r1" }, ErrOtherResource},
		{"namesake", nil, func(o *OpenOptions) { o.ExpectResourceID = 78 }, ErrOtherResource},
		{"other node", nil, func(o *OpenOptions) { o.ExpectNode = "b" }, ErrOtherResource},
		{"open in this process", func(t *testing.T, r *replica) { r.open(t) }, nil, ErrLocked},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := made(t, t.TempDir())
			if c.spoil != nil {
				c.spoil(t, r)
			}
			o := r.options()
			if c.change != nil {
				c.change(&o)
			}
			s, err := Open(o)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v", err)
			}
			if s != nil {
				s.Close(false)
			}
		})
	}
}

func TestOpen_ReplicaHeldByAnotherProcessIsLocked(t *testing.T) {
	r := made(t, t.TempDir())
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "LOCKSTEP_TEST_HOLD="+r.DataPath+"|"+r.MetaPath)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line := make([]byte, 5)
	_, err = io.ReadFull(out, line)
	must(t, err)
	if _, err := Open(r.options()); !errors.Is(err, ErrLocked) {
		t.Errorf("error %v", err)
	}
	// The same backing under other metadata is refused as well.
	other := newReplica(t, t.TempDir())
	other.DataPath, other.TakeExisting = r.DataPath, true
	if _, err := Create(other.CreateOptions); !errors.Is(err, ErrLocked) {
		t.Errorf("second metadata: error %v", err)
	}
	var text bytes.Buffer
	if err := Dump(r.MetaPath, &text, false); err != nil || !strings.Contains(text.String(), "r0") {
		t.Errorf("dump of a locked replica: %v, %q", err, text.String())
	}
	in.Close()
	must(t, cmd.Wait())
	if s := r.open(t); !s.meta.wasClean {
		t.Error("the other process did not stop cleanly")
	}
}

func TestOpen_ReadOnlyBackingIsATypedError(t *testing.T) {
	need(t, os.Getuid() == 0, "root")
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		need(t, false, "the right to mount a tmpfs")
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	r := newReplica(t, t.TempDir())
	r.DataPath, r.Size = filepath.Join(dir, "data"), 1<<20
	_, err := Create(r.CreateOptions)
	must(t, err)
	must(t, unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=4m"))
	if _, err := Open(r.options()); !errors.Is(err, ErrReadOnly) || !errors.Is(err, unix.EROFS) {
		t.Errorf("error %v", err)
	}
}

func TestOpen_BootChangeAfterAnUncleanStopMarksUnclean(t *testing.T) {
	for _, c := range []struct {
		name        string
		clean       bool
		boot        string
		wantUnclean bool
	}{
		{"clean stop, same boot", true, "boot-1", false},
		{"clean stop, other boot", true, "boot-2", false},
		{"killed, same boot", false, "boot-1", false},
		{"crash, other boot", false, "boot-2", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := made(t, t.TempDir())
			s := r.open(t)
			must(t, s.WriteAt(pattern(4096, 1), 0, false))
			must(t, s.Close(c.clean))
			s = r.open(t, func(o *OpenOptions) { o.BootID = c.boot })
			if m := s.Meta(); m.Unclean != c.wantUnclean || m.Boot != c.boot || m.Clean {
				t.Errorf("%+v", m)
			}
			if _, clean := s.Recovered(); clean != c.clean {
				t.Errorf("clean %t", clean)
			}
			// The mark stays over clean stops until the core takes it away.
			must(t, s.Close(true))
			s = r.open(t, func(o *OpenOptions) { o.BootID = "boot-3" })
			if s.Meta().Unclean != c.wantUnclean {
				t.Error("a restart changed the unclean mark")
			}
			must(t, s.UpdateMeta(func(m *Meta) { m.Unclean = false }))
			must(t, s.Close(true))
			if r.open(t).Meta().Unclean {
				t.Error("the unclean mark came back")
			}
		})
	}
}

func TestOpen_CrashBeforeTheNewBootIDIsStoredFindsTheMarkAgain(t *testing.T) {
	r := made(t, t.TempDir())
	r.open(t).Close(false)
	o := r.options()
	o.BootID = "boot-2"
	o.wrap = func(name string, f file) file {
		w := &faulty{file: f}
		if name == "meta" {
			w.onWrite = func(int64, bool) error { return unix.ENOSPC }
		}
		return w
	}
	if _, err := Open(o); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v", err)
	}
	if m := r.open(t, func(o *OpenOptions) { o.BootID = "boot-2" }).Meta(); !m.Unclean {
		t.Errorf("%+v", m)
	}
}

// tornSlots calls check for every length at which the write of a slot can be cut off: the bytes up
// to there are new, the rest is what was in the slot.
func tornSlots(was, now []byte, check func(cut int, b []byte)) {
	last := len(now)
	for last > 0 && now[last-1] == was[last-1] {
		last--
	}
	for cut := range last {
		check(cut, append(bytes.Clone(now[:cut]), was[cut:]...))
	}
}

func TestSuperblock_TornAtAnyByteLeavesTheOlderOne(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch = 8; m.Peers = []PeerSlot{{Node: "b", Instance: 5, LastSession: 6}} }))
	slot := (s.meta.seq + 1) % 2
	was := contents(t, r.MetaPath, superOff(slot), superSize)
	other := contents(t, r.MetaPath, superOff(1-slot), superSize)
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch = 9; m.Lineage = append(m.Lineage, 1, 2, 3, 4) }))
	now := contents(t, r.MetaPath, superOff(slot), superSize)
	same := 0
	tornSlots(was, now, func(cut int, b []byte) {
		image := make([]byte, 2*superSize)
		copy(image[superOff(slot):], b)
		copy(image[superOff(1-slot):], other)
		m, _, warn, err := loadSuper(fileDevice{memFile{b: image}})
		if err != nil || m.Epoch != 8 || len(m.Peers) != 1 {
			t.Fatalf("cut at %d: epoch %d, %v", cut, m.Epoch, err)
		}
		if warn == nil {
			if !bytes.Equal(b, was) {
				t.Fatalf("cut at %d: nothing said about the torn slot", cut)
			}
			same++
		}
	})
	if same > 32 {
		t.Errorf("%d cuts left the slot unchanged", same)
	}
}

func TestOpen_TornSuperblockMarksUnclean(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	seq := s.meta.seq
	must(t, s.Close(true))
	patch(t, r.MetaPath, superOff(seq%2)+100, []byte("torn"))
	s = r.open(t)
	if !s.Meta().Unclean || len(s.Warnings()) != 1 {
		t.Errorf("unclean %t, warnings %v", s.Meta().Unclean, s.Warnings())
	}
}

func TestSaveMeta_KeepsWhatBelongsToTheStore(t *testing.T) {
	r := made(t, t.TempDir())
	s := r.open(t)
	was := s.Meta()
	must(t, s.SaveMeta(Meta{Epoch: 4, State: Outdated, Unclean: true, LedgerVersion: 9, Peers: []PeerSlot{{Node: "b", Instance: 2, LastSession: 3}}}))
	must(t, s.Close(false))
	m := r.open(t).Meta()
	want := was
	want.Epoch, want.State, want.Unclean, want.LedgerVersion, want.Lineage = 4, Outdated, true, 9, nil
	want.Peers = []PeerSlot{{Node: "b", Instance: 2, LastSession: 3}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
}

func TestSaveMeta_RefusesAnEpochThatGoesBack(t *testing.T) {
	s := made(t, t.TempDir()).open(t)
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch = 4 }))
	if err := s.UpdateMeta(func(m *Meta) { m.Epoch = 3 }); !errors.Is(err, ErrEpochBack) {
		t.Errorf("error %v", err)
	}
	if err := s.UpdateMeta(func(m *Meta) { m.Peers = make([]PeerSlot, MaxPeers+1) }); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	must(t, s.UpdateMeta(func(m *Meta) { m.Lineage = make([]uint64, MaxLineage) }))
}

func TestSaveMeta_ErrorLeavesTheNewestSlotAlone(t *testing.T) {
	r := made(t, t.TempDir())
	s, _, meta := r.openFaulty(t)
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch = 5 }))
	full := func(int64, bool) error { return unix.ENOSPC }
	meta.set(func(f *faulty) { f.onWrite = full })
	for range 3 {
		if err := s.UpdateMeta(func(m *Meta) { m.Epoch = 6 }); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("error %v", err)
		}
	}
	if s.Failed() != nil || s.Meta().Epoch != 5 {
		t.Errorf("failed %v, epoch %d", s.Failed(), s.Meta().Epoch)
	}
	meta.set(func(f *faulty) { f.onWrite = nil })
	must(t, s.UpdateMeta(func(m *Meta) { m.Epoch = 7 }))
	must(t, s.Close(false))
	if got := r.open(t).Meta().Epoch; got != 7 {
		t.Errorf("epoch %d", got)
	}
}

func FuzzDecodeSuper(f *testing.F) {
	m := Meta{Identity: Identity{Resource: "r0", Instance: 3, Size: 1}, Regions: 7, Lineage: []uint64{5}}
	good, err := encodeSuper(m, 2)
	must(f, err)
	f.Add(good, uint64(2), uint64(3))
	f.Add(good[:300], uint64(1), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seq, instance uint64) {
		decodeSuper(b, seq%2)
		if len(b) < headerSize {
			return
		}
		// The same with a header that is right, so that the body is reached.
		if n := binary.BigEndian.Uint32(b[12:]); int64(n) <= int64(len(b)-headerSize) {
			b = b[:headerSize+int(n)]
		}
		seal(b, superMagic, header{seq: seq, instance: instance})
		m, got, err := decodeSuper(b, seq%2)
		if err != nil {
			return
		}
		again, err := encodeSuper(m, got)
		must(t, err)
		m2, _, err := decodeSuper(again, seq%2)
		must(t, err)
		if !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v came back as %+v", m, m2)
		}
	})
}

func TestSaveMeta_NothingTurnsFailedBack(t *testing.T) {
	s := made(t, t.TempDir()).open(t)
	must(t, s.UpdateMeta(func(m *Meta) { m.State = Failed }))
	must(t, s.UpdateMeta(func(m *Meta) { m.State = UpToDate }))
	if got := s.Meta().State; got != Failed {
		t.Errorf("state %v", got)
	}
}
