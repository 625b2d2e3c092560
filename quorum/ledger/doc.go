// Package ledger replicates quorum.State with raft and keeps it on disk.
//
// # Model
//
// Each node runs one Ledger: an etcd raft instance that one goroutine (the loop) owns, a bbolt
// file that it writes, and the machine that turns committed entries into quorum.State. Propose
// puts a command into the log and returns what Apply made of it; State returns the newest
// applied copy; Barrier makes sure that this copy is not older than now.
//
// # Who votes
//
// A raft id is not a node's name: it is a random voter id that is made with the ledger file
// (safety rule 14). A node that lost its file comes back as a new voter, which no configuration
// names: it gets no vote, and Status.Problem says what the operator must type. A node whose
// file went back in time is recognised when the leader tells it of entries that it has
// acknowledged and lacks; it stops taking part, for good. (An older file that is asked for a
// vote before it hears from a leader cannot be recognised: do not restore ledger files.)
//
// # How the first ledger comes to be
//
// Every node starts with an empty file and the static list of members. The first data node of
// the list asks all members. Only if every one answers, has the same list, and is empty, it
// chooses a random incarnation id and asks again, and each member durably pledges itself to
// that incarnation before it answers. Then it writes the genesis (the nodes, the voter ids, the
// incarnation) as a snapshot at index 1; the others get it from there by raft. Since a member
// pledges itself once, two ledgers cannot both be founded, whatever the lists say and whoever
// crashes when. Every message carries the incarnation id, and others are refused.
//
// # Links and relays
//
// A node keeps one outgoing connection to each other node and pings it. What cannot go directly,
// because the link is down or has left two pings unanswered, goes through the other nodes, with
// one hop in between; so does a proposal that went out before and was not answered. So a primary whose link to the leader is cut still hears from it,
// commits its DropReplica and does not freeze for good (history 22 of the design's list).
// Passing on proposals alone was considered and is not enough: the primary's own copy of the
// state would stand still, and its next command would be refused as stale.
//
// # Certainly not done, and unknown
//
// A proposal carries a random id. It may be sent more than once, to more than one leader; the
// machine remembers the ids of the last entries and gives a copy the first one's answer, so a
// proposal has one outcome. Propose returns ErrNotProposed only if no copy can reach a log any
// more: none was handed to a link, or each was answered with a no. Else it is
// ErrOutcomeUnknown.
//
// # On disk
//
// One bbolt file, ledger.db; every write to it is fsynced. Every value begins with the xxhash64
// of key and value, big endian; a mismatch is refused. Format version 1:
//
//	bucket "meta"
//	  identity   JSON: format, cluster, node, voter id, incarnation pledged to, lost
//	  hard       raft HardState (protobuf)
//	  conf       raft ConfState (protobuf) as of "applied"
//	  applied    8 bytes, big endian: log index; at most the commit index in "hard"
//	  snapshot   raft Snapshot (protobuf); its data is the JSON of the machine
//	bucket "log"
//	  8 bytes, big endian: index -> raft Entry (protobuf)
//
// The data of an entry is a 16-byte proposal id and an encoded quorum.Command, or nothing.
//
// # Frames between nodes
//
// On a connection of the service "ledger", big endian:
//
//	0  4  length of what follows, 1 to 64 MiB
//	4  1  kind
//	      1 ping, 2 pong: 8 bytes to be sent back
//	      3 raft: envelope, raft Message (protobuf)
//	      4 propose: envelope, attempt (4), proposal id (16), command
//	      5 verdict: envelope, attempt (4), proposal id (16), 1 if it is in the log, term (8)
//	      6 ask, 7 answer: JSON, see bootstrap.go
//
// Envelope: voter id of the sender (8), of the receiver (8), incarnation (8), hops (1).
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
//   - 1: first.
package ledger
