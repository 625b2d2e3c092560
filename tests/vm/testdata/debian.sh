# Process 1 of a machine that is to run the systemd of the machine that runs the test: its programs are that
# machine's own /usr, which nobody can change; what is written lies on /dev/vda, and outlives a reboot.
set -e
trap 'echo "debian.sh failed at line $LINENO"' EXIT
root=/newroot
host=/hostroot
mkdir -p $root $host
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose share $host
fresh=
if ! mount -t ext4 /dev/vda $root 2>/dev/null; then
	fresh=yes
	mkfs.ext4 -q -m 0 /dev/vda
	mount -t ext4 /dev/vda $root
	cd $root
	mkdir -p etc var/log/journal var/lib var/tmp usr proc sys dev run tmp root srv/data mnt overlay/upper overlay/work
	chmod 1777 tmp var/tmp
	for d in bin sbin lib lib32 lib64 libx32; do
		[ -e $host/usr/$d ] && ln -s usr/$d $d
	done
	ln -s /run var/run
fi
mount -t overlay -o lowerdir=$host/usr,upperdir=$root/overlay/upper,workdir=$root/overlay/work overlay $root/usr
if [ -n "$fresh" ]; then
	# The configuration of the machine that runs the test, as far as the emulator may read it, less what would start,
	# mount or name something.
	for f in $host/etc/*; do
		case ${f##*/} in
		systemd | rc?.d | init.d | fstab | machine-id | hostname | network | resolv.conf | postgresql) ;;
		*) cp -a $f $root/etc/ 2>/dev/null || true ;;
		esac
	done
	mkdir -p $root/usr/local/bin $root/etc/systemd/system/multi-user.target.wants $root/etc/systemd/journald.conf.d
	cp /bin/guest $root/usr/local/bin/guest
	cp /bin/lockstep $root/usr/local/bin/lockstep
	head -c 16 /dev/urandom | md5sum | cut -d ' ' -f 1 >$root/etc/machine-id
	cd $root/etc/systemd/system
	ln -s /lib/systemd/system/multi-user.target default.target
	# The agent is there before everything else, and until the very end.
	cat >rig-agent.service <<-UNIT
		[Unit]
		DefaultDependencies=no
		[Service]
		ExecStart=/usr/local/bin/guest agent
		Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
		OOMScoreAdjust=-1000
	UNIT
	cat >rig-network.service <<-'UNIT'
		[Unit]
		DefaultDependencies=no
		Before=network.target network-online.target
		Wants=network.target
		Conflicts=shutdown.target
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/bin/sh -c 'm=$$(cat /sys/class/net/eth0/address); ip addr add 10.9.0.$${m##*:0}/24 dev eth0; hostname n$${m##*:0}; ip link set lo up; ip link set eth0 up'
		ExecStop=/bin/sh -c 'ip addr flush dev eth0; ip link set eth0 down'
	UNIT
	mkdir -p sysinit.target.wants network-online.target.wants
	ln -s ../rig-agent.service sysinit.target.wants/
	ln -s ../rig-network.service multi-user.target.wants/
	ln -s /lib/systemd/system/remote-fs.target multi-user.target.wants/ # as Debian has it
	ln -s ../rig-network.service network-online.target.wants/
	# What an emulated machine can do without.
	for u in getty.target serial-getty@ttyS0.service systemd-logind.service systemd-networkd-wait-online.service; do ln -s /dev/null $u; done
fi
cd /
for d in proc sys dev run; do mount --move /$d $root/$d; done
mkdir -p $root/run/hostroot
mount --move $host $root/run/hostroot
trap - EXIT
exec switch_root $root /lib/systemd/systemd
