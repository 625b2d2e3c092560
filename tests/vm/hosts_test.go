package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// host is a machine with a kernel of its own: a disk, an address, and daemons.
type host struct {
	t       testing.TB
	machine int // 1 or 2, as in n1 and n2
	cfg     rig.Config
	vm      *rig.VM
	daemon  *rig.Cmd // of n1 or n2
}

// node is the name of the host's data node.
func (h *host) node() string { return fmt.Sprintf("n%d", h.machine) }

func (h *host) addr() string { return fmt.Sprintf("10.9.0.%d", h.machine) }

func (h *host) run(script string) string {
	h.t.Helper()
	return h.vm.Run(h.t, "export LOCKSTEP_SOCKET=/lab/"+h.node()+"/control.sock\n"+script)
}

func (h *host) runf(format string, args ...any) string {
	h.t.Helper()
	return h.run(fmt.Sprintf(format, args...))
}

// boot starts the host, without daemons.
func (h *host) boot() {
	h.t.Helper()
	fresh := h.vm == nil
	h.vm = rig.Boot(h.t, h.cfg)
	vm := h.vm
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("%s:\n%s", h.node(), vm.Look(`for f in /lab/*/log /run/lockstep/attach/*.log; do echo "== $f"; grep -v msg=gossip $f | tail -n 60; done
timeout 5 lockstep status --socket /lab/`+h.node()+`/control.sock; dmesg | tail -n 30`))
		}
		h.t.Logf("%s took %v of processor time since its boot", h.node(), vm.CPU())
	})
	if fresh {
		h.run("mkfs.ext4 -q -m 0 /dev/vda")
	}
	h.run(`guest load nbd
guest load virtio_net
hostname ` + h.node() + `
ip addr add ` + h.addr() + `/24 dev eth0
ip link set eth0 up
mkdir -p /lab /srv/data
mount /dev/vda /lab`)
}

// serve starts a daemon.
func (h *host) serve(node string) *rig.Cmd {
	return h.vm.Start(fmt.Sprintf("exec lockstep node --config /lab/%s/node.toml >>/lab/%[1]s/log 2>&1", node))
}

// slow gives a node the timings of an emulated machine; see guest lab.
func (h *host) slow(node string) {
	h.t.Helper()
	h.runf(`f=/lab/%s/node.toml
printf 'beacon_interval = "1s"\nlease = "4s"\n' | cat - $f >/tmp/toml && cat /tmp/toml >$f`, node)
}

// answers returns when a node answers operators.
func (h *host) answers(node string) {
	h.t.Helper()
	h.runf(`for i in $(seq 1 150); do
	lockstep status --socket /lab/%s/control.sock >/tmp/status 2>&1 && exit 0
	sleep 0.3
done
cat /tmp/status >&2; tail -n 20 /lab/%[1]s/log >&2; exit 1`, node)
}

// clean returns when nothing that followed the primary is left on the host.
func (h *host) clean() {
	h.t.Helper()
	h.run(`for i in $(seq 1 200); do
	[ -z "$(grep /srv/data /proc/mounts)$(lockstep attach --list)" ] && exit 0
	sleep 0.3
done
(grep /srv/data /proc/mounts; lockstep attach --list) >&2; exit 1`)
}

// writes starts to write to the mounted file system; write number run.
func (h *host) writes(run int) *rig.Cmd {
	h.t.Helper()
	w := h.vm.Start(fmt.Sprintf("guest write -dir /srv/data -run %d -pause 100ms -until /tmp/stop", run))
	awaitSteps(h.t, w, 3)
	return w
}

// hosts are two of them, r0 on both, with a file system that follows its primary.
type hosts struct {
	t    *testing.T
	net  *rig.Network
	all  [2]*host
	runs []int // steps that run i+1 of guest write had synced
}

// startHosts forms a cluster of two machines as docs/operations.md has it, with the witness on the second, and has
// a file system follow the primary, n1.
func startHosts(t *testing.T) *hosts {
	t.Helper()
	k := rig.FindKernel(t)
	image := initramfs(t, k)
	s := &hosts{t: t, net: rig.NewNetwork(t)}
	for i := range s.all {
		h := &host{t: t, machine: i + 1}
		h.cfg = rig.Config{
			Kernel: k, Initramfs: image, Disks: []*rig.Disk{rig.NewDisk(t, 96*mib)}, MemoryMiB: 512,
			Network: s.net, Machine: h.machine,
		}
		s.all[i] = h
		h.boot()
	}
	one, two := s.all[0], s.all[1]
	one.run("lockstep cluster init --name c1 --node n1 --listen 10.9.0.1:7780 --nbd 10.9.0.1:10809 --data-dir /lab/n1 --timing wan >/dev/null")
	one.slow("n1")
	one.daemon = one.serve("n1")
	one.answers("n1")
	join := func(node, options string) *rig.Cmd {
		token := strings.TrimSpace(one.run("lockstep cluster token --for " + node))
		two.runf(`umask 77; echo %s >/tmp/token
lockstep cluster join 10.9.0.1:7780 --token-file /tmp/token --node %s --data-dir /lab/%[2]s %s >/dev/null`, token, node, options)
		two.slow(node)
		return two.serve(node)
	}
	two.daemon = join("n2", "--listen 10.9.0.2:7780 --nbd 10.9.0.2:10809")
	join("w", "--witness --listen 10.9.0.2:7790 --gossip 10.9.0.2:7791")
	one.run(`for i in $(seq 1 200); do
	lockstep status >/tmp/status
	grep -q 'w(witness)' /tmp/status && ! grep -q no-vote /tmp/status && exit 0
	sleep 0.3
done
cat /tmp/status >&2; exit 1`)
	one.run(`lockstep resource create r0 --size 32MiB --replica n1=/lab/n1/r0.img --replica n2=/lab/n2/r0.img >/dev/null
lockstep resource set r0 --resync-impact 1000 >/dev/null
lockstep promote r0 >/dev/null
guest insync -dir /lab >/dev/null
lockstep attach r0 /dev/nbd0 >/dev/null
mkfs.ext4 -q /dev/nbd0
lockstep detach /dev/nbd0 >/dev/null
lockstep resource set r0 --attach /dev/nbd0,monitor-interval=1s --mount /srv/data,opt=noatime,monitor-interval=1s >/dev/null`)
	s.follows(one)
	return s
}

// follows returns when what follows the primary runs on h.
func (s *hosts) follows(h *host) {
	s.t.Helper()
	h.runf(`guest insync -dir /lab -services %s >/dev/null; grep -q "^/dev/nbd0 /srv/data ext4 rw" /proc/mounts`, h.node())
}

// has fails the test unless all that was synced, by whichever host, is in the file system that h has mounted.
func (s *hosts) has(h *host) {
	s.t.Helper()
	h.run(verifyCommand("/srv/data", s.runs))
}

// lost has the primary lost while it is written to, and returns when the other has taken over with all that was
// synced. over ends the writer, who may go on for a while on the lost host: what it syncs there counts, too.
func (s *hosts) lost(from, to *host, lose func(), over func(w *rig.Cmd)) {
	s.t.Helper()
	w := from.writes(len(s.runs) + 1)
	begun := time.Now()
	lose()
	s.follows(to)
	s.t.Logf("%s has taken over, and mounted, after %v (emulated)", to.node(), time.Since(begun).Round(time.Millisecond))
	over(w)
	s.runs = append(s.runs, parseSynced(s.t, w.Output()).steps)
	s.has(to)
}

// move switches over from one host to the other, while it is written to.
func (s *hosts) move(from, to *host) {
	s.t.Helper()
	w := from.writes(len(s.runs) + 1)
	from.run("touch /tmp/stop")
	out, err := w.Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	s.runs = append(s.runs, parseSynced(s.t, out).steps)
	from.runf("rm -f /tmp/stop; lockstep switchover r0 --to %s --timeout 3m", to.node())
	s.follows(to)
	s.has(to)
	from.clean()
}

// inSync returns when primary serves with both replicas.
func (s *hosts) inSync(primary *host) {
	s.t.Helper()
	primary.run("guest insync -dir /lab >/dev/null")
}

// failed returns when a writer on the lost host has ended: it met the error that a device without an attachment
// answers with, or was in the way of unmounting.
func failed(t testing.TB) func(w *rig.Cmd) {
	return func(w *rig.Cmd) {
		t.Helper()
		if out, err := w.Wait(); err == nil || w.Code() < 0 {
			t.Errorf("the writer on the lost host: exit code %d, %v\n%s", w.Code(), err, out)
		}
	}
}

// Two machines, each with a kernel, a mount table and a device of its own: what a lost primary leaves on its host, and
// what the other one finds. What was synced on either is there, whoever serves.
func TestHosts_DeviceAndMountFollow_AndWhatALostPrimaryLeftIsTakenAway(t *testing.T) {
	parallel(t)
	s := startHosts(t)
	one, two := s.all[0], s.all[1]
	step(t, "the host loses its power", func() {
		s.lost(one, two, func() { t.Logf("power cut: %v", one.vm.PowerCut(5)) }, func(*rig.Cmd) {})
	})
	step(t, "it comes back", func() {
		one.boot()
		one.daemon = one.serve("n1")
		s.inSync(two)
		one.clean()
		s.move(two, one)
	})
	step(t, "the daemon is killed, and its host lives", func() {
		s.inSync(one)
		s.lost(one, two, one.daemon.Kill, failed(t))
		one.run(`grep -q /srv/data /proc/mounts`)
		one.daemon = one.serve("n1")
		one.answers("n1")
		one.clean()
		s.inSync(two)
		s.move(two, one)
	})
	step(t, "the host is cut off", func() {
		s.inSync(one)
		s.lost(one, two, func() { s.net.Pull(1, true) }, func(w *rig.Cmd) {
			s.net.Pull(1, false)
			failed(t)(w)
		})
		one.clean()
		s.inSync(two)
	})
	two.run("lockstep resource set r0 --no-services >/dev/null")
	two.clean()
	s.inSync(two)
	var sums []string
	for _, h := range s.all {
		h.daemon.Kill()
		sums = append(sums, strings.Fields(h.runf("e2fsck -fn /lab/%s/r0.img >/tmp/check 2>&1 || { cat /tmp/check >&2; exit 1; }; md5sum /lab/%[1]s/r0.img", h.node()))[0])
	}
	if sums[0] != sums[1] {
		t.Errorf("the replicas differ: %v", sums)
	}
}
