// Bench measures Lockstep side by side with its peers and prints ratios.
//
// # What is measured
//
// Every entry is a server with its backing files on tmpfs, so that the numbers are about software
// and not about a disk. fio (ioengine=nbd) runs the jobs on the entries in turn; every second round
// visits the entries in reverse order. A number in the table is the median over the rounds, a ratio
// the median of the ratios within each round, with its smallest and largest: what drifts on a
// shared machine drifts for both.
//
//	lockstep       two data nodes and a witness on loopback, writes synchronous on both
//	quorum-nbdkit  QEMU's quorum driver, writing to a file and to an nbdkit over TCP: the peer
//	               for writes. Its reads ask all children and are not quoted.
//	nbdkit         the plain server, no replication: the peer for reads
//	nbdkit-again   the same once more: its ratio to nbdkit is the noise of this machine
//
// Two further numbers are about Lockstep alone: the memory of each data node after a full window
// of writes, and the rate of the resync after a secondary was away under load.
//
// Usage: go run ./tests/bench -lockstep bin/lockstep [-runtime SECONDS] [-rounds N] [-jobs a,b] [-json FILE]
//
// With -serve it only starts a Lockstep cluster, prints the NBD URI of its primary, and stays until
// it is interrupted: an entry for other harnesses.
package main
