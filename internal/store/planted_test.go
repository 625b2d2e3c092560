//go:build plantedbugs

package store

import (
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

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
