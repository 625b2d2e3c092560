//go:build plantedbugs

package store

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// These bugs show after a crash at one certain moment.
func TestPlanted_EveryBugOfThePackageIsFound(t *testing.T) {
	for _, b := range []planted.Bug{
		planted.TornSuperblockAccepted,
		planted.SameSlotTwice,
		planted.BootForgotten,
		planted.UncleanAfterBoot,
		planted.LogLingerSkipped,
		planted.EvictWithoutDataSync,
		planted.PageChecksumIgnored,
		planted.MetaSyncSkipped,
	} {
		t.Run(b.String(), func(t *testing.T) {
			t.Cleanup(func() { planted.Plant(planted.None) })
			planted.Plant(b)
			err := crashEverywhere(false, true)
			if err == nil {
				t.Error("not found")
			}
			t.Log(err)
		})
	}
}

// plant switches a bug on for the rest of the test.
func plant(t *testing.T, b planted.Bug) {
	planted.Plant(b)
	t.Cleanup(func() { planted.Plant(planted.None) })
}

// Two bugs that no crash shows: each does what its sentence says, where a test of the healthy code
// says it must not.

func TestPlanted_TrimDiffers(t *testing.T) {
	plant(t, planted.TrimDiffers)
	s, data, _ := made(t, t.TempDir()).openFaulty(t)
	data.set(func(f *faulty) {
		f.onAllocate = func(uint32) error { return unix.EOPNOTSUPP }
	})
	want := pattern(64<<10, 7)
	must(t, s.WriteAt(want, 0, false))
	must(t, s.Trim(bitmap.Extent{Len: 64 << 10}, false))
	got := make([]byte, 64<<10)
	must(t, s.ReadAt(got, 0))
	if !bytes.Equal(got, want) {
		t.Error("not found: the trimmed range reads as zeros on a backing that cannot unmap")
	}
}

func TestPlanted_ResizeUnzeroed(t *testing.T) {
	plant(t, planted.ResizeUnzeroed)
	r := newReplica(t, t.TempDir())
	r.Size, r.TakeExisting = 1<<20, true
	want := pattern(2<<20, 5)
	must(t, os.WriteFile(r.DataPath, want, 0o600))
	_, err := Create(r.CreateOptions)
	must(t, err)
	s := r.open(t)
	must(t, s.Resize(2<<20))
	got := make([]byte, 1<<20)
	must(t, s.ReadAt(got, 1<<20))
	if !bytes.Equal(got, want[1<<20:]) {
		t.Error("not found: the new space reads as zeros")
	}
}
