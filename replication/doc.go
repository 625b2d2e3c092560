// Package replication is the pure core of a replicated block device: one Resource decides, for
// one replica, what to write where, when a request may be answered, what a peer misses, and when
// to ask the ledger for a change.
//
// # Contract
//
// The core does no I/O, reads no clock, starts no goroutine and never sees payload bytes. It is
// fed one Event at a time and appends Actions, in the order in which they must take effect:
//
//	id := r.NewID()                       // names the request; the shell keeps its payload under id
//	out = r.Step(&ev, out[:0])            // under one mutex
//	out = r.EndBatch(out)                 // after the last event of a batch: cumulative acks
//
// The shell (internal/device) calls Step under one mutex from whichever goroutine has the event,
// appends every Send to its peer's queue and hands out every local I/O before it unlocks or in
// its own goroutine right after; the order of Sends to one peer is the order of the actions.
// Everything asynchronous comes back as an event: LocalDone, LogSaved, MetaSaved, ProposalDone.
// A save that an action relies on is awaited by the core itself: an action that needs a durable
// fact is emitted only after the event that reports it.
//
// # One write, in six stages (primary)
//
//  1. admitted: the replica serves, holds its lease, every counting member is connected;
//     otherwise it waits in held.
//  2. suspect: while a member of the in-sync set is known or feared to differ in a block of the
//     range, the request waits in gated and the range is copied first (rule 6).
//  3. locked: earlier requests that overlap have ended, reads included (rule 7).
//  4. logged: every region of it is durably in the activity log.
//  5. started: one frame to each connected peer and the local write, at the same time.
//  6. answered: complete locally and acknowledged by every peer that counts (rule 1).
//
// What happens when that cannot be is told in freeze.go.
//
// A secondary's frame passes stages 3 to 5 and is acknowledged cumulatively.
//
// # Per peer
//
// A peer has an entry in the ledger's set (inSet), may count although it is not in the set
// (rule 1), and carries three block sets: dirty (it lacks them), unstable (it acknowledged them
// and has not flushed them), flushing (unstable, and covered by a flush on its way). When a
// session ends, unstable and flushing become dirty unless the same boot and instance comes back
// and confirms with a clean fdatasync that it kept them (rule 10).
//
// The copier serves two purposes with one mechanism. For a peer outside the set it is resync.
// For a member it makes suspect blocks equal. Either way it takes a run of dirty blocks, locks
// the range, reads it locally, sends it, and clears the bits when the peer acknowledged; what is
// cleared is unstable until the next flush.
//
// # Alternative that failed
//
// Keeping writes that overlap a resync run out by comparing them with a cursor ("everything
// below it is done") is how older systems do it. It breaks when the peer reports dirty blocks
// behind the cursor, when a run is retried, and for suspect blocks, which have no cursor. Locking
// the run in the same table as requests needs no second mechanism.
package replication
