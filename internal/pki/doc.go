// Package pki is who is who within a cluster: its certificate authority, the certificates of its
// nodes, clients and operators, the TLS configurations that check them, and the tokens with which
// a new node joins.
//
// # Identities
//
// A certificate says who its holder is by one URI, and by that alone:
//
//	lockstep://<cluster>/<role>/<name>       role: node, client, operator
//
// Its host names and addresses are there for programs that know nothing of Lockstep (nbdinfo,
// qemu-img) and compare them with what they have dialed. Nothing here reads them: an address says
// where somebody is, and addresses change hands.
//
// A peer is believed when, in this order:
//
//  1. its certificate is valid at this time, give or take ClockSkew;
//  2. an authority of our Bundle signed it, for what it is used for (serving, or being a client);
//  3. its one URI is of our cluster;
//  4. its role may do what the connection is for (Kind), and its name is the expected one, if one is;
//  5. Config.Admit has nothing against it.
//
// There are no revocation lists. A certificate lives for 90 days, and Admit, which asks the
// cluster's record of members, refuses a removed node from the next handshake on. A connection that
// stands is not looked at again: who removes a node closes its connections.
//
// # One purpose per connection
//
// Each Kind of connection between our own programs has an ALPN name, and both ends insist on it.
// Otherwise someone on the way could lead a node's connection to another port of a node that it
// trusts, and have one protocol's bytes read as another's. NBD clients send no ALPN, so that port
// is the one without.
//
// TLS is 1.3 and sessions are never resumed: each connection is a full handshake with the files as
// they are now. In TLS 1.3 a client's handshake ends before the server has judged its certificate,
// so Dial may succeed and the first Read fail with an alert.
//
// # Files
//
//	ca.crt, ca.key    the authority; where they are, anybody can be made a member
//	identity.pem      own certificate and key. One file, so that one rename replaces both
//	bundle.pem        the authorities that are believed: one, or two while they change
//
// All are 0600 and replaced by write, fsync, rename, fsync of the directory. A key that others may
// read is refused. Identity reads the files when it is opened, and when told to; handshakes use
// what is current at that moment, so certificates change while listeners stand.
//
// # Renewal and change of authority
//
// A certificate is due after two thirds of its lifetime: its holder makes a new key and a request,
// sends it over a connection that its present certificate opens, and installs the answer. To
// change the authority itself: put the new one beside the old into everybody's bundle, then renew
// everybody, then take the old one out. Install and InstallBundle refuse whatever would leave the
// node unable to recognise itself.
//
// # Joining
//
//	token    lockstep-<base32>: id, secret, SHA-256 of the authority's public key
//
//	new node                                  member
//	   |--- TLS, ALPN lockstep-join/1 ---------->|  serves its certificate and the authority's
//	   |    the authority's key is the token's?  |
//	   |--- JoinRequest (proof, CSR) ----------->|  VerifyJoin, use up the token, Issue
//	   |<-- JoinReply (certificate, bundle) -----|
//
// The new node knows whom it talks to before it proves anything. The proof is that of SCRAM (RFC
// 5802): the cluster stores only a hash that checks it, and who steals that hash cannot join. It
// covers the request and the TLS connection (RFC 9266), so it is of no use elsewhere. A token is
// for one node: after its use only the same key under the same name may repeat it, which a node
// does whose answer was lost.
//
// # Time and chance
//
// Clock and randomness are passed in. Since Go 1.26 the standard library takes keys and signatures
// from the system's generator whatever it is given; serial numbers, token ids and secrets come from
// the one passed in.
//
// # Left out
//
// How messages travel and where tokens are recorded is the caller's business. Only ECDSA P-256 keys
// are certified, since both ends are ours or made with our files.
package pki
