// Package memnet is a network of hosts in memory, for tests: connections, listeners and gossip
// packets that obey the clock of a testing/synctest bubble, and faults that are ordered by name.
// No code of the product imports it.
//
// # Why not net.Pipe, why not loopback
//
// A goroutine that waits for a real socket keeps a bubble's clock from going on, so nothing that
// has a timeout can be tested on loopback without waiting for it. net.Pipe obeys the clock, but a
// Write on it waits for the Read: with the window of a real socket missing, code that writes
// before it reads hangs on a pipe and works on TCP, and code that hangs on TCP only once the
// window is full is never seen to. Nor has a pipe a way to break, or to fall silent.
//
// # Model
//
//	Network    hosts, and for each ordered pair of them a path: open or cut, with a latency
//	Host       a name that stands before the port in addresses; listens, dials, crashes
//	Conn       one end of a connection; two streams, one for each direction
//	stream     what was written and not yet read, at most Window bytes; each segment has the
//	           time at which it arrives
//	Gossip     packets and streams in the form that hashicorp/memberlist wants them
//	Bubble     testing/synctest.Test with a bound
//
// One mutex guards all of a Network. Nobody waits for anything while holding it, which a bubble
// demands: a goroutine that waits for a mutex counts as running, so the clock would stand still
// for good if the holder slept.
//
// # Faults
//
//	nobody listens, Refuse   Dial fails at once with ECONNREFUSED
//	Cut, Split               bytes, ends and packets vanish, in one direction or in both. Neither
//	                         side is told. A dial waits. When the path is healed, streams go on
//	                         where they stood, as TCP sends again what was not acknowledged;
//	                         packets are lost. A Conn with SetLiveness ends by itself after that
//	                         much silence, as TCP_USER_TIMEOUT does
//	Break                    both ends of each connection fail at once with ECONNRESET; what was
//	                         under way is lost. New connections work
//	Crash                    a host forgets its connections and listeners. Its own ends fail; the
//	                         other ends hear nothing, and are half-open until they write, which
//	                         is answered with a reset, or until their liveness has run out
//	SetLatency               each byte, end and packet takes that long; a dial takes it twice
//
// # What is like TCP
//
// CloseWrite ends one direction. Close of an end with unread data resets the connection, and what
// it had sent but what has not arrived is lost. A Write succeeds when the window has room, whoever
// reads; that the other end is gone shows in a later call. Errors are *net.OpError around the
// errno, io.EOF, net.ErrClosed or os.ErrDeadlineExceeded.
//
// # What is not
//
// Acknowledgements are not modelled: a stream whose opposite direction is cut goes on, and only
// liveness knows that the sender could not have heard of it. There is no congestion and no loss
// other than by a cut. A Conn is no *net.TCPConn: code that takes another way with raw sockets
// (package outq) takes its plain way here.
package memnet
