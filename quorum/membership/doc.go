// Package membership tells, quickly and without promise, which nodes of the cluster seem to be
// there. It wraps hashicorp/memberlist (SWIM gossip over UDP and TCP).
//
// # Hints only
//
// Nothing here ever decides a vote, an epoch or a fence. Two nodes may hold opposite views for
// as long as they like, a node that is called dead may be writing, and one that is called alive
// may have lost its disk. A Hint is a reason to look: the coordinator asks the candidates and
// goes through the ledger, and safety rests on that alone.
//
// # What it carries
//
// Each node gossips a Meta: its transport and client addresses, its boot id and its program's
// version. The gossip key is derived from the cluster's shared secret, and the packets are
// encrypted and authenticated with it (AES-256-GCM); the cluster's name is the label of every
// packet, so that two clusters on one network do not hear each other. The secret can be changed while
// nodes run; see SetKeys.
//
// # Hints and their bound
//
// Hints are coalesced by node: while nobody receives from the channel, a newer hint about a node
// replaces the older one, so at most one hint per node waits, and the newest always does. A
// receiver that is slow therefore may not see that a node was away for a moment; who must know
// compares boot ids, or asks the ledger.
//
// # Goroutines
//
// Run owns the joiner, which tries the listed addresses until all of them have answered and
// again when nodes are missing, and the forwarder of hints. memberlist has goroutines of its own.
// One that waits for another node's answer when Run returns goes on to wait, for the timeout of a
// stream at most (3 s, WAN 10 s); it uses nothing but what it has, and queues hints that nobody
// reads.
package membership
