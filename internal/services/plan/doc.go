// Package plan decides which services of one resource are started, stopped and looked after on one
// node, and when. It is pure: events in, actions out, no I/O, no clock, no goroutine.
//
// # Model
//
// A Plan holds the services as a list of steps. They are started from the first to the last, one at a
// time, and stopped from the last to the first. Nothing that happened decides what comes next, but what
// is now: each event changes the state, and advance compares that with what is wanted. So a role that is
// lost while a start is under way needs no rule of its own.
//
//	           start           done
//	Stopped ----------> Starting ----------> Running
//	   ^                   | failed             | no longer wanted, or it failed
//	   |  done             v                    v
//	   +--------- Stopping <----- Unclear       |
//	                |   ^---------------------- +
//	        failed  v   | tried again
//	               Stuck
//
// Unclear is what may run: a start that failed, or what an earlier process of the daemon left behind. It
// is stopped before anything else is done with it.
//
// # What is wanted
//
// A step is wanted while this node is primary, nobody asked to stop (EvStop), and the services did not
// fail here. Urgent steps (addresses: they harm others where they do not belong) are also put aside
// while the lease is lost, and are stopped at once, before and beside the others, when the role is lost.
// The others stay where they are while the lease alone is lost: I/O waits, and nobody else is primary yet.
//
// # Failures
//
//	a start fails          what was started is stopped in reverse; then ActGiveUp, and nothing is started
//	                       here until EvClear
//	a monitor fails        that step and those after it are stopped and started again; after more than
//	                       MaxFailures of them within Window, as if a start had failed
//	a stop fails or hangs  the step is Stuck: ActFence. It is tried again every RetryStop, and when that
//	                       succeeds the fence is taken back. Nothing below it is stopped meanwhile
//
// # Deadlines
//
// Each operation has one. When it has passed, the operation is cancelled (ActCancel); if it has not ended
// Grace later, its step is Stuck until it does.
//
// # What is recorded
//
// ActRecord names all that may run from now on. It comes before the start that it covers, so that a
// process that follows a crash knows what to stop.
package plan
