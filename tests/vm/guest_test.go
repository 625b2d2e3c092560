package vm

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "100"); err != nil { // turns are what counts
		panic(err)
	}
	cluster.Main(m)
}

// turns are for as many tests at a time as there are processors to emulate machines on a small machine.
var turns = make(chan struct{}, 2)

// parallel is T.Parallel for a test with machines.
func parallel(t *testing.T) {
	t.Parallel()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

// parallelFirst is parallel for the longest test: its turn is the first one, so that the others fill the time
// beside it.
func parallelFirst(t *testing.T) {
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
	t.Parallel()
}

// tools are what the machines of these tests have beyond busybox.
var tools = []rig.Tool{
	{Name: "mkfs.ext4", Package: "e2fsprogs"}, {Name: "e2fsck", Package: "e2fsprogs"}, {Name: "resize2fs", Package: "e2fsprogs"},
	{Name: "mkfs.xfs", Package: "xfsprogs"}, {Name: "xfs_repair", Package: "xfsprogs"},
	{Name: "nbd-client", Package: "nbd-client"},
}

// mib is the unit of sizes here.
const mib = 1 << 20

// site is a machine with a cluster in it, for one test or several in turn: a boot and a new cluster cost more than
// most of what is tried on them.
type site struct {
	t     testing.TB // of what is tried at present
	owner testing.TB // what the machines live as long as
	cfg   rig.Config
	vm    *rig.VM
	disks []*rig.Disk // of n1, with the witness's files, and of n2
}

// options of a site.
type options struct {
	sizeMiB   int  // of r0
	spareMiB  int  // of each disk, beyond r0; 0: 48
	memoryMiB int  // of the machine; 0: what the rig gives
	watchdog  bool // n1 has /dev/watchdog
	protect   bool // the daemons are protected under memory pressure
}

// newSite boots a machine with fresh disks and brings a cluster up in it.
func newSite(t testing.TB, o options) *site {
	t.Helper()
	s := &site{t: t, owner: t}
	if o.spareMiB == 0 {
		o.spareMiB = 48
	}
	for range 2 {
		s.disks = append(s.disks, rig.NewDisk(t, int64(o.sizeMiB+o.spareMiB)*mib))
	}
	k := rig.FindKernel(t)
	s.cfg = rig.Config{Kernel: k, Initramfs: initramfs(t, k), Disks: s.disks, MemoryMiB: o.memoryMiB}
	up := fmt.Sprintf("guest lab -dir /lab -mib %d -protect=%v", o.sizeMiB, o.protect)
	s.boot()
	if o.watchdog {
		up = "guest load softdog; " + up + " -watchdog /dev/watchdog"
	}
	begun, cpu := time.Now(), s.vm.CPU()
	s.vm.Runf(t, `mkdir /lab
for d in vda:/lab vdb:/lab/n2; do
	mkfs.ext4 -q -m 0 /dev/${d%%%%:*}
	mkdir -p ${d#*:}
	mount /dev/${d%%%%:*} ${d#*:}
done
%s >/dev/null
# By default a resync leaves the processor to the applications, and here there is hardly any to leave.
lockstep resource set r0 --resync-impact 1000 --socket /lab/n1/control.sock >/dev/null
sync`, up)
	t.Logf("a cluster is up after %v (%v of processor time)", time.Since(begun).Round(time.Millisecond), s.vm.CPU()-cpu)
	t.Cleanup(func() { t.Logf("the last machine took %v of processor time", s.vm.CPU()) })
	return s
}

// try is one thing that is tried on the machine, as a test of its own. What follows it has no ground to stand on if
// it fails, and is not tried.
func (s *site) try(name string, f func(t *testing.T)) {
	s.t.Helper()
	begun, cpu := time.Now(), s.vm.CPU()
	ok := s.owner.(*testing.T).Run(name, func(t *testing.T) {
		s.t = t
		defer func() { s.t = s.owner }()
		f(t)
	})
	s.owner.Logf("%s: %v (%v of processor time)", name, time.Since(begun).Round(time.Millisecond), max(0, s.vm.CPU()-cpu))
	if !ok {
		s.owner.FailNow()
	}
}

// initramfs returns the one file for all tests of the package.
func initramfs(t testing.TB, k rig.Kernel) string {
	t.Helper()
	path := rig.Initramfs(t, k, rig.Contents{
		Modules: []rig.Module{{Name: "nbd", Params: "nbds_max=4", Later: true}, {Name: "xfs", Later: true}, {Name: "softdog", Later: true}, {Name: "virtio_net", Later: true}},
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
	s.vm = rig.Boot(s.owner, s.cfg)
	s.t.Logf("booted in %v (%v of processor time)", s.vm.Booted.Round(time.Millisecond), s.vm.CPU())
	vm := s.vm
	s.owner.Cleanup(func() {
		if s.owner.Failed() {
			s.owner.Log(vm.Look(`for f in /lab/*/log /run/lockstep/attach/*; do echo "== $f"; grep -v msg=gossip $f | tail -n 60; done
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
	return strings.TrimSpace(s.vm.Run(s.t, "guest insync -dir /lab"))
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

// step runs a part of a test and logs how long it took.
func step(t testing.TB, name string, f func()) {
	t.Helper()
	begun := time.Now()
	f()
	t.Logf("%s: %v", name, time.Since(begun).Round(time.Millisecond))
}
