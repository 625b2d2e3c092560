// Package outq sends frames in order on a connection, many at a time, and never makes the
// goroutine that adds one wait for the network.
//
// # Model
//
// A Queue holds the frames that were appended and not yet handed to the kernel. Append only
// takes the queue's own short mutex: callers append while they hold the lock that gives their
// frames an order. After they unlock they call Flush, which hands everything appended so far to
// the kernel with one vectored write. On a socket that write is attempted without blocking, in
// the caller's own goroutine, so that in the common case a frame leaves with no goroutine switch
// at all. Only when the socket is full (or is no plain socket) does the queue's own goroutine
// take over, and it alone may wait.
//
// Blocking in the caller was tried in thought and fails: the goroutine that reads
// acknowledgements appends replies and further frames, and if it waits for a full socket while
// the other side waits in the same way, both wait for good.
//
// # Bounds
//
// The queue itself refuses nothing; its owner bounds what can be appended (a window of bytes in
// flight) and can read the present size with Len.
package outq
