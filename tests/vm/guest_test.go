package vm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// tools are what the machines of these tests have beyond busybox.
var tools = []rig.Tool{
	{Name: "mkfs.ext4", Package: "e2fsprogs"}, {Name: "e2fsck", Package: "e2fsprogs"},
	{Name: "mkfs.xfs", Package: "xfsprogs"}, {Name: "xfs_repair", Package: "xfsprogs"},
	{Name: "nbd-client", Package: "nbd-client"},
}

// mib is the unit of sizes here.
const mib = 1 << 20

// site is a machine with a cluster in it.
type site struct {
	t     testing.TB
	cfg   rig.Config
	vm    *rig.VM
	disks []*rig.Disk // of n1, with the witness's files, and of n2
}

// options of a site.
type options struct {
	sizeMiB   int  // of r0
	memoryMiB int  // of the machine; 0: what the rig gives
	watchdog  bool // n1 has /dev/watchdog
}

// newSite boots a machine with fresh disks and brings a cluster up in it.
func newSite(t testing.TB, o options) *site {
	t.Helper()
	s := &site{t: t}
	for range 2 {
		s.disks = append(s.disks, rig.NewDisk(t, int64(o.sizeMiB+64)*mib))
	}
	k := rig.FindKernel(t)
	s.cfg = rig.Config{Kernel: k, Initramfs: initramfs(t, k), Disks: s.disks, MemoryMiB: o.memoryMiB}
	up := fmt.Sprintf("guest lab -dir /lab -mib %d", o.sizeMiB)
	if o.watchdog {
		up += " -watchdog /dev/watchdog"
	}
	s.boot()
	begun, cpu := time.Now(), s.vm.CPU()
	s.vm.Runf(t, `mkdir /lab
for d in vda:/lab vdb:/lab/n2; do
	mkfs.ext4 -q -m 0 /dev/${d%%%%:*}
	mkdir -p ${d#*:}
	mount /dev/${d%%%%:*} ${d#*:}
done
%s >/dev/null
sync`, up)
	t.Logf("a cluster is up after %v (%v of processor time)", time.Since(begun).Round(time.Millisecond), s.vm.CPU()-cpu)
	return s
}

// initramfs returns the one file for all tests of the package.
func initramfs(t testing.TB, k rig.Kernel) string {
	t.Helper()
	path := rig.Initramfs(t, k, rig.Contents{
		Modules: []rig.Module{{Name: "nbd", Params: "nbds_max=4"}, {Name: "xfs"}, {Name: "softdog"}},
		Tools:   tools,
	})
	if st, err := os.Stat(path); err == nil {
		t.Logf("kernel %s, initramfs of %d MiB", k.Version, st.Size()/mib)
	}
	return path
}

// boot starts the machine, for the first time or again.
func (s *site) boot() {
	s.t.Helper()
	s.vm = rig.Boot(s.t, s.cfg)
	s.t.Logf("booted in %v (%v of processor time)", s.vm.Booted.Round(time.Millisecond), s.vm.CPU())
	vm := s.vm
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Log(vm.Look(`for f in /lab/*/log /run/lockstep/attach/*; do echo "== $f"; grep -v msg=gossip $f | tail -n 60; done
for n in n1 n2; do timeout 5 lockstep status --socket /lab/$n/control.sock; done
dmesg | tail -n 30`))
		}
	})
}

// mountDisks makes the files of both nodes visible in a machine that has just been booted.
func (s *site) mountDisks() {
	s.t.Helper()
	s.vm.Run(s.t, "mkdir /lab; mount /dev/vda /lab; mount /dev/vdb /lab/n2")
}

// cli runs lockstep in the machine, at a node, and fails the test unless it succeeds.
func (s *site) cli(node, args string) string {
	s.t.Helper()
	return s.vm.Runf(s.t, "LOCKSTEP_SOCKET=/lab/%s/control.sock lockstep %s", node, args)
}

// waitInSync returns who serves r0, once somebody does and both replicas are in sync.
func (s *site) waitInSync() string {
	s.t.Helper()
	return strings.TrimSpace(s.vm.Run(s.t, `for i in $(seq 1 100); do
	for n in n1 n2; do
		st=$(lockstep status r0 --socket /lab/$n/control.sock 2>&1) || continue
		case "$st" in *"r0 role:Primary"*io:running*in-sync:n1,n2*) echo $n; exit 0 ;; esac
	done
	sleep 0.5 # each question starts a program, which is much work for an emulated machine
done
echo "$st" >&2
exit 1`))
}

// same fails the test unless both replicas hold the same bytes. Nothing may be writing.
func (s *site) same() {
	s.t.Helper()
	s.vm.Run(s.t, "guest same /lab/n1/r0.img /lab/n2/r0.img")
}

// synced is what a writer in the machine has said so far.
type synced struct {
	steps   int
	longest time.Duration // of a step: the longest that a file system stood still, or was slow
	at      int           // the step it was
}

// parseSynced reads the output of guest write; its last line may be cut off.
func parseSynced(t testing.TB, out string) synced {
	t.Helper()
	var s synced
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var us int64
		if _, err := fmt.Sscanf(line, "synced %d %d", &s.steps, &us); err != nil {
			t.Fatalf("guest write printed %q: %v", line, err)
		}
		if d := time.Duration(us) * time.Microsecond; d > s.longest {
			s.longest, s.at = d, s.steps
		}
	}
	return s
}

// awaitSteps returns when a writer has synced so many steps more than it has now.
func awaitSteps(t testing.TB, w *rig.Cmd, more int) {
	t.Helper()
	want := "synced " + strconv.Itoa(parseSynced(t, w.Output()).steps+more) + " "
	if err := w.Await(want, func(out string) bool { return strings.Contains(out, want) }); err != nil {
		t.Fatal(err)
	}
}
