// Package nbd serves block devices over the NBD protocol.
//
// # A connection's life
//
//	accept -> negotiate (options, 30 s) -> transmit -> closed -> last request replied -> gone
//
// Negotiation is fixed newstyle: the client asks Exports for a name and gets an Export, with the
// Backend that serves it. STARTTLS, where the listener's TLS has it, comes before that. From then on
// two goroutines belong to the connection: the reader, which turns bytes into Requests and submits
// them, and the sender of its outq.Queue, which acts only when the socket is full. Replies are
// queued by whoever completes a Request.
//
//  1. The reader takes as many requests as one read brought, at most Config.MaxBatch, and calls
//     Backend.Submit with them: one lock, one group commit, one vectored write for many.
//  2. A write's payload goes into a page-aligned buf.Buf, the same memory that reaches the disk
//     and the peers' sockets. What is not yet buffered is read straight into it.
//  3. Whoever completes a Request calls Reply, which only queues; then Conn.Flush sends, for all
//     requests completed so far, with one system call, and never waits for the client.
//
// Replies leave in the order of completion, not of arrival.
//
// # Bounds
//
// Per connection, Config.MaxRequests requests and Config.MaxBytes of payload may be unanswered.
// A read's bytes count until the kernel has taken them, so that a client that reads slowly stops
// being read from, and nobody else notices. A Backend that wants less in flight blocks in Submit.
// Lengths from the wire are checked before memory is taken: option data up to 64 KiB, names up to
// 4096 bytes, payloads up to MaxPayload. A larger payload is read and discarded up to twice that,
// beyond it the connection ends.
//
// Who has not been bound to an export may be anybody: Config.MaxNegotiating of them per listener are
// let try at a time, and when one more comes, the oldest goes.
//
// # Clients that say who they are
//
// A client that sends what is unfinished again after it reconnected tells with ATTACH, a private
// option, who it is and which of its sessions this is, before GO. If Exports is Attachments, it is
// asked to register the client, and GO then opens the session: it is answered when nothing that
// the client's earlier sessions brought can have an effect any more. CloseConns ends connections by
// what they said; Export.Gone tells when the last of one is over.
//
// # TLS
//
// A listener has TLS off, allowed or required (ServeTLS). Nothing that was sent in the clear
// survives STARTTLS, and bytes pipelined behind it end the connection. Under TLS the sender
// alone encrypts and sends the replies; a plain connection is served as if TLS did not exist, by
// vectored writes from whoever completed a Request. The Conn keeps its socket beside the TLS
// connection, since closing must not wait, and closing TLS says goodbye first.
//
// # Ends without an answer
//
// An error reply makes a filesystem on the client fail, while a lost connection makes the client
// try again. So a request that the role change overtook must not be answered at all: CloseExport
// closes the connections of an export at once, and Reply(ErrDrop) closes that of one request.
// The Backend still completes every Request, as always exactly once; what it replies is dropped.
//
// # Protocol
//
// "proto.md" in comments is doc/proto.md of the NBD project. Not spoken: structured and extended
// replies, BLOCK_STATUS; clients that ask are told so, and go on without.
//
// What clients get wrong and we accept: client flags of zero before options other than
// EXPORT_NAME, and OPT_GO with a header that declares no data although data follows (go-nbd
// v0.3.2 does both).
package nbd
