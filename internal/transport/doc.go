// Package transport is how nodes talk: one TCP address per node, and behind it several services
// ("replication", "ledger", "control"). Who dials names the node and the service it wants; both
// ends prove that they hold the cluster's key before a byte of the service flows.
//
// # Who is who
//
// With Config.Identity, a connection begins with TLS 1.3, and each end shows a certificate of the
// cluster's authority (package pki). The dialer hangs up on any node but the one it wanted; the
// listener refuses whoever is no member. The handshake below then runs within TLS, under a key that
// is exported from that very TLS connection, and the name in the hello has to be the certificate's.
// Services named in Config.Clear leave TLS at the end of the handshake and go on, on the same socket,
// in the clear: they are authenticated as below, and no better.
//
// Without an Identity there is a key that all nodes share, and no TLS. That authenticates. It does not
// encrypt: what follows the handshake travels unprotected. Whoever can read the network reads the data,
// and whoever can change packets in flight can change the data (frames carry checksums against noise,
// not against an attacker). A node proves that it belongs to the cluster; its name is what a member of
// the cluster says it is.
//
// A node that has no certificate yet is handed to Config.Join once TLS stands, and counts as one that
// has not proven itself until that returns.
//
// # Handshake
//
// Four frames of fixed size, version 1, big endian. Text is padded with zero bytes. One deadline
// (Config.HandshakeTimeout) covers all of it.
//
//  1. dialer -> listener   hello, 272 bytes
//     0    8  magic "lockstep"
//     8    2  protocol version
//     10    2  zero
//     12   16  service
//     28   64  cluster
//     92   64  name of the dialer
//     156   64  name that the dialer expects of the listener
//     220   32  nonce of the dialer
//     252    1  within TLS: 1 when the service goes on in the clear
//     253   19  zero
//  2. listener -> dialer   challenge, 160 bytes
//     0    8  magic "lockstep"
//     8    2  protocol version of the listener
//     10    2  verdict; 0 is "go on", any other ends the handshake here
//     12   64  name of the listener
//     76   32  nonce of the listener
//     108   32  HMAC(key, "lockstep/1 listener" | hello | challenge up to here)
//     140   20  zero
//  3. dialer -> listener   proof, 32 bytes: HMAC(key, "lockstep/1 dialer" | hello | challenge)
//  4. listener -> dialer   accept, 32 bytes: HMAC(key, "lockstep/1 accept" | hello | challenge | proof)
//
// HMAC is HMAC-SHA256; its key is the shared one, or within TLS the exported one
// ("EXPORTER-lockstep-peer/1"). Both nonces, both names, the cluster, the service and the version are
// under every MAC, and each direction has a label of its own, so that no proof can be played
// back to its sender or in another connection. The listener proves first: a dialer never
// answers a challenge of someone who does not know the key. MACs are compared in constant time.
// The fourth frame tells the dialer that its proof was accepted, so that Dial does not return a
// connection that is about to be closed.
//
// A verdict other than 0 is not authenticated; it only explains a refusal, and nothing is done
// on it but to give up.
//
// # Ownership and bounds
//
// The connection that a service receives, and that Dial returns, is a *Secure, or without TLS the raw
// *net.TCPConn, with TCP_NODELAY on and no deadline. Of the raw one nothing was read ahead, so vectored
// and non-blocking writes work on it; to that end TLS is given no byte beyond the record it reads. The
// receiver owns and closes it. At most Config.MaxHandshakes connections are between accept and proof;
// when one more arrives, the oldest of them is closed, since an honest handshake takes milliseconds
// and a stalled one is the likelier attack.
//
// # Changes
//
//   - 1: first. Later, without a new version: TLS around it, and the byte at 252 within TLS.
package transport
