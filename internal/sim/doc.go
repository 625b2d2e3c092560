// Package sim runs whole clusters in one goroutine, from a seed, with faults, and judges what the
// clients saw. docs/simulator.md tells how to use it; this is how it is made.
//
// # What is real and what is a model
//
//	real     replication (the core), replication/wire (every frame is encoded and decoded),
//	         quorum, quorum/voter with etcd's raft, quorum/coordinator, internal/record,
//	         internal/store's metadata file, bitmap
//	model    time, disks, the network, clients, operators, fence agents, and the shell around the
//	         core (shell.go, ledger.go), which the daemon has in internal/device and internal/node
//
// So what is judged is the decisions, not the goroutines that carry them out: for those there are the
// tests of internal/device and the black-box suite.
//
// # A run
//
//	Draw      a seed gives a Plan: a mix (Config) and a list of faults
//	found     a ledger, replicas of zeros, and everything starts
//	begin     when the cluster serves, clients and faults are let loose, for 4 to 12 seconds
//	finish    everything is healed, but for one host at times; within 120 seconds the cluster has to
//	          serve, to answer every request, and to have made every replica equal
//	judge     the replicas are equal, and hold what the clients were told
//
// Every seed draws a mix of its own, some kinds of faults out of all, so that each run is full of a few
// instead of thin on all.
//
// # Determinism
//
// Nothing happens but by an event of one heap, events of one moment in the order in which they were
// scheduled. A sender of requests, the network and the plan each draw from a stream of their own: a
// plan with a fault taken out keeps its workload, which is what makes shrinking work. raft's election
// timeouts come from the process's source of randomness, which a run takes over (raftrand.go): two runs
// must not go on in one process at the same time. make sim uses processes.
//
// # What is checked
//
//	each read            linearizability of each sector, at once (history.go)
//	each answer          an answered write is on every member of the recorded set; an error only where
//	                     a disk gives cause
//	each step of a core  two replicas never serve within their leases; no queue grows without end
//	every 64 events      a follower differs from its leader only where the leader tracks it
//	each ledger record   epochs never go back; who joins is durably up to date and equal
//	each start           the metadata opens, and its epoch did not go back
//	a forced promotion   the forced copy is a state that the device once had (historycut.go)
//	the end              rest, equal replicas, their content, and the history once more by porcupine
//
// What a fault may cost is decided by judgeLoss and judgeError in check.go: without a loss point or a
// forced promotion nothing that was acknowledged may be missing.
//
// The checks are checked: internal/planted takes precautions out one by one, and make sim-teeth demands
// that each bug be found. internal/mark counts rare branches, and make sim demands that they be reached.
//
// # Files
//
//	run.go world.go config.go fault.go     the run, events, the mix, the plan
//	host.go shell.go ledger.go net.go      machines, processes, what connects them
//	coordinate.go operator.go force.go     failover, fences, operators
//	disk.go diskcrash.go metadev.go        disks that keep, lose or tear what was not synced
//	client.go                              the workload
//	history*.go porcupine.go check.go      the verdicts
//	eventlog.go shrink.go                  to understand a failure
//	scenario*_test.go, testdata            histories told as files (testdata/README.md)
//	seeds_test.go report*_test.go          random seeds and their report; marks_test.go teeth_test.go
package sim
