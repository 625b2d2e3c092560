package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// attach makes r0 the device /dev/nbd0, by way of a relay that knows all nodes.
func (s *site) attach(options string) {
	s.t.Helper()
	s.vm.Runf(s.t, "lockstep attach r0 /dev/nbd0 %s %s >/dev/null", anyNode, options)
}

const anyNode = "--servers /lab/n1/nbd.sock,/lab/n2/nbd.sock"

func (s *site) detach() {
	s.t.Helper()
	s.vm.Run(s.t, "lockstep detach /dev/nbd0 --socket /lab/n1/control.sock >/dev/null")
}

// refused fails the test unless a script fails, and its errors say all that is wanted.
func (s *site) refused(script string, wants ...string) {
	s.t.Helper()
	out := s.vm.Runf(s.t, "if (%s) >/tmp/said 2>&1; then echo IT-SUCCEEDED; fi; cat /tmp/said", script)
	for _, want := range append(wants, "lockstep: ") {
		if !strings.Contains(out, want) {
			s.t.Errorf("%s\nsaid: %swanted: %s", script, out, want)
		}
	}
	if strings.Contains(out, "IT-SUCCEEDED") {
		s.t.Errorf("%s succeeded", script)
	}
}

// On one machine, one after the other: what attach refuses, and two file systems that live through whatever happens
// below them.
func TestAttach_MountedFileSystem_LivesThroughKillsSwitchoversAndGrowth(t *testing.T) {
	parallel(t)
	s := newSite(t, options{sizeMiB: 24, spareMiB: 64})
	s.try("what cannot be attached is refused, and the message says why", s.refusals)
	s.try("ext4", func(t *testing.T) {
		w := s.begin("mkfs.ext4 -q", "--connections 1")
		s.killRelay(w)
		s.switchover(w)
		s.switchover(w)
		s.switchover(w)
		s.grow(48)
		s.killDaemon(w)
		s.end(w, "e2fsck -fn")
	})
	s.try("xfs", func(t *testing.T) {
		s.vm.Run(t, "guest load xfs")
		// Less than 300 MiB are no place for xfs in earnest, and it says so unless told not to.
		w := s.begin("mkfs.xfs -f -q --unsupported", "--connections 2")
		s.switchover(w)
		s.switchover(w)
		s.switchover(w)
		s.killDaemon(w)
		s.end(w, "xfs_repair -n")
	})
}

func (s *site) refusals(t *testing.T) {
	attach := "lockstep attach r0 /dev/nbd0 " + anyNode
	s.refused(attach, "the kernel has no NBD driver loaded", "modprobe nbd")
	s.vm.Run(t, "guest load nbd")
	s.plain("n1")
	s.refused(attach, "/dev/nbd0: the device is in use: another program has connected it", "free are /dev/nbd1, /dev/nbd2, /dev/nbd3")
	s.refused("lockstep attach r0 /dev/nbd1 "+anyNode, "r0 has 1 other clients, who are not attached")
	s.unplain()
	s.attach("")
	s.refused("hostname elsewhere; trap 'hostname guest' EXIT; lockstep attach r0 /dev/nbd1 --state-dir /run/elsewhere "+anyNode,
		`"r0" is attached to /dev/nbd0 on guest`, "detach it there first")
	s.vm.Run(t, "mkfs.ext4 -q /dev/nbd0; mkdir /m; mount /dev/nbd0 /m")
	s.refused("lockstep detach /dev/nbd0 --socket /lab/n1/control.sock", "/dev/nbd0: the device is in use: unmount it first")
	s.vm.Run(t, "umount /m")
	s.detach()
}

// begin attaches r0, mounts a new file system, and has it written to.
func (s *site) begin(mkfs, options string) *rig.Cmd {
	s.t.Helper()
	begun := time.Now()
	s.attach(options)
	s.t.Logf("attached after %v (emulated)", time.Since(begun).Round(time.Millisecond))
	s.vm.Runf(s.t, "rm -f /tmp/stop; %s /dev/nbd0; mkdir -p /m; mount /dev/nbd0 /m", mkfs)
	w := s.vm.Start("guest write -dir /m -pause 200ms -until /tmp/stop")
	awaitSteps(s.t, w, 3)
	return w
}

// end has everything verified that was written, by way of the device and then on each replica.
func (s *site) end(w *rig.Cmd, check string) {
	s.t.Helper()
	s.vm.Run(s.t, "touch /tmp/stop")
	out, err := w.Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	done := parseSynced(s.t, out)
	s.t.Logf("%d steps; the longest stood still for %v (emulated)", done.steps, done.longest.Round(time.Millisecond))
	s.vm.Runf(s.t, "umount /m; mount /dev/nbd0 /m; guest verify -dir /m %d; umount /m", done.steps)
	s.noErrors()
	s.waitInSync()
	s.detach()
	s.same()
	for _, n := range []string{"n1", "n2"} {
		s.vm.Runf(s.t, "%s /lab/%s/r0.img >/tmp/check 2>&1 || { cat /tmp/check >&2; exit 1; }", check, n)
	}
}

// killDaemon comes last: the resync that it leads to takes its time in such a machine, and less when nobody writes.
func (s *site) killDaemon(w *rig.Cmd) {
	s.t.Helper()
	node := s.waitInSync()
	s.stall(w, "the primary's daemon is killed", func() { s.vm.Runf(s.t, "lockstep lab kill %s --dir /lab", node) })
	s.vm.Runf(s.t, "lockstep lab start %s --dir /lab", node)
}

func (s *site) switchover(w *rig.Cmd) {
	s.t.Helper()
	to := map[string]string{"n1": "n2", "n2": "n1"}[s.waitInSync()]
	s.stall(w, "switchover to "+to, func() { s.cli(to, "switchover r0 --to "+to) })
}

// killRelay leaves the kernel with a device that nobody serves, and then gives it to another relay.
func (s *site) killRelay(w *rig.Cmd) {
	s.t.Helper()
	s.stall(w, "the relay is killed, and another takes its place", func() {
		s.vm.Run(s.t, `list="lockstep attach --list"
pid=$($list | sed -n 's/.* pid://p')
kill -9 $pid
while kill -0 $pid 2>/dev/null; do sleep 0.1; done
case "$($list)" in *no-relay*) ;; *) $list >&2; exit 1 ;; esac`)
		s.attach("")
		if out := s.vm.Run(s.t, "lockstep attach --list"); !strings.Contains(out, " serving ") {
			s.t.Errorf("after the relay was killed and attach given again: %s", out)
		}
	})
}

// grow makes r0 larger, and the mounted ext4 after it, and then writes more than there was room for before.
func (s *site) grow(toMiB int) {
	s.t.Helper()
	before := s.waitInSync()
	begun := time.Now()
	s.cli(before, fmt.Sprintf("resource resize r0 --size %dMiB", toMiB))
	s.vm.Runf(s.t, `for i in $(seq 1 300); do
	[ $(cat /sys/block/nbd0/size) = %d ] && exit 0
	sleep 0.1
done
cat /sys/block/nbd0/size >&2
exit 1`, toMiB*mib/512)
	s.t.Logf("the device has grown %v after it was asked to (emulated)", time.Since(begun).Round(time.Millisecond))
	s.vm.Run(s.t, "resize2fs /dev/nbd0 >/tmp/resize 2>&1 || { cat /tmp/resize >&2; exit 1; }")
	s.vm.Run(s.t, "guest fill -file /m/large -mib 24; sync; echo 3 >/proc/sys/vm/drop_caches; guest fill -file /m/large -mib 24 -check; rm /m/large")
}

// stall runs act, returns when the writer has gone on well beyond it, and logs how long a step took at most.
func (s *site) stall(w *rig.Cmd, what string, act func()) {
	s.t.Helper()
	from := len(w.Output())
	act()
	awaitSteps(s.t, w, 3)
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
