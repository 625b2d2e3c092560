package vm

import (
	"strings"
	"testing"
	"time"
)

// services shows that the device and what is mounted on it follow the primary. Both nodes share this machine's
// kernel, so what a lost primary leaves on its host cannot be shown here: the next one would find the same device
// and the same mount.
func (s *site) services(t *testing.T) {
	s.attach("")
	s.vm.Run(t, "mkfs.ext4 -q /dev/nbd0")
	s.detach()
	if p := s.waitInSync(); p != "n1" {
		s.cli("n1", "switchover r0 --to n1")
	}
	s.cli("n1", "resource set r0 --attach /dev/nbd0,monitor-interval=1s --mount /srv/data,opt=noatime,monitor-interval=1s")
	s.awaitMount("n1")
	s.vm.Run(t, "echo one >/srv/data/one; sync")
	for i, to := range []string{"n2", "n1"} {
		s.waitInSync()
		begun := time.Now()
		s.cli(to, "switchover r0 --to "+to+" --timeout 3m")
		s.awaitMount(to)
		t.Logf("mounted by %s %v after the switchover was asked for (emulated)", to, time.Since(begun).Round(time.Millisecond))
		s.vm.Runf(t, "[ $(cat /srv/data/one) = one ]; echo %s >/srv/data/by-%s; sync", to, to)
		if out := s.cli(to, "attachments r0"); strings.Count(out, "/services") != 1 || !strings.Contains(out, to+"/services") {
			t.Errorf("switchover %d: attached is\n%s", i+1, out)
		}
	}

	// Its relay dies: the monitor starts another, and nobody is unmounted.
	s.vm.Run(t, `pid=$(lockstep attach --list --json | tr -d ' \n' | sed 's/.*"pid":\([0-9]*\).*/\1/')
kill -9 $pid
echo after >/srv/data/after; sync
[ $(lockstep attach --list --json | tr -d ' \n' | sed 's/.*"pid":\([0-9]*\).*/\1/') != $pid ]`)
	s.noErrors()

	// Its attachment is ended by others, as when another node became primary while this one was cut off. What is
	// mounted is dead, and somebody stands in it: it is unmounted none the less, and mounted anew.
	s.vm.Run(t, `(cd /srv/data && exec sleep 1000) & echo lost >/srv/data/not-synced
number() { lockstep attachments r0 --socket /lab/n1/control.sock | sed -n 's/^r0 *\([0-9]*\) .*/\1/p'; }
old=$(number)
lockstep attachment drop r0 $old --socket /lab/n1/control.sock
for i in $(seq 1 150); do
	new=$(number)
	[ -n "$new" ] && [ "$new" != "$old" ] && exit 0
	sleep 0.3
done
lockstep status r0 --socket /lab/n1/control.sock >&2; exit 1`)
	s.awaitMount("n1")
	s.vm.Run(t, "echo new >/srv/data/new; sync")
	s.vm.Run(t, "[ $(cat /srv/data/one) = one ]; [ $(cat /srv/data/after) = after ]; [ $(cat /srv/data/new) = new ]")

	s.cli("n1", "resource set r0 --no-services")
	s.vm.Run(t, `for i in $(seq 1 100); do
	[ -z "$(grep /srv/data /proc/mounts)$(lockstep attach --list)" ] && exit 0
	sleep 0.2
done
lockstep attach --list >&2; exit 1`)
	s.waitInSync()
	s.same()
	s.vm.Run(t, "e2fsck -fn /lab/n1/r0.img >/tmp/check 2>&1 || { cat /tmp/check >&2; exit 1; }")
}

// awaitMount waits until the services run on a node.
func (s *site) awaitMount(node string) {
	s.t.Helper()
	s.vm.Runf(s.t, `guest insync -dir /lab -services %s; grep -q " /srv/data " /proc/mounts`, node)
}
