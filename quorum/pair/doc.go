// Package pair decides when one of two voters, alone, shoots the other one and goes on without it
// (DESIGN section 4). It is pure: Step takes an event and appends what must be done. It reads no
// clock and draws no randomness of its own.
//
// # Model
//
// Two data nodes without a witness are two voters, so either alone has no majority: nothing can be
// dropped, promoted or recorded, a fence as little as anything else. So there is no executor that the
// ledger names, and each node runs a Pair, which weighs what this node alone can know (Look). The shell
// looks at least every LookInterval.
//
//	             nothing is against it           silence and delay are over
//	watching ------------------------> waiting --------------------------> shooting
//	  ^   ^       something is                                              |    |
//	  |   +--------------------------- waiting                  not proven: |    | proven, and
//	  |                                   ^     the next try waits longer   |    | nothing is
//	  |                                   +---------------------------------+    | against it
//	  |                                                                          v
//	  +----------------------- the ledger answers: done, or it failed -------- opening
//
// The order binds: shoot, confirm, rewrite, record. Rewriting is ActOpen (voter.OpenIncarnation); the
// record of the fence is the shell's, in the new incarnation.
//
// # What is against it
//
// Every one of these is asked of each Look, and once more with the proof in hand:
//
//   - there is a majority, or this node has no vote;
//   - the other one is heard on any of three ways: the replication session, the ledger's link, the gossip;
//   - this very process did not hold every replica equal when the session broke, or stood still since:
//     then the other one may have gone on alone before;
//   - it said that its daemon stops, which is no loss but somebody's doing;
//   - an operator has the resources in hand;
//   - it never registered a boot that a fence could be about, or nothing here can turn it off.
//
// A proof is used at once or not at all. If something is against it when the proof arrives, the other one
// is there again, perhaps in another boot, and the proof is forgotten.
//
// # Never both at once
//
// Both nodes see the same silence, and both can fire. One of the two is favoured (Favoured): the one that is
// primary of more, so that clients notice nothing. It fires after Silence. The other one waits Delay and
// a random part of Jitter on top; who was shot meanwhile is gone, and shoots nobody. So Delay has to be
// longer than a fence takes to reach its node, and than the two differ in noticing the silence. If the
// favoured one's fence fails or hangs, the other one fires then, and each further try waits longer than
// that. Two devices that both work, one of them more slowly than Delay, can still leave nobody: that
// costs availability, and only a third voter cures it.
//
// A fence that fails, hangs or times out proves nothing: nobody goes on alone, writes wait, Explain says
// why, and it is tried again with growing pauses, for the device may be mended.
//
// # What is not here
//
// Whether a replica may go on is the core's word (replication.Resource.MayGoAlone). An operator's
// word in place of the proof is the shell's verb (confirm-down).
package pair
