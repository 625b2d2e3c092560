// Package fencing runs package fencing with the real programs of Debian's fence-agents, from a node
// file to the proof. No test here turns anything off but fence_dummy, whose machine is a file.
package fencing
