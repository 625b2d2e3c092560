package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// attach makes r0 the device /dev/nbd0, by way of a relay that knows all nodes.
func (s *site) attach() {
	s.t.Helper()
	s.vm.Run(s.t, "lockstep attach r0 /dev/nbd0 --servers /lab/n1/nbd.sock,/lab/n2/nbd.sock --connections 2 >/dev/null")
}

func (s *site) detach() {
	s.t.Helper()
	s.vm.Run(s.t, "lockstep detach /dev/nbd0 --socket /lab/n1/control.sock >/dev/null")
}

// filesystems of the tests: how to make one, and how to check it on a replica.
var filesystems = []struct{ name, mkfs, check string }{
	{"ext4", "mkfs.ext4 -q", "e2fsck -fn"},
	// Less than 300 MiB are no place for xfs in earnest, and it says so unless told not to.
	{"xfs", "mkfs.xfs -q --unsupported", "xfs_repair -n"},
}

func TestAttach_MountedFileSystem_LivesThroughAKilledPrimaryAndThreeSwitchovers(t *testing.T) {
	t.Parallel()
	for _, fs := range filesystems {
		t.Run(fs.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, options{sizeMiB: 96})
			s.attach()
			s.vm.Runf(t, "%s /dev/nbd0; mkdir /m; mount /dev/nbd0 /m", fs.mkfs)
			w := s.vm.Start("guest write -dir /m -pause 100ms -until /tmp/stop")
			awaitSteps(t, w, 5)

			s.stall(w, "the primary's daemon is killed", func() { s.vm.Run(t, "lockstep lab kill n1 --dir /lab") })
			s.vm.Run(t, "lockstep lab start n1 --dir /lab")
			for _, to := range []string{"n1", "n2", "n1"} {
				if p := s.waitInSync(); p == to {
					t.Fatalf("%s is primary already", to)
				}
				s.stall(w, "switchover to "+to, func() { s.cli(to, "switchover r0 --to "+to) })
			}
			s.vm.Run(t, "touch /tmp/stop")
			out, err := w.Wait()
			if err != nil {
				t.Fatal(err)
			}
			done := parseSynced(t, out)
			t.Logf("%d steps; the longest stood still for %v (emulated)", done.steps, done.longest.Round(time.Millisecond))
			s.vm.Runf(t, "umount /m; mount /dev/nbd0 /m; guest verify -dir /m -synced %d; umount /m", done.steps)
			s.noErrors()
			s.waitInSync()
			s.detach()
			s.same()
			for _, n := range []string{"n1", "n2"} {
				s.vm.Runf(t, "%s /lab/%s/r0.img >/tmp/check 2>&1 || { cat /tmp/check >&2; exit 1; }", fs.check, n)
			}
		})
	}
}

// stall runs act, returns when the writer has gone on well beyond it, and logs how long a step took at most.
func (s *site) stall(w *rig.Cmd, what string, act func()) {
	s.t.Helper()
	from := len(w.Output())
	act()
	awaitSteps(s.t, w, 5)
	out := w.Output()[from:]
	if i := strings.IndexByte(out, '\n'); from > 0 && !strings.HasPrefix(out, "synced") && i >= 0 {
		out = out[i+1:]
	}
	s.t.Logf("%s: the file system stood still for at most %v (emulated)", what, parseSynced(s.t, out).longest.Round(time.Millisecond))
}

// noErrors fails the test if the kernel has complained about a block device or a file system.
func (s *site) noErrors() {
	s.t.Helper()
	out := s.vm.Run(s.t, "dmesg")
	for line := range strings.Lines(out) {
		for _, bad := range []string{"I/O error", "EXT4-fs error", "EXT4-fs warning", "Remounting", "Aborting journal", "shutdown", "XFS (nbd0): metadata", "blocked for more", "Buffer I/O", "timed out", "BUG:", "WARNING:"} {
			if strings.Contains(line, bad) && !strings.Contains(line, "retrying") { // on another connection, without loss
				s.t.Errorf("the kernel says: %s", strings.TrimSpace(line))
			}
		}
	}
}
