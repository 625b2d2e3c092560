// Package ledger replicates quorum.State and keeps it on disk: it is the shell of a node around
// quorum/voter, which decides everything.
//
// # Model
//
// Each node runs one Ledger: a voter.Voter that one goroutine (the loop) owns, a bbolt file that
// the voter writes through it, and a link to each other node. Propose has a command applied and
// returns what became of it; State returns the newest applied copy; Barrier makes sure that this
// copy is not older than now. Who votes, how the first ledger comes to be, incarnations, relays,
// and what "certainly not done" means are told in the comment of package voter, with the frames.
//
// What is here: time (ticks, deadlines of callers), connections, the file, and the asking of all
// members while there is no ledger yet. Nothing here decides a vote or a result.
//
// # Links
//
// A node keeps one outgoing connection to each other node and pings it. A link is up if it is
// connected and has left fewer than two pings unanswered. What cannot go directly, because the
// link is down, the voter's Router sends through other nodes; frames that come in and are for
// another node are passed on by the connection's handler and do not wait for the loop.
//
// # On disk
//
// One bbolt file, ledger.db; every write to it is fsynced. Every value begins with the xxhash64
// of key and value, big endian; a mismatch is refused. Format version 1:
//
//	bucket "meta"
//	  identity   JSON: format, cluster, node, voter id, incarnation pledged to, lost; and, if
//	             there are any: aside, conflict, refused (see voter.Identity)
//	  hard       raft HardState (protobuf)
//	  conf       raft ConfState (protobuf) as of "applied"
//	  applied    8 bytes, big endian: log index; at most the commit index in "hard"
//	  snapshot   raft Snapshot (protobuf); its data is the JSON of the voter's machine
//	bucket "log"
//	  8 bytes, big endian: index -> raft Entry (protobuf)
//
// Beside it there may be ledger.db.<incarnation in hex>, with .1, .2 ... behind it if the name was
// taken: ledgers that this node gave up, whole. And for a moment ledger.db.new: an empty one that
// is about to take ledger.db's name; a start removes it.
//
// # Goroutines
//
// Run owns: the loop; one goroutine per link, and one that reads what comes back on it; the
// notifier, which calls subscribers; the bootstrapper, until there is a ledger. Handlers of
// accepted connections belong to the transport. Queues: the loop's inbox (1024 messages, more
// are dropped: raft and proposals send again), each link's queue (256 frames, likewise), calls
// into the loop (unbuffered, callers wait).
//
// # Changes
//
//   - 1: first. Later, without a new version: aside, conflict and refused in the identity.
package ledger
