package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// On one machine, whose n1 has a watchdog: what follows the primary, memory that runs short, and then the two
// ways to be reset.
func TestHost_ServicesFollow_MemoryRunsShort_AndTheWatchdogResetsWhatCannotStop(t *testing.T) {
	parallel(t)
	s := newSite(t, options{sizeMiB: 96, memoryMiB: 512, watchdog: true, protect: true})
	s.vm.Run(t, "guest load nbd")
	s.try("the device and its file system follow the primary", s.services)
	s.try("memory runs short under write-back to the own host", s.pressure)
	s.try("a service that cannot be stopped", s.stopFails)
	s.try("after the reset", s.comesBack)
	s.try("a daemon that stands still", s.standsStill)
}

// stopFails has a file system that cannot be unmounted: the role stays, and the watchdog gets its way.
func (s *site) stopFails(t *testing.T) {
	s.attach("")
	s.vm.Run(t, "mkfs.ext4 -F -q /dev/nbd0")
	s.detach()
	if p := s.waitInSync(); p != "n1" {
		s.cli("n1", "switchover r0 --to n1")
	}
	s.cli("n1", "resource set r0 --attach /dev/nbd0 --mount /srv/data,users=spare,stop-timeout=3s")
	s.awaitMount("n1")
	s.vm.Run(t, "echo kept >/srv/data/kept; sync; (cd /srv/data && exec setsid sleep 10000) >/dev/null 2>&1 &")
	s.petted()
	begun := time.Now()
	w := s.vm.Start("LOCKSTEP_SOCKET=/lab/n1/control.sock lockstep switchover r0 --to n2")
	s.reset(begun)
	if out, err := w.Wait(); err == nil {
		t.Errorf("the switchover succeeded:\n%s", out)
	}
}

// comesBack boots what was reset: somebody serves, and the data is there.
func (s *site) comesBack(t *testing.T) {
	s.boot()
	s.mountDisks()
	begun := time.Now()
	s.vm.Run(t, "guest load nbd; guest load softdog; guest lab -dir /lab >/dev/null")
	primary := s.waitInSync()
	s.awaitMount(primary)
	s.vm.Run(t, "[ $(cat /srv/data/kept) = kept ]")
	t.Logf("%s serves, and has mounted it, %v after the start of the cluster (emulated)", primary, time.Since(begun).Round(time.Millisecond))
	s.noErrors()
}

func (s *site) standsStill(t *testing.T) {
	s.petted()
	begun := time.Now()
	s.vm.Run(t, "lockstep lab kill n1 --signal STOP --dir /lab")
	s.reset(begun)
}

// petted returns when n1 has opened its watchdog.
func (s *site) petted() {
	s.t.Helper()
	s.vm.Run(s.t, "for i in $(seq 1 100); do [ $(cat /sys/class/watchdog/watchdog0/state) = active ] && exit 0; sleep 0.2; done; cat /lab/n1/log >&2; exit 1")
}

// reset returns when the machine has ended, and fails the test unless its watchdog did that.
func (s *site) reset(begun time.Time) {
	s.t.Helper()
	select {
	case <-s.vm.Ended():
	case <-time.After(rig.Limit):
		s.t.Fatal("the machine goes on, and nothing pets its watchdog")
	}
	s.t.Logf("reset after %v (emulated); its watchdog has 10 s", time.Since(begun).Round(time.Millisecond))
	if !strings.Contains(s.vm.Serial(), "softdog: Initiating system reboot") {
		s.t.Errorf("the machine ended, but not by its watchdog:\n%s", s.vm.Serial())
	}
	for _, d := range s.disks {
		d.Settle()
	}
}

// pressure fills the page cache of a device's own host until next to nothing is free, and then has all of it written
// back, by way of a relay and two daemons in that host.
func (s *site) pressure(t *testing.T) {
	s.attach("")
	// Nothing is written back because of its age or number, only because memory is wanted.
	s.vm.Run(t, `mkfs.ext4 -F -q -m 0 /dev/nbd0; mkdir -p /m; mount /dev/nbd0 /m
cd /proc/sys/vm; echo 95 >dirty_ratio; echo 90 >dirty_background_ratio; echo 0 >dirty_writeback_centisecs; echo 360000 >dirty_expire_centisecs`)
	const fileMiB = 64
	before := s.processes()
	eater := s.vm.Start(fmt.Sprintf("exec guest eat %d", fileMiB+8))
	if err := eater.Await("took", func(out string) bool { return strings.Contains(out, "took") }); err != nil {
		t.Fatal(err)
	}
	said := strings.TrimSpace(s.vm.Runf(t, "guest fill -file /m/large -mib %d", fileMiB))
	t.Logf("a process %s and keeps it; %d MiB were written: it %s (emulated)", strings.TrimSpace(eater.Output()), fileMiB, said)
	var ms, free, dirty int
	if _, err := fmt.Sscanf(said, "took %d ms; at worst %d KiB free, %d KiB to be", &ms, &free, &dirty); err != nil {
		t.Fatalf("%q: %v", said, err)
	}
	if dirty < 2*free {
		t.Errorf("%d KiB were to be written back and %d KiB free: that is no pressure", dirty, free)
	}
	begun := time.Now()
	s.vm.Run(t, "sync")
	t.Logf("sync ended after %v (emulated)", time.Since(begun).Round(time.Millisecond))
	if after := s.processes(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	t.Logf("killed for want of memory: %s processes", strings.TrimSpace(s.vm.Run(t, "dmesg | grep -c 'Out of memory: Killed' || true")))
	eater.Kill()
	_, _ = eater.Wait() // killed, by us or by the kernel
	s.vm.Runf(t, `umount /m; mount /dev/nbd0 /m; echo 3 >/proc/sys/vm/drop_caches; guest fill -file /m/large -mib %d -check; umount /m
cd /proc/sys/vm; echo 20 >dirty_ratio; echo 10 >dirty_background_ratio; echo 500 >dirty_writeback_centisecs; echo 3000 >dirty_expire_centisecs`, fileMiB)
	s.waitInSync()
	s.detach()
	s.same()
}

// processes lists the daemons and the relay, by id and what the kernel thinks of killing them.
func (s *site) processes() string {
	s.t.Helper()
	return s.vm.Run(s.t, `for p in /proc/[0-9]*; do
	case "$(readlink $p/exe)" in /bin/lockstep) echo "$p $(cat $p/oom_score_adj) $(tr '\0' ' ' <$p/cmdline)" ;; esac
done`)
}
