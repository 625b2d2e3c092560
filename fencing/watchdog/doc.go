// Package watchdog pets a watchdog for as long as this node may go on, and no longer. A node that must
// stop something and cannot, stops petting instead, and is reset.
//
// # Model
//
// A Timer is what fires: the kernel's device (OpenDevice) or systemd's watchdog of the service
// (OpenSystemd). A Dog arms and pets it. Whoever has a reason to stop the node registers a Must, before
// Run: a function that says whether its part is healthy. Run arms the timer when all of them are for
// the first time, asks them every quarter of the timeout, and pets only if all are. Petting begins again when all are healthy again before the timer fired; whoever
// wants no way back calls Condemn.
//
//	all musts healthy ----------> pet
//	one is not, or hangs -------> no pet; the timer fires after its timeout
//	Condemn --------------------> no pet ever again
//	Run's context ends, healthy -> disarmed, closed
//	Run's context ends, not -----> left armed: it fires after its timeout
//
// # Why musts are asked in the petting goroutine
//
// A must that hangs keeps Run from petting, which is right: what cannot say that it is healthy is not.
// Asking it elsewhere, with a result that is kept, would pet on old news.
//
// # Why the device is opened late
//
// Opening a device arms it, and pets it when a process of the same boot that was killed left it
// running. A daemon that is started again and again on a node that is cut off would keep the machine
// alive with that alone. So opening waits for the same leave as every pet.
//
// # What another node may conclude
//
// Timer.Info says what the machine does for certain, and Info.Fences whether another node may count on
// it: the timer resets the machine, and goes on when this process is killed. Then, if the Permit is
// one of the musts, petting is decided on for the last time within the lease of the permit. The pet
// itself can be late by anything less than the timeout, since the process may be stopped in between;
// so the machine is reset within lease + 2 timeouts after the moment from which no permit is given.
// Package fencing waits for that, and a margin. Whoever declares a timer to the others declares the
// longest timeout that this boot ever armed it with.
//
// A Permit is renewed by an answer of the ledger that knows of no fence of this boot, and it counts
// from when the question was asked, not from when the answer came.
//
// # Time
//
// The clock is CLOCK_BOOTTIME, which goes on while the machine sleeps, so a permit does not survive a
// suspend. Nothing here notices that a hypervisor paused the whole machine.
//
// # What is not here
//
// Pretimeouts, and the choice between several watchdog devices.
package watchdog
