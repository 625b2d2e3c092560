#!/bin/sh
# device.sh ACTION DIR URI: the export as a block device, for hosts without the nbd module. nbdfuse makes a file of
# it, a loop device makes a device of the file, and DIR/dev is a link to that. NODE in URI stands for this node.
#
# Stop has to succeed while the server is dead or does not answer: then whatever asks the kernel about the file or
# the loop device waits, too. So nothing here waits for the kernel without a limit, and the end of nbdfuse, which
# fails all that waits for it, comes before patience is over.
set -u
action=$1 dir=$2 uri=$(printf %s "$3" | sed "s/NODE/$LOCKSTEP_NODE/")
PATH=$PATH:/usr/sbin:/sbin

# server prints the process id of nbdfuse while it runs. One that has ended and was not waited for has no program.
server() {
	pid=$(cat "$dir/pid" 2>/dev/null) || return 1
	case $(readlink "/proc/$pid/exe") in */nbdfuse*) echo "$pid" ;; *) return 1 ;; esac
}

# loop prints the loop device while it has its file. The kernel knows without asking the file.
loop() {
	dev=$(readlink "$dir/dev") && grep -qsF "$dir/fuse/nbd" "/sys/block/${dev#/dev/}/loop/backing_file" && echo "$dev"
}

# within SECONDS CONDITION...: whether the condition becomes true in that time.
within() {
	tries=$(($1 * 20))
	shift
	while ! "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.05
	done
}
ready() { [ -s "$dir/pid" ] || ! kill -0 "$child" 2>/dev/null; }
no_server() { ! server >/dev/null; }
no_loop() { ! loop >/dev/null; }

stop() {
	if dev=$(loop); then
		losetup -d "$dev" >/dev/null 2>&1 & # beside this: it waits for requests under way
		if ! within 2 no_loop && pid=$(server); then
			kill -9 "$pid"
			within 5 no_loop || { echo "$dev is still in use"; exit 1; }
		fi
	fi
	umount -l "$dir/fuse" 2>/dev/null # once it is unused, nbdfuse says goodbye to the server and ends
	if ! within 2 no_server && pid=$(server); then
		kill -9 "$pid"
		within 5 no_server || { echo "nbdfuse ($pid) does not end"; exit 1; }
	fi
	rm -f "$dir/dev" "$dir/pid"
}

case $action in
start)
	server >/dev/null && loop >/dev/null && exit 0
	stop # what an earlier one may have left
	mkdir -p "$dir/fuse"
	setsid nbdfuse -P "$dir/pid" "$dir/fuse" "$uri" >"$dir/log" 2>&1 & # out of the group that a deadline kills
	child=$!
	if ! within 10 ready || no_server; then
		tail -n 1 "$dir/log"
		stop
		exit 1
	fi
	# Direct: what the file's cache holds would be read although the server is gone.
	dev=$(losetup -f --show --direct-io=on "$dir/fuse/nbd") || { stop; exit 1; }
	ln -s "$dev" "$dir/dev"
	;;
stop)
	stop
	;;
monitor)
	server >/dev/null || { echo "nbdfuse has ended"; exit 1; }
	dev=$(loop) || { echo "the loop device has lost its file"; exit 1; }
	dd if="$dev" of=/dev/null bs=4096 count=1 iflag=direct status=none 2>&1 # nbdfuse does not connect again
	;;
*)
	echo "$action is no action"
	exit 2
	;;
esac
