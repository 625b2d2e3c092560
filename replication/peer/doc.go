// Package peer keeps the replication sessions of this node: for each resource and each peer one
// Link, which keeps one Session up, over which frames travel both ways.
//
// # Model
//
// Of two nodes, the one with the smaller name dials and the other accepts, so that two nodes
// that find each other at the same time still make one connection. The transport says which node
// is at the other end; a Hello that names another one is refused.
//
//	Link.Run (one goroutine per resource and peer; all calls of the Handler come from it)
//	  1 wait until enabled, then for the backoff (dials) or for a connection (accepts)
//	  2 handshake: Hello both ways, Check, accept; see docs/protocol.md
//	  3 Handler.Up
//	  4 read what the socket has, decode all of it, Handler.Frames; repeat
//	  5 on any error or Close: close the connection, wait for the queue's goroutine
//	  6 Handler.Down, then 1 again
//
// Since one goroutine does all of this, there are never two sessions up on a link, a Down is
// never lost, and a new connection cannot overtake the end of the older one. A connection that
// arrives while a session is up ends that session: the peer dials only after it has given up the
// older connection, of which this side may not have heard yet.
//
// Sending goes past the Link: Session.Send appends to a queue (package outq) in the caller's
// order and never waits; only the queue's goroutine waits for the socket.
//
// # What a session does not do
//
// It does not know roles, epochs or sequence numbers: the replication core judges those. It has
// no beacons of its own. It checks what can be checked of a frame alone, and ends at the first
// frame that fails: to skip it would let the frames after it take effect without it.
//
// # Memory
//
// A link reads through 256 KiB. Frames up to 64 KiB are copied out of it into buffers of their
// own; a larger payload is read into its buffer directly. What is received is bounded by the
// handler, which is called before more is read. What is sent is bounded by the core's window.
//
// To read every payload with a call of its own was slower for small writes by the cost of two
// system calls a frame; to hand out slices of the read buffer without copying would let one held
// payload of 4 KiB pin 256 KiB.
package peer
