// Package attach makes a replicated resource a block device of this host, /dev/nbdX, that stays where it
// is while the cluster behind it changes: switchover, failover, restarts of the daemon and of the relay
// itself.
//
// # Model
//
//	kernel nbd --local socket pairs (netlink CONNECT)--> Relay --one NBD connection per session--> the primary
//
// The kernel's driver alone cannot do that. It sends a request again when a timer fires, not when its
// server is back; an error reply fails the filesystem on the device; and what it sent on a lost connection
// may still be under way when it sends it again. So the kernel's server is the Relay, in a process of this
// host that outlives every server, and the relay is the client that loses connections.
//
//  1. The kernel's requests arrive on its sockets, served by nbd.ServeTransmission. Relay.Submit puts them
//     at the end of the table of unfinished requests and sends them on in the same turn.
//  2. A request stays in the table, with its payload, until a server has answered it. What it answered is
//     passed on as it is, errors too, but for ESHUTDOWN, which means "come again".
//  3. When the session is lost the relay looks for the primary (seek.go): every server is asked, again and
//     again, until one admits a new session. Servers tell who is primary; that one is asked at once.
//  4. Then everything in the table is sent again, in the order in which it came, and new requests follow it.
//
// # What is promised, and why
//
// A write is sent once in each session, in order, and never again once it was answered. A server admits a
// session only when nothing that an earlier session of this registration began is under way (rule 15,
// replication/client.go), so no late copy of a write lands on a newer one. The kernel does not begin a write
// that overlaps one of its own unanswered ones and expect an order, so which of the two wins is free, as on
// any disk. A flush covers what was answered before it, in whichever session: an answered write is held by
// every in-sync replica, and a new primary is one of them.
//
// Session numbers are CLOCK_BOOTTIME in milliseconds and rise by one at least, over restarts too. A relay
// that is started again therefore needs no number on disk, only its key (state.go).
//
// # When nobody serves
//
// Requests wait. After Config.Deadline without a primary they fail with EIO, and so do new ones, until a
// server admits a session again; the cause is logged and shown. A registration that was taken away
// (superseded), or a resource that became smaller, ends the relay for good: everything fails, and the
// device is disconnected.
//
// A server that neither answers nor closes is not waited for either: when the oldest request has waited for
// Config.Stall the other servers are asked, and the first that admits a session gets everything. One that
// is merely slow stays primary, so the others refuse.
//
// # Bounds
//
// The table holds what the local connections may have unanswered: Config.Window bytes over all of them, and
// Config.MaxRequests. Beyond that their readers stop reading, and the kernel waits. A local connection that
// the kernel gave up keeps its place until its requests have ended, so the kernel's retries do not add up.
//
// # Kernel side
//
// device.go owns the sockets: whenever one of them ends without a goodbye it gives the kernel another
// (RECONFIGURE). netlink.go has the messages, kernel.go what else is asked of the kernel and its sysfs,
// with what drivers/block/nbd.c makes of it. docs/attach.md is for operators.
package attach
