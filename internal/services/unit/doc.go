// Package unit starts, stops and looks at a unit of systemd, over D-Bus.
//
// Start and Stop queue a job and wait for its result; only "done" is a success, and after a start the unit
// has to be active, which a oneshot unit without RemainAfterExit= is not. A unit that systemd does not know
// is stopped. Monitor takes active, reloading and refreshing for running; a unit that systemd is restarting
// again and again is not.
//
// When the context ends, the job is left to systemd, which has timeouts of its own (TimeoutStartSec=,
// TimeoutStopSec=). Ours should be longer than these: whoever calls takes the end of the context for a failure.
//
// A unit that follows the primary must not be enabled: systemd would start it at boot on every node.
package unit
