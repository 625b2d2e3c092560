// Package quorum is the replicated state of a cluster and the pure function that changes it.
//
// # Model
//
// A State holds the nodes, the resources and, for each resource, who may write (its epoch and
// primary) and which replicas hold every acknowledged write (its in-sync set). A Command asks
// for one change. Apply answers with the next State and a Result: applied, or refused with a
// code, a sentence for the operator, and the record as it stands.
//
// Apply reads no clock, no random source and no file, so every voter that applies the same
// commands in the same order holds the same State, byte for byte. Random ids (resource ids,
// generation ids, epochs) are chosen by the proposer and travel in the command.
//
// # Why a command can be trusted to arrive late
//
// A proposal whose answer was lost may still sit in a queue and commit an hour later. So each
// command names the version of the record it was decided on, and every applied command raises
// that version by one: whatever was decided before is refused from then on (safety rule 2).
// Who must know that an older proposal is dead commits a NoOp first. The epoch alone would not
// do: a set shrinks and grows many times within one epoch.
//
// Commands about one resource carry Command.Version = Resource.Version. Commands about the
// catalogue (nodes, creation of resources) carry Command.Version = State.Version.
//
// # Who is down
//
// A node that starts registers its boot and process (NodeStarted). A fence is about one boot: it is
// requested, naming who may fire, and then confirmed or failed, and it ends when the node registers
// another boot. From both, and from how a role ended, State answers what others ask of it:
// ProvenDown, PrimaryOver (may it be replaced under a policy that wants a proof?) and Released (is
// what was promised to the primary of an epoch void?). An operator's statement is a reason to go on,
// and is recorded as one, but it proves nothing: it releases no promise.
//
// # Force
//
// ForcePromote gives up what the other members hold. It cuts the lineage where the candidate's
// replica really stood, so that nobody who went on from there can be taken for a mere laggard, and
// leaves a record of both timelines. What the candidate holds beyond that point, because it went on by
// itself, becomes history in the place of what was cut. Reincarnate opens a ledger that lost its majority anew, with one
// voter; it changes who votes and nothing about who holds what.
//
// # Attachments
//
// A kernel device on some host is registered with the resource that it shows, so that whoever becomes
// primary knows whom to serve. The record says who may; that what the former holder sent is not applied
// after what the new one sends is for the primary (rule 15), which turns the number of the attachment
// into a session that is above all earlier ones.
//
// # Invariants
//
//   - An in-sync set that once had a member never becomes empty.
//   - Epochs and versions never go back; an epoch has at most one primary.
//   - The recorded primary is in the set, and its instance is the one that the set names.
//   - Lineage only grows at its end, but for ForcePromote, which cuts newer ids, records them and puts
//     the candidate's own in their place; its oldest ids are cut beyond MaxLineage, and counted.
//   - An exclusive attachment is alone; the number of an attachment is never given again.
//   - No node that is asked to turn another one off is itself to be turned off.
//   - A record that is deleted never comes back to life; its name is free once all is gone.
//
// State.Check verifies what can be seen in one State; DecodeState calls it.
//
// # Ownership
//
// A State and everything below it is immutable once returned. Apply copies what it changes and
// shares the rest, so readers need no lock and may keep an old State as long as they like.
//
// # What is not here
//
// Raft, storage and time are in quorum/ledger. Whether a proposal is wise (who is fit, whose
// lease has run out, which bitmaps were handed over, what a forced replica holds) is decided before
// it is proposed, a failover by quorum/coordinator; Apply checks again only what the record itself
// can show. A witness is a node like any other here: how two voters go on when one is lost is decided
// in quorum/voter, and Reincarnate only writes it down.
package quorum
