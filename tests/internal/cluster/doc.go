// Package cluster gives a test a cluster of real lockstep processes: built from this tree, started
// on free loopback ports with their files on tmpfs, watched, and gone when the test ends, however it
// ends.
//
// At the end of every test, without being asked, a Cluster checks that no process ended that the
// test did not kill and that no log tells of a panic or a data race. Replicas are compared when the
// test says that they must be equal, with Identical: from outside, file against file.
//
// What a failed test leaves is a directory with the logs, node files and last status of each node;
// the test prints its path. LOCKSTEP_LOGS says where such directories are made.
package cluster
