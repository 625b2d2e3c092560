// Package fencing carries a fence out and reports whether it is proven. It never decides to fence:
// quorum/coordinator decides, the ledger records it and names one executor, and the shell of that
// executor calls Fencer.Fence.
//
// # Model
//
// A Device is one way to turn nodes off. There are three carriers:
//
//	carrier     is                                       proves by
//	agent       any program of the fence-agents family   off exits 0, and then status exits 2
//	exec hook   a program of the operator's              off exits 0
//	watchdog    the target's own timer, waited for       the time within which it has fired
//
// For each node there are levels of devices (its topology). Levels are tried in order until one
// holds; a level holds when every one of its devices has proven off, as with two power supplies
// on two power strips. When a device of a level fails, the next level begins; what is off by then
// stays off. Nothing here ever turns a node on but Unfence, which somebody has to ask for.
//
// # What is a proof, and what never is
//
// A Proof says that one boot of one node is over. A new primary serves on its word alone, so
// everything that is not plainly a yes is a no:
//
//   - The status of an agent is 2 for "off" and also for "bad arguments". It counts only after off
//     exited 0 with the same arguments, never alone, not even if the off before it had merely
//     timed out.
//   - An off that exits 0 while status says anything but 2 proves nothing: some agents answer
//     before the machine is down. An agent without a status cannot prove anything, and a check
//     that passes is not a machine that is off (fence_heuristics_ping, fence_kdump).
//   - A timeout is a failure. The program and all it started are killed as a group. The node may be
//     off then, and it may be serving.
//   - reboot is never asked for: between its off and its on there is no moment to look at.
//
// # The watchdog as a fence
//
// Nobody can reach into a node that is cut off, but it can be known when its watchdog has fired.
// This holds only if all of this is true, so the target has to declare it (Armed), for that boot:
//
//   - Its timer is armed with a real timeout T, runs on when the process dies, and resets the
//     machine. The word of systemd's service watchdog is no such declaration: it kills a process.
//   - It pets only while it holds a permit (watchdog.Permit): the ledger, asked at some moment within
//     the last lease, knew of no fence of this boot. Requests are applied before they are carried
//     out, so a node that is to be fenced gets no new permit, whether it is cut off or not.
//
// So petting is decided on for the last time one lease after the request was applied. The one who
// decides can be stopped between its decision and the pet, by anything shorter than T, or the timer
// would have fired already. Hence the wait is lease + 2T + margin; one T alone was what the first
// text said, and sbd counts two for the same reason. A pause of a whole virtual machine pauses its
// timer too, and nothing here can see that: in a virtual machine, fence through the hypervisor.
//
// # Both nodes of a pair
//
// The ledger names one executor, so two nodes do not shoot at each other while there is a majority. Where
// each node may go on alone, the one that is not primary waits first (Request.Delay, with a random
// part), and after the wait asks again whether the order still stands (Request.Still).
//
// # Concurrency
//
// A Fencer fires at one node at most once at a time. A request for a node and boot that is being shot
// at joins that shot and gets its result; one for another boot of the node waits for it to end. A shot
// ends when nobody waits for it any more, and whoever leaves last waits for its end, so no
// goroutine and no process outlives its callers. The exception is a program in uninterruptible
// sleep: after it was killed it is waited for a short time only, and collected when it ends.
//
// # Secrets
//
// Passwords come from the configuration, a file or an environment variable, are read anew at each
// run, are passed on stdin (agents) or in the environment (hooks), and are cut out of the output that is
// kept. They are never logged.
//
// # What is not here
//
// The agent's own delays and retries are its options. Agents that are killed together with the
// daemon, list-status, and reboot are left out. An agent whose daemon is killed finishes by itself; its
// order is carried out again after the restart, which turns off what is off. A device of a level that
// turns itself on again before the others are off is not noticed.
package fencing
