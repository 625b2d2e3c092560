#!/bin/sh
# Installs the programs that tests, demo and benchmarks use. It changes something only on a Debian
# machine and only as root; elsewhere it says what is missing, and tests skip and say so, too.
set -eu

# program:package
wanted="nbdkit:nbdkit nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbd-client:nbd-client
qemu-img:qemu-utils qemu-io:qemu-utils qemu-storage-daemon:qemu-utils fio:fio mkfs.ext4:e2fsprogs
e2fsck:e2fsprogs mkfs.xfs:xfsprogs fusermount3:fuse3 strace:strace jq:jq ip:iproute2 losetup:mount
fence_dummy:fence-agents haproxy:haproxy curl:curl ocf-tester:resource-agents xmllint:libxml2-utils
shellcheck:shellcheck systemd-analyze:systemd udevadm:udev unshare:util-linux dbus-daemon:dbus
qemu-system-x86_64:qemu-system-x86 xz:xz-utils"

PATH=$PATH:/usr/sbin:/sbin
missing=
need() { case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac; }
for entry in $wanted; do
	command -v "${entry%%:*}" >/dev/null 2>&1 || need "${entry#*:}"
done
# QEMU speaks NBD through a module of its own.
if ! ls /usr/lib/*/qemu/block-*.so >/dev/null 2>&1; then need qemu-block-extra; fi
# A machine of tests/vm has no libraries.
[ -e /usr/share/doc/busybox-static ] || need busybox-static
# The server, whose programs are in no path.
ls /usr/lib/postgresql/*/bin/pg_amcheck >/dev/null 2>&1 || need postgresql
[ -e /usr/lib/systemd/system/dbus.service ] || need dbus
[ -e /usr/lib/ocf/resource.d/heartbeat/Dummy ] || need resource-agents
command -v fio >/dev/null 2>&1 && ! fio --enghelp 2>/dev/null | grep -qw nbd && need fio

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
	echo "installing:$missing"
	log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	if { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
		rm -f "$log"
		exit 0
	fi
	tail -20 "$log" >&2
	rm -f "$log"
	echo "COULD NOT INSTALL:$missing" >&2
else
	echo "NOT INSTALLED, and this is not root on Debian:$missing" >&2
fi
if [ "${LOCKSTEP_REQUIRE:-}" = all ]; then
	exit 1
fi
echo "TESTS THAT NEED THEM ARE SKIPPED" >&2
