// Package e2e holds the tests of failover: real processes, faults, a load that follows the primary,
// and no operator. Every test ends with the same questions, which rig.finish asks: was every answer
// one of a single device that loses nothing (tests/internal/history), was no request answered with an
// error, are the replicas equal and in sync again.
//
//	kill_test.go      kill -9 of each node, of the ledger's leader, of all at once
//	pairs_test.go     each two of three nodes, in each order of loss and of return
//	pause_test.go     a primary that stands still, and goes on
//	network_test.go   cut links, in network namespaces; needs root
//	rounds_test.go    many switchovers and failovers one after another
//
// LOCKSTEP_E2E=full runs as many rounds as make e2e does, which make test has no time for.
//
// # What is not here
//
// A replica whose disk was replaced cannot come back yet: the ledger names the instance that was lost,
// and no verb puts another in its place. Power failures that lose what was not flushed are simulated
// only. A clock that jumps needs a machine of its own.
package e2e
