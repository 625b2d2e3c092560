// Package coordinator decides who becomes primary when a primary is lost, and who is turned off
// for that. It is pure: Step takes an event and appends what must be proposed or done. It reads no
// clock, starts no goroutine and draws no randomness of its own.
//
// # Model
//
// Every node runs one Coordinator and feeds it the ledger's States as they are applied there.
// The one on the raft leader is told so (EvLead) and decides; the others only carry out fences
// that the ledger has put on their own node. Every node, a witness too, sends the leader a Report
// of each resource every ReportInterval, and at once when its session with the primary ends or its
// ledger copy shows a newer record. What a Coordinator knows from reports is soft: it is forgotten
// with the lead, and a new leader, or one that was paused itself, listens for one ReportStale
// before it calls anybody silent.
//
// To be wrong here costs availability, never data. Nothing is decided by this package alone: Apply
// checks the record again, the candidate refuses what does not name it exactly, and leases, drains
// and the in-sync set keep two primaries from serving (safety rules 1 to 5).
//
// # When somebody is needed
//
//	the recorded primary ...                                       promote
//	was started again: its node reports, or registered, another    at once
//	  process, or is proven down by a fence
//	is none, and the last one's disk failed                        at once
//	is none, and the role was given up                             after Grace: a switchover's own
//	                                                               Promote goes first
//	is none, and the last one gave the role up to stop             at once
//	says that it is frozen and cannot commit a Drop                at once
//	says for IdleAfter that it is not primary                      then
//	is silent for SuspectAfter here, and no node that reports      then
//	  heard it within SuspectAfter
//
// So a node that hears the primary vetoes: if the link between two replicas breaks and the
// primary still reaches the leader or any other voter, its DropReplica wins and nobody is promoted.
// Hints of membership do not decide. A hint that the primary's node is down halves only the
// leader's own patience; the others must still have heard nothing for all of SuspectAfter.
//
// A hold, a pause or a manual policy ends the matter: an operator is at work. The first promotion
// of a new resource is an operator's, too, unless Config.PromoteNew is set.
//
// # Who
//
// Fit is who is in the set, not failed, with the instance and the process that the ledger knows,
// UpToDate, of the record's history, not behind in the ledger, not about to stop, not about to be
// turned off, and has said all that within ReportStale. An unclean replica is fit only if every
// other member has itself said so recently that it is unclean or failed: silence counts as clean
// (safety rule 9), and so does a disk that hangs. Of several: clean before unclean, one that was not just tried in vain, the higher
// priority, the higher stored epoch, the node of the recorded primary, the name. If the last word of
// a member is older than the record, the choice waits up to two ReportInterval for its next one.
//
// The new epoch is above every one that was recorded or that any replica ever reported (rule 3).
//
// # Fencing
//
// Where the policy is stonith and the State does not prove that the primary is over, a fence is
// requested first and the promotion waits for its confirmation. The executor is a node that
// reports, is not to be turned off itself and has a way to fence; a node without a replica of the
// resource before one of the pair, which waits FenceDelay, so that the two never race. A fence that
// failed, or that nobody answered for within FenceTimeout, has proven nothing: it is asked for
// again later, of another executor if there is one. Under manual nothing is fired: an operator
// promotes, with a statement.
//
// OrdersFor names the fences that a node has to carry out. The shell does so after a barrier, and
// only if the order is still there then, and answers with EvFenceDone; the Coordinator there
// proposes the result until it is recorded. After a restart an order is carried out again.
//
// # Pace
//
// One proposal about a resource is out at a time. After a promotion, or one that was refused or
// lost, the next waits RetryAfter, doubled each time up to RetryMost. A primary that serves cuts that to
// four times RetryAfter from then on, and one that served for StableAfter ends it. What was refused because the record had changed is judged anew on the
// newer record at once.
//
// # What is not here
//
// Switchover, demotion and forced promotion are operators' verbs and proposed by the shell. Which
// fence agent turns a node off, and its own time limit, which must be below FenceTimeout, belong to
// package fencing. NodeStarted is proposed by the shell when a process starts. When the
// survivor of two voters goes on alone is decided in quorum/pair: it has no leader to run this.
package coordinator
