// Package lab runs a cluster of real processes on one machine, for trying, testing and drilling: on
// the loopback interface or, with Options.Netns, each in a network namespace of its own.
//
// # Model
//
// A lab is a directory. Each node has a directory of its own in it, with its node file, its ledger,
// its log and its copy of the resource; lab.json beside them says which processes there are and where
// to reach them. A lab outlives the process that made it: nodes run in sessions of their own, and
// Open takes a lab up again from its directory.
//
//	D/lab.json            State
//	D/lab.lock            held while lab.json is changed or processes are started and stopped
//	D/fence-agent         turns nodes off, in a lab that was made with Options.Fence
//	D/n1/node.toml        node file, mode 0600 (it holds the key)
//	D/n1/data             ledger
//	D/n1/r0.img, r0.meta  replica
//	D/n1/log              what the process wrote, of all its starts
//	D/n1/control.sock, nbd.sock
//
// The path of a unix socket has at most 107 bytes; where D is too long for that, the sockets of the
// whole lab lie in a directory of the system's temporary directory, which Down removes.
//
// With Options.TLS the cluster is formed with certificates, and there are
//
//	D/n1/data/pki        the node's certificate; on n1 the authority's key, too
//	D/client             the certificate of an NBD client
//
// # Processes
//
// A process is named by its id, its start time and the boot it ran in, and signalled through a
// descriptor (pidfd) that was checked against the two: a reused process id is never signalled.
//
// # Ports
//
// Ports are taken by listening on port 0 and are held until the node files are written. Between
// that and the start of a node somebody else may take one; Up then begins again with other ports.
//
// # Namespaces
//
// A lab with namespaces has a network 10.x.0.0/24 that touches nothing of the machine's: one
// namespace for each node, one for clients, one for the switch between them (network.go draws it).
// x is claimed by a file in /run/lockstep-lab that names its owner, so two labs never meet, and what
// a lab leaves that is no more is known and removed by the next one (claim.go). The control sockets
// are files and work from everywhere.
//
// What is broken is written into lab.json and then made so: Cut, Isolate and Link lose packets and
// say nothing to anybody, KillHost takes a node away without closing its connections, Pause makes it
// hang, and Heal mends the network. In, Exec and Dial are for tests that want to be a client there.
//
// Nothing here delays, reorders or damages packets, and no killed host loses what it had not
// synced; internal/sim does.
package lab
