#!/bin/bash
# Records a real session and puts it into README.md, between the lines "<!-- session -->" and
# "<!-- /session -->". Usage: session.sh [PATH OF lockstep]
set -euo pipefail
here=$(realpath "$(dirname "$0")")
. "$here/lib.sh"
lockstep=$(realpath -m "${1:-$here/../../bin/lockstep}")
readme=$(realpath "$here/../../README.md")
PATH=$(dirname "$lockstep"):$PATH:/usr/sbin:/sbin
need jq jq
need nbdcopy libnbd-bin
lab=/dev/shm/lab
[ ! -e $lab ] || { echo "$lab exists already" >&2; exit 1; }
out=$(mktemp)
trap '"$lockstep" lab down --dir $lab >/dev/null 2>&1 || true; rm -rf $lab "$out"' EXIT

# show COMMAND: prints it as typed, runs it, prints what it says.
show() {
	printf '$ %s\n' "$1"
	bash -c "$1" 2>&1
}
export LOCKSTEP_SOCKET=$lab/n1/control.sock
head -c 48M /dev/urandom >/dev/shm/lab.img
{
	printf '$ lockstep lab up --dir %s            # two data nodes and a witness on this machine\n' $lab
	lockstep lab up --dir $lab >/dev/null 2>&1
	printf '$ export LOCKSTEP_SOCKET=%s\n' $LOCKSTEP_SOCKET
	show 'lockstep status'
	echo
	show "lockstep lab kill n2 --dir $lab"
	for _ in $(seq 100); do
		[ "$(ask n1 status r0 --json | jq '.resources[0].in_sync | length')" = 1 ] && break
		sleep 0.1
	done
	show "nbdcopy --flush /dev/shm/lab.img '$(uri n1)'"
	show 'lockstep status r0'
	echo
	show "lockstep lab start n2 --dir $lab"
	until_in_sync n1
	show 'lockstep switchover r0 --to n2'
	until_in_sync n2
	show 'lockstep status r0 --node n2'
	show "cmp $(image n1) $(image n2) && echo identical"
} >"$out"
rm -f /dev/shm/lab.img
awk -v session="$out" '
	/^<!-- session -->$/ { print; print "```console"; while ((getline line < session) > 0) print line; print "```"; skip = 1 }
	/^<!-- \/session -->$/ { skip = 0 }
	!skip { print }' "$readme" >"$readme.new"
mv "$readme.new" "$readme"
