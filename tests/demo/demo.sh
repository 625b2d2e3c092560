#!/bin/bash
# A cluster in a minute: two data nodes and a witness on this machine, real data through NBD, the
# loss of a node under load, resync, switchover, and the proof that not one byte differs. Ends with
# a code other than 0 when anything is not as it should be. Usage: demo.sh [PATH OF lockstep]
set -euo pipefail
here=$(realpath "$(dirname "$0")")
. "$here/lib.sh"
lockstep=$(realpath -m "${1:-$here/../../bin/lockstep}")
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy libnbd-bin
need fio fio
need jq jq
[ -x "$lockstep" ] || { echo "no program at $lockstep: make build" >&2; exit 1; }

tmp=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/lockstep-demo-XXXXXX")
lab=$tmp/lab
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n== %s\n' "$*"; }
mib() { echo "$(($1 / 1048576)) MiB"; }
end() {
	rc=$?
	trap - EXIT
	[ $rc = 0 ] || tail -n 20 "$lab"/*/log >&2 || true
	"$lockstep" lab down --dir "$lab" >/dev/null 2>&1 || true
	rm -rf "$tmp"
	[ $rc = 0 ] || echo "DEMO FAILED" >&2
	exit $rc
}
trap end EXIT

say "A cluster on this machine: data nodes n1 and n2, witness w"
"$lockstep" lab up --dir "$lab" --size 256MiB >"$tmp/up" 2>&1 || { cat "$tmp/up" >&2; exit 1; }
ask n1 status

say "64 MiB of random data, in through the NBD socket of n1"
head -c 64M /dev/urandom >"$tmp/data"
nbdcopy --flush "$tmp/data" "$(uri n1)"
for n in n1 n2; do
	cmp -n 67108864 "$tmp/data" "$(image $n)"
	echo "the backing file of $n holds them"
done

say "fio writes and verifies on n1; n2 is killed with SIGKILL in the middle"
fio --name=load --ioengine=nbd --uri="$(uri n1)" --rw=randwrite --bs=64k --iodepth=8 --offset=64m --size=128m \
	--rate=24m --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --output="$tmp/fio" &
load=$!
for _ in $(seq 100); do # until a part of it has arrived at n2
	[ "$(stat -c %b "$(image n2)")" -gt 163840 ] && break
	sleep 0.1
done
"$lockstep" lab kill n2 --dir "$lab"
kill -0 $load || { echo "fio ended before n2 was killed" >&2; exit 1; }
last=-1
for _ in 1 2 3; do
	sleep 0.7
	now=$(dirty n1 n2)
	echo "n1 serves; n2 lacks $(mib "$now")"
	[ "$now" -ge "$last" ] || { echo "the dirty count shrank without a peer" >&2; exit 1; }
	last=$now
done
wait $load || { cat "$tmp/fio" >&2; exit 1; }
grep -q 'err= 0' "$tmp/fio"
echo "fio has verified every byte: the client saw no error"
lacks=$(dirty n1 n2)
[ "$lacks" -gt 0 ] || { echo "nothing is dirty after writes without a peer" >&2; exit 1; }
ask n1 status

say "n2 comes back: only the $(mib "$lacks") that it lacks are copied, not 256 MiB"
"$lockstep" lab start n2 --dir "$lab"
until_in_sync n1
ask n1 events --json | jq -r 'select(.kind | startswith("resync")) | .text'
ask n1 status

say "The roles are switched: n2 becomes primary"
ask n1 switchover r0 --to n2
until_in_sync n2
ask n2 status

say "Everything is read back from n2, and both backing files are compared"
nbdcopy "$(uri n2)" "$tmp/back"
cmp -n 67108864 "$tmp/data" "$tmp/back"
cmp "$tmp/back" "$(image n1)"
cmp "$(image n1)" "$(image n2)"
echo "identical: what went in, what comes out, and both replicas"
