// Package record stands between the ledger's words and a replica's: it shows a quorum.Resource as
// the replication core of one node sees it, and turns what that core proposes into a command.
//
// It is pure, so the daemon and the simulator use the same code.
package record
