// Package device is the shell around one replica: it feeds the pure core (package replication)
// with what happens and carries out what the core decides, on the backing device
// (internal/store), on the sessions with the peers (replication/peer) and on the requests of
// clients (nbd).
//
// # Model
//
// There is one mutex. Everything that happens becomes an Event, and whichever goroutine has it
// takes a turn:
//
//	1 lock
//	2 Step for every event of the batch; carry out each action at once:
//	    ActSend          append to the session's queue
//	    ActReply         append to the connection's queue
//	    local I/O        to this turn's own list, or to the workers
//	    saves            to the saver, first in, first out
//	    proposals        to a goroutine of their own
//	3 EndBatch, unlock
//	4 flush the sessions: the frames leave
//	5 run the turn's own local I/O, then lock, Step(EvLocalDone), unlock; again from 4
//	6 flush the sessions and the connections
//
// Frames are appended under the mutex, so their order is the order of the core's decisions, and
// flushed after it, so nobody waits for a socket while holding it. They leave before the local
// write runs, so the network, the peer's disk and this disk work at the same time. No local I/O
// runs under the mutex.
//
// # Who runs local I/O
//
// A write or read of at most 64 KiB on a buffered backing is a copy to or from the page cache,
// cheaper than waking another goroutine: the goroutine that has the turn does it itself when it
// is a reader of a client or of a session, or a worker. Everything else (syncs, FUA, trims,
// large or direct I/O, hashing) goes to a fixed number of workers. So does what is left of a
// turn's own list once that has taken longer than inlineTime: then the cache was missed or the
// kernel throttles writers, and to go on one by one would make a queue of depth 32 one of depth 1.
//
// # Payloads
//
// The core names an operation by an ID and never sees a byte. The shell keeps the payload in a
// slot, found by the dense index in the ID. A request larger than the core takes is split in
// pieces that share the request's buffer; it is answered when every piece is, with the first
// error. A local I/O holds a reference of its own to the buffer it works on: an ID may end (its
// client was cut off) while the disk still writes from that memory.
//
// # Bounds
//
// A window of bytes bounds the requests of clients between Submit and their answer; a request
// above it waits in Submit, so the connection's reader reads no further, and the client feels
// it. What a primary sends is bounded by its window, so what a secondary holds is, too: the
// frames in its slots are those the primary still waits for. Every queue behind the mutex holds
// at most one entry for each such operation, which is why they may grow instead of making
// somebody wait under the mutex.
//
// # Losing the role
//
// ActDrop ends a request without an answer (rule 15): nbd.ErrDrop closes its connection instead.
// ActCloseClients has the herald close every connection, also those without a request. A client's
// connection is served through a door, which is good for the time in which it was opened: once
// clients were closed, each request that still comes through an older door is dropped with its
// connection, so none is taken over into a later epoch, however late its reader was.
//
// # Clients that say who they are
//
// A client that sends requests again after it reconnected opens a numbered session first
// (OpenClient). The core admits it when nothing that lower sessions began is under way; each request
// then carries client and number, and the core drops what comes in any other session, however late a
// reader brings it. That the older connections are closed, too, is the herald's work, and only
// tidiness.
//
// # What it does not do
//
// It decides nothing. It does not know who is primary but by asking the core, it repeats no
// local I/O, and it does not recover a panic of the core: a broken invariant ends the process
// with the state, because the data matters more than the service. No turn defers its unlock: a
// panic leaves the mutex held, so that nothing more is decided, sent or written until the end.
//
// docs/threads.md lists the goroutines.
package device
