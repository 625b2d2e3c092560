// Package services runs what follows the primary of a resource: mounts, addresses, units of systemd, OCF
// agents and hooks.
//
// # Parts
//
//	service   one service as an operator writes it: kind, target, options; pure
//	Keeper    the services of one resource on this node: feeds the Plan and carries out what it says
//	journal   the file that names what may run here, written before anything is started
//	plan      what is started and stopped, and when; pure
//	device, vip, mount, unit, agent   the carriers: each has Start, Stop and Monitor
//
// # Who decides
//
// The list of services is part of the resource's record in the ledger, the same on all nodes. The daemon
// tells the Keeper when this node became primary, lost its lease or its role, and asks it to stop before it
// gives the role up. The Keeper tells the daemon when the services failed here, so that another node tries,
// and when something cannot be stopped, so that the watchdog is no longer petted.
//
// # After a crash
//
// What ran when the daemon died goes on running. The next process reads the journal, and stops all of it
// before it starts anything, addresses first: it cannot know whether another node has taken over. Until then
// nothing on this node stops it, so where that matters the policy of fencing is stonith, or a watchdog guards
// the node.
//
// A journal that cannot be read is not guessed at: nothing is started until an operator has looked (rule 17
// of the design: nothing is skipped silently).
//
// # Goroutines
//
// Keeper.Run steps the plan and owns one goroutine for each operation under way. An operation that hangs in
// the kernel cannot be ended: Run leaves it behind when its context ends, since the process is going away.
package services
