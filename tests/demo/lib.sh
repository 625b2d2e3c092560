# Helpers of demo.sh and session.sh; sourced, with $lockstep set to the program and $lab to the
# directory of the lab.

# need PROGRAM PACKAGE: ends the script when a program is not installed.
need() {
	command -v "$1" >/dev/null 2>&1 || {
		echo "this needs $1: apt-get install $2" >&2
		exit 1
	}
}

socket() { echo "$lab/$1/control.sock"; }
uri() { "$lockstep" lab info --json --dir "$lab" | jq -r --arg n "$1" '.nodes[] | select(.name == $n) | .nbd_unix_uri'; }
image() { "$lockstep" lab info --json --dir "$lab" | jq -r --arg n "$1" '.nodes[] | select(.name == $n) | .data_path'; }
ask() { n=$1; shift; "$lockstep" --socket "$(socket "$n")" "$@"; }

# dirty NODE PEER: the bytes that NODE knows to be missing on PEER.
dirty() { ask "$1" status r0 --json | jq --arg p "$2" '.resources[0].replicas[] | select(.node == $p) | .dirty_bytes'; }

# until_in_sync NODE: returns when NODE is primary and all replicas are equal; fails after 30 s.
until_in_sync() {
	for _ in $(seq 300); do
		ask "$1" status r0 --json 2>/dev/null | jq -e '.resources[0] | .role == "Primary" and .io.state == "running"
			and all(.replicas[]; .in_sync and .disk_state == "UpToDate" and .dirty_bytes == 0 and .resync == null)' >/dev/null && return 0
		sleep 0.1
	done
	echo "the replicas do not come in sync:" >&2
	ask "$1" status >&2
	return 1
}
