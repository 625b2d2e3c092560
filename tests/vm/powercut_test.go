package vm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// A power cut that is tried: what it left of both disks, and what had been synced before it.
type cutOff struct {
	seed   uint64
	images []rig.Image
	runs   []int // steps that run i+1 of guest write had synced
}

// The machine loses its power several times, and the cluster recovers. On the way there, while the machine goes on,
// the test takes what a cut at that moment would have left: the same cut, without the time that a boot takes. A
// last machine looks at all of them, at each replica by itself.
func TestPowerCut_WhatWasSyncedIsThereOnBothReplicas(t *testing.T) {
	parallel(t)
	const boots, images = 2, 9
	s := newSite(t, options{sizeMiB: 32})
	s.vm.Run(t, "guest load nbd")
	s.try("an fsync is answered when the disks of both replicas have it", s.fsyncs)
	s.plain(s.waitInSync())
	s.vm.Run(t, "mkfs.ext4 -q /dev/nbd0; mount /dev/nbd0 /m")
	rng := rand.New(rand.NewPCG(20, 26))
	var cuts []cutOff
	var runs []int
	for b := range boots {
		s.try(fmt.Sprintf("cut %d", b+1), func(t *testing.T) {
			w := s.vm.Start(fmt.Sprintf("guest write -dir /m -run %d", b+1))
			for i := range images {
				cuts = append(cuts, s.moment(w, rng, uint64(b*images+i+1), runs))
			}
			runs = append(runs, parseSynced(t, w.Output()).steps)
			s.disks[0].AwaitWrites(t, 1+rng.IntN(20))
			t.Logf("power cut %d, after %v steps: %v", b+1, runs, s.vm.PowerCut(uint64(1000+b)))
			s.boot()
			s.mountDisks()
			begun := time.Now()
			s.vm.Run(t, "guest load nbd; guest lab -dir /lab >/dev/null")
			primary := s.waitInSync()
			t.Logf("%s serves, both in sync, %v after the start of the cluster", primary, time.Since(begun).Round(time.Millisecond))
			s.plain(primary)
			s.vm.Run(t, "mkdir /m; mount /dev/nbd0 /m")
			s.verify("/m", runs)
		})
	}
	s.vm.Run(t, "umount /m")
	s.unplain()
	s.waitInSync()
	s.same()
	s.vm.Run(t, "lockstep lab down --dir /lab >/dev/null; umount /lab/n2; umount /lab; mkdir /x")
	s.try("the other moments", func(t *testing.T) {
		for _, c := range cuts {
			s.look(c)
		}
	})
	t.Logf("%d cuts, and %d more moments", boots, len(cuts))
}

// moment waits for one while w writes, and takes what a cut would leave.
func (s *site) moment(w *rig.Cmd, rng *rand.Rand, seed uint64, runs []int) cutOff {
	s.t.Helper()
	awaitSteps(s.t, w, 1+rng.IntN(3))
	c := cutOff{seed: seed, runs: append(runs[:len(runs):len(runs)], parseSynced(s.t, w.Output()).steps)}
	// A machine this slow may lose a beacon, and n2 is dropped for a while. Once both are in the set,
	// both have all that was synced before; what happens to the set from here on takes nothing back.
	s.waitInSync()
	s.disks[rng.IntN(2)].AwaitWrites(s.t, 1+rng.IntN(20))
	c.images = rig.Images(c.seed, s.disks...)
	return c
}

// verify checks the files below dir in the machine.
func (s *site) verify(dir string, runs []int) {
	s.t.Helper()
	s.vm.Run(s.t, verifyCommand(dir, runs))
}

func verifyCommand(dir string, runs []int) string {
	return fmt.Sprintf("guest verify -dir %s %s >/dev/null", dir, strings.Trim(fmt.Sprint(runs), "[]"))
}

// look puts what a cut left into the disks, and mounts each replica by itself: nothing mends it but its own file
// system's journal.
func (s *site) look(c cutOff) {
	s.t.Helper()
	var script strings.Builder
	for n, d := range s.disks {
		d.Load(c.images[n])
		dev, dir := [2]string{"vda", "vdb"}[n], [2]string{"/lab/n1", "/lab"}[n]
		s.t.Logf("moment %d of n%d, after %v steps: %v", c.seed, n+1, c.runs, c.images[n].Cut)
		// The disk's own content was changed behind the kernel's back.
		fmt.Fprintf(&script, "echo n%d >&2; blockdev --flushbufs /dev/%s; mount /dev/%s /lab; mount -o loop %s/r0.img /x\n%s; umount /x; umount /lab\n",
			n+1, dev, dev, dir, verifyCommand("/x", c.runs))
	}
	s.vm.Run(s.t, script.String())
}
