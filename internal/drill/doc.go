// Package drill breaks a cluster on purpose, under a load that knows what it wrote, and says what became of
// it: how long writes stood still, and whether every acknowledged one is there.
//
// # Model
//
//	Preflight   what doctor knows: would each resource go on if this node died? Refuses otherwise
//	scratch     a small resource of the drill's own, on the same nodes, with the same policy
//	load        writers, each with blocks of its own; every payload is unique
//	event       strike, wait until all is as before, stop the load, read every block back
//	verify      at the end the replicas are compared with each other
//	cleaning up the scratch resource is deleted, its files are removed
//
// No data of users is touched: the drill writes to its own resource alone. What it does to a node it does to
// every resource there, though: when a daemon is killed, all it is primary of fails over. That is the point,
// and it is asked for before.
//
// With Config.Live nothing is made or written: the role of the resource itself is moved there and back
// while its blocks are read.
//
// # Events
//
//	switchover  the role is moved as planned
//	kill        the primary's daemon is killed, as kill -9 does, and started again by whoever does that
//	isolation   the primary hears and says nothing for a while, and then is back as if nothing had been
//	secondary   the daemon of a secondary is killed
//
// Isolation is a network cut where the cluster is a lab that has networks to cut. Elsewhere the daemon
// stands still as a whole: its connections stay, nothing answers, and when it goes on it believes for a
// moment what it believed before. To its peers that is the same as a cut; to its clients it is not, since it
// does not hear them either. Cutting a network of hosts that are in use is not a drill's business.
//
// # What a block may hold
//
// One writer owns each block and has one request under way at a time. So what a block has to hold is known:
// the newest acknowledged payload. When a connection breaks under a write, its outcome is unknown, and the
// request may even land later; so that block is retired: from then on it may hold either payload, and is
// not written any more. A read has to return the same, whoever answers it: an old primary that
// answers with old data is found out by that.
//
// # Pause
//
// The pause of an event is the longest time without an acknowledged write, from the strike on. A client that
// waits on a primary that is gone looks for another one at the same time, so what is measured is the
// cluster, and not the patience of the client.
//
// # What is not here
//
// Loss of power is not drilled: the page cache survives all of this. The simulator does that. Of the
// clients' side it is the drill's own NBD client that is drilled, over the unix socket where it is reachable
// and TCP elsewhere, within TLS where a listener has it; yours may take longer to connect again.
package drill
