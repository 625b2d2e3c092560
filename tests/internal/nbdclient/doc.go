// Package nbdclient is a small NBD client for tests: many commands in flight on one connection,
// each answered through a callback, with nothing hidden. It never reconnects, never retries and
// never splits a request, so that a test knows exactly what was sent and what was answered.
//
// It speaks the fixed newstyle handshake with NBD_OPT_GO and simple replies, which every server
// offers. Source: https://github.com/NetworkBlockDevice/nbd, doc/proto.md.
//
// Three outcomes of a command are kept apart, because tests of a replicated device live by the
// difference: nil (the server acknowledged it), an Errno (the server refused it), and ErrLost
// (the connection ended before the answer: the command may or may not have been carried out).
package nbdclient
