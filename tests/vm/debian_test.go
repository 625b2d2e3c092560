package vm

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

// debianScript makes a machine run systemd.
//
//go:embed testdata/debian.sh
var debianScript []byte

// debian is a host as its user has it: systemd starts and stops everything, and files are where the manuals say.
type debian struct {
	t   *testing.T
	cfg rig.Config
	vm  *rig.VM
}

func (d *debian) node() string { return fmt.Sprintf("n%d", d.cfg.Machine) }

func (d *debian) run(format string, args ...any) string {
	d.t.Helper()
	return d.vm.Runf(d.t, format, args...)
}

// boot starts the host and returns when systemd has started what it is to start.
func (d *debian) boot() {
	d.t.Helper()
	d.vm = rig.Boot(d.t, d.cfg)
	vm := d.vm
	d.t.Cleanup(func() {
		if d.t.Failed() {
			d.t.Logf("%s:\n%s", d.node(), vm.Look(`journalctl -b --no-pager -o short-monotonic | grep -v msg=gossip | tail -n 150
timeout 5 lockstep status; grep srv /proc/mounts; lockstep attach --list`))
		}
		d.t.Logf("%s took %v of processor time since its boot", d.node(), vm.CPU())
	})
	d.run(`systemctl is-system-running --wait >/tmp/state || { cat /tmp/state; systemctl --failed; exit 1; } >&2`)
}

// shutdown ends the host as an operator does.
func (d *debian) shutdown() {
	d.t.Helper()
	begun := time.Now()
	d.vm.Start("systemctl reboot")
	select {
	case <-d.vm.Ended():
	case <-time.After(rig.Limit):
		d.t.Fatalf("%s does not go down:\n%s", d.node(), d.vm.Serial())
	}
	d.t.Logf("%s went down in %v (emulated)", d.node(), time.Since(begun).Round(time.Millisecond))
	for _, disk := range d.cfg.Disks {
		disk.Settle()
	}
}

// wentDownInOrder fails the test if the journal of the boot before this one, the host's last shutdown with it, has
// anything that an operator would worry about.
func (d *debian) wentDownInOrder() {
	d.t.Helper()
	d.run(`journalctl -b -1 --no-pager -o short-monotonic >/tmp/journal
grep -E "I/O error|timed out|Killing|Failed with result|is busy|level=ERROR" /tmp/journal >&2 || exit 0
grep -v msg=gossip /tmp/journal | tail -n 100 >&2
exit 1`)
}

// Two hosts with the systemd of Debian, set up by the commands of docs/operations.md and docs/filesystem.md:
// PostgreSQL on a device of the kernel's, with an address.
func TestDebian_PostgreSQLMovesAsHostsRebootAndLosePower(t *testing.T) {
	parallelFirst(t)
	need.Tool(t, "systemctl", "systemd")
	need.Tool(t, "pg_ctlcluster", "postgresql")
	s := startDebian(t)
	one, two := s[0], s[1]
	step(t, "database", func() {
		one.run(`lockstep resource create r0 --size 96MiB --replica n1=/var/lib/lockstep/r0.img --replica n2=/var/lib/lockstep/r0.img >/dev/null
lockstep resource set r0 --resync-impact 1000 >/dev/null
lockstep promote r0
lockstep attach r0 /dev/nbd0
mkfs.ext4 -q /dev/nbd0
[ -b /dev/lockstep/r0 ]
lockstep detach /dev/nbd0
lockstep resource set r0 --attach /dev/nbd0 --mount /srv/data,opt=noatime`)
		one.follows()
		one.run(`install -d -o postgres -g postgres -m 700 /srv/data/pg
runuser -u postgres -- /usr/lib/postgresql/*/bin/initdb -k -N --wal-segsize=1 --no-instructions -D /srv/data/pg >/dev/null`)
		for _, h := range s {
			h.run(`v=$(ls /usr/lib/postgresql | tail -n 1); c=/etc/postgresql/$v/main
mkdir -p $c /var/lib/postgresql
cat >$c/postgresql.conf <<-CONF
	data_directory = '/srv/data/pg'
	hba_file = '$c/pg_hba.conf'
	ident_file = '$c/pg_ident.conf'
	external_pid_file = '/var/run/postgresql/$v-main.pid'
	unix_socket_directories = '/var/run/postgresql'
	listen_addresses = '*'
	min_wal_size = 4MB
	max_wal_size = 16MB
CONF
echo 'host all all 10.9.0.0/24 trust
local all all trust' >$c/pg_hba.conf
: >$c/pg_ident.conf
chown -R postgres:postgres $c`)
		}
		one.run(`lockstep resource set r0 --attach /dev/nbd0 --mount /srv/data,opt=noatime --vip 10.9.0.10/24 --unit postgresql@$(ls /usr/lib/postgresql | tail -n 1)-main.service,stop-timeout=2m`)
		one.follows()
		one.run("%s", psql("create table t (i int); insert into t values (1)"))
	})
	step(t, "a reboot", func() {
		one.shutdown()
		two.follows()
		two.has(1)
		// Unmounted, and not merely left: there was no journal to replay.
		two.run("! dmesg | grep 'recovery complete'")
		one.boot()
		two.inSync()
		one.wentDownInOrder()
		one.clean()
		two.add(2)
	})
	step(t, "the daemon is restarted", func() {
		two.run("systemctl restart lockstep-node")
		one.follows()
		one.has(2)
		two.clean()
		one.inSync()
		one.add(3)
	})
	step(t, "a power cut", func() {
		t.Logf("power cut: %v", one.vm.PowerCut(7))
		two.follows()
		two.has(3)
		one.boot()
		two.inSync()
		one.clean()
	})
	step(t, "the device and its mount are systemd's", func() {
		two.run("lockstep resource set r0 --no-services >/dev/null")
		two.clean()
		one.run(`systemctl enable --now lockstep-attach@r0:nbd0.service 2>/dev/null
echo '/dev/lockstep/r0 /srv/data ext4 _netdev,nofail,x-systemd.requires=lockstep-attach@r0:nbd0.service,x-systemd.device-timeout=60s 0 0' >>/etc/fstab
systemctl daemon-reload
systemctl start srv-data.mount
echo kept >/srv/data/kept`)
		one.shutdown()
		one.boot()
		one.run(`systemctl is-active srv-data.mount lockstep-attach@r0:nbd0.service >&2; [ $(cat /srv/data/kept) = kept ]`)
		one.wentDownInOrder()
		two.inSync()
	})
}

// add inserts a row into the database, at its address.
func (d *debian) add(row int) {
	d.t.Helper()
	d.run("%s", psql(fmt.Sprintf("insert into t values (%d)", row)))
}

// has fails the test unless the database has so many rows, of those that add has made one by one.
func (d *debian) has(rows int) {
	d.t.Helper()
	if out := strings.TrimSpace(d.run("%s", psql("select count(*), max(i) from t"))); out != fmt.Sprintf("%d|%[1]d", rows) {
		d.t.Errorf("%s: the database has %q, not %d rows", d.node(), out, rows)
	}
}

// clean returns when nothing that follows the primary is left here.
func (d *debian) clean() {
	d.t.Helper()
	d.run(`for i in $(seq 1 200); do
	[ -z "$(grep /srv/data /proc/mounts)$(lockstep attach --list)$(ip addr | grep -F 10.9.0.10/)$(pgrep -u postgres)" ] && exit 0
	sleep 0.3
done
(grep /srv/data /proc/mounts; lockstep attach --list; ip addr; pgrep -a -u postgres) >&2; exit 1`)
}

// follows returns when this host is primary and all that follows the primary runs here.
func (d *debian) follows() {
	d.t.Helper()
	d.run("guest insync -socket /var/lib/lockstep/control.sock -services %s >/dev/null", d.node())
}

// inSync returns when this host is primary, with both replicas.
func (d *debian) inSync() {
	d.t.Helper()
	d.run("guest insync -socket /var/lib/lockstep/control.sock >/dev/null")
}

// psql is a command that asks the database at its address.
func psql(query string) string {
	return "runuser -u postgres -- psql -h 10.9.0.10 -qAt -c '" + query + "'"
}

// startDebian boots two hosts and has them form a cluster, with the witness beside n2.
func startDebian(t *testing.T) [2]*debian {
	t.Helper()
	k := rig.FindKernel(t)
	image := rig.Initramfs(t, k, rig.Contents{
		Modules: []rig.Module{{Name: "nbd", Params: "nbds_max=4"}, {Name: "virtio_net"}, {Name: "9pnet_virtio"}, {Name: "9p"}, {Name: "overlay"}},
		Tools:   tools[:2],
		Files:   map[string][]byte{"/bin/system": debianScript},
	})
	network := rig.NewNetwork(t)
	var s [2]*debian
	for i := range s {
		s[i] = &debian{t: t, cfg: rig.Config{
			Kernel: k, Initramfs: image, Disks: []*rig.Disk{rig.NewDisk(t, 512*mib)}, MemoryMiB: 640, Network: network, Machine: i + 1,
			Share: "/", Append: "systemd.condition-needs-update=no systemd.show_status=0",
		}}
		s[i].boot()
		s[i].run(`lockstep install-files >/dev/null; systemctl daemon-reload; udevadm control --reload`)
	}
	one, two := s[0], s[1]
	one.run(`lockstep cluster init --name c1 --node n1 --listen 10.9.0.1:7780 --nbd 10.9.0.1:10809 --timing wan >/dev/null
%s
systemctl enable --now lockstep-node.service 2>/dev/null`, slowly("/var/lib/lockstep"))
	join := func(node, options string) {
		token := strings.TrimSpace(one.run("lockstep cluster token --for %s", node))
		two.run("umask 77; echo %s >/root/token; lockstep cluster join 10.9.0.1:7780 --token-file /root/token --node %s %s >/dev/null", token, node, options)
	}
	join("n2", "--listen 10.9.0.2:7780 --nbd 10.9.0.2:10809")
	join("w", "--witness --data-dir /var/lib/lockstep-w --listen 10.9.0.2:7790 --gossip 10.9.0.2:7791")
	two.run(`%s
%s
systemctl enable --now lockstep-node.service 2>/dev/null
systemd-run -q --unit lockstep-w lockstep node --config /var/lib/lockstep-w/node.toml`, slowly("/var/lib/lockstep"), slowly("/var/lib/lockstep-w"))
	one.run(`for i in $(seq 1 200); do
	lockstep status >/tmp/status
	grep -q 'n2,w(witness)' /tmp/status && ! grep -q no-vote /tmp/status && exit 0
	sleep 0.3
done
cat /tmp/status >&2; exit 1`)
	return s
}

// slowly is a script that gives a node the timings of an emulated machine; see guest lab.
func slowly(dir string) string {
	return fmt.Sprintf(`printf 'beacon_interval = "1s"\nlease = "4s"\n' | cat - %s/node.toml >/tmp/toml; cat /tmp/toml >%[1]s/node.toml`, dir)
}
