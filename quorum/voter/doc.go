// Package voter is one node's part in the ledger, as a pure state machine: raft, the replicated
// quorum.State, who votes, and which incarnation of the ledger this is.
//
// A Voter has no goroutine, no clock, no file, no socket and no context. It reads and writes a
// Storage, sends through a Net, and is told of ticks and of frames. Same calls and same random
// numbers: same frames, same writes, same answers, byte for byte. So the simulator runs many of
// them in one goroutine. quorum/ledger is the shell of a real node: bbolt file, connections,
// goroutines, deadlines.
//
// # How it is driven
//
//	v, err := voter.New(cfg, storage, net, rng)
//	for each tick, frame or wish:
//	    v.Tick(), v.Receive(peer, frame), v.Propose(cmd, done), v.Barrier(done), ...
//	    err = v.Ready()
//	v.Stop()
//
// Ready does what all the calls since the last one lead to: what must be stable is written, then
// frames leave, then committed entries are applied, the new state is shown, and done functions
// are called. They may call the Voter again. Net's methods and Config's On functions may not.
//
// A process that is killed is a Voter that is forgotten without Stop. The next one is New on the
// same Storage.
//
// # Who votes
//
// A raft id is not a node's name: it is a random voter id that is made with the Storage (safety
// rule 14). A node that lost its ledger comes back as a new voter, which no configuration names:
// it gets no vote, and Status.Problem says what the operator must type. A node whose ledger went
// back in time is recognised when the leader tells it of entries that it has acknowledged and
// lacks; it stops taking part, for good. (An older ledger that is asked for a vote before it
// hears from a leader cannot be recognised: do not restore ledger files.)
//
// The leader moves raft's voters towards the nodes of the state, one change at a time, by way of
// learners. It hands the lead to the witness, or else to a node that is primary of nothing.
//
// # How the first ledger comes to be
//
// Every node starts with an empty Storage and the static list of members. The first data node of
// the list asks all members (Question, Answer). Only if every one answers, has the same list,
// and is empty (Judge), it chooses a random incarnation id (Pledge) and asks again, and each
// member durably pledges itself to that incarnation before it answers. Then it writes the
// genesis (Found: the nodes, the voter ids, the incarnation) as a snapshot at index 1; the others
// get it from there by raft. Since a member pledges itself once, two ledgers cannot both be
// founded, whatever the lists say and whoever crashes when.
//
// # Incarnations
//
// Of two voters, either alone has no majority. OpenIncarnation lets one go on alone: it applies
// its whole log, the uncommitted tail too, rewrites the voters to itself, and begins a child of
// the present incarnation, in one durable step. Every frame carries its incarnation, and frames
// of another one are refused.
//
//	I1  --1--2--3--4--5(tail of A)          A and B vote
//	                  \
//	I2                 6--7--               opened by A: fork at 5, A alone votes
//
// Nodes that may not know of each other's incarnation exchange hellos: a leader greets the nodes
// that its incarnation left behind, and who refuses a frame greets its sender. A hello carries
// the forks that led to the sender's incarnation. Who hears of
//
//   - a descendant: gives its ledger up if all that may be committed in it is in the child, else
//     stops;
//   - an ancestor: waits for that one to decide, and stops if it has stopped;
//   - a relative, where neither comes from the other: stops;
//   - a stranger, or one that an operator refused: nothing.
//
// All that may be committed is what the node knows to be, if no majority was possible without
// the opener, as with two voters; else it is the node's whole log, since the others may have
// committed it without telling, and this node forgets commits at a crash. "Is in the child"
// compares index and term, not the index alone: with three voters the opener's uncommitted tail
// and what the other two committed can have equal indexes.
//
// To give a ledger up is to set it aside in the Storage and to begin an empty one, as another
// voter, bound to the child. It asks the child's leader to be admitted, by hellos, and that one
// proposes AddNode with the new voter id in place of the old; learner and voter follow.
//
// To stop is to take no part, restarts included, until an operator says on each node which
// ledger to keep (Keep, GiveUp). Nothing is ever merged.
//
// # Certainly not done, and unknown
//
// A proposal carries a random id. It may be sent more than once, to more than one leader; the
// machine remembers the ids of the last entries and gives a copy the first one's answer, so a
// proposal has one outcome. Withdraw returns ErrNotProposed only if no copy can reach a log any
// more: none was handed to a link, or each was answered with a no. Else it is ErrOutcomeUnknown.
//
// # Relays
//
// What cannot go directly, because the link is down, goes through the other nodes, with one hop
// in between; so does a proposal that went out before and was not answered. So a primary whose
// link to the leader is cut still hears from it, commits its DropReplica and does not freeze for
// good (history 22 of the design's list). Passing on proposals alone was considered and is not
// enough: the primary's own copy of the state would stand still, and its next command would be
// refused as stale. Router does that for the shell and the simulator alike.
//
// # Frames
//
// Big endian:
//
//	0  4  length of what follows, 1 to 64 MiB
//	4  1  kind
//	      1 ping, 2 pong: 8 bytes to be sent back
//	      3 raft: envelope, raft Message (protobuf)
//	      4 propose: envelope, attempt (4), proposal id (16), command
//	      5 verdict: envelope, attempt (4), proposal id (16), 1 if it is in the log, term (8)
//	      6 ask, 7 answer: Question, Reply (JSON)
//	      8 hello: envelope, JSON, see hello.go
//
// Envelope: voter id of the sender (8), of the receiver (8; 0 in a hello), incarnation (8), hops
// (1). Pings, pongs, asks and answers are the shell's.
//
// # Log and snapshot
//
// The data of a log entry is a 16-byte proposal id and an encoded quorum.Command, or nothing. The
// data of a snapshot is the JSON of the machine: state, outcomes of the last proposals, forks.
//
// # What is not here
//
// Whether a node may go on alone: fences, operators and the uninterrupted session are weighed by
// the caller of OpenIncarnation, who only gives the reason here, for the record. A new empty
// ledger under an old name is not admitted by itself, not even in an incarnation that left that
// node behind: an operator has AddNode proposed.
//
// # Changes
//
//   - 1: first. Later, without a new version: identity, snapshot and frames may hold what
//     incarnations need; without them they are as before.
package voter
