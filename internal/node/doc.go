// Package node is the daemon: one per host. It owns every long-lived goroutine of the process and
// wires the packages below it; what may be written where is decided in package replication, who
// may be primary in package quorum.
//
// # Parts
//
//	Run        opens what the node needs, in order, and closes it in the reverse order
//	manager    compares each applied ledger state with what runs here; one worker per replica
//	worker     creates, registers, opens and closes one replica, and keeps its links to its peers
//	proposer   turns a core's wish (drop, join, step down) into a ledger command and its answer
//	backend    what operators ask for: create, promote, demote, switch over, resize, verify
//	force      an operator promotes a replica that may lack acknowledged writes
//	resolve    an operator settles which of two histories is kept; what is given up is copied before
//	alone      an operator lets one of two nodes go on, or decides between two ledgers
//	failover   reports to whoever decides about primaries, decides where this node leads the ledger,
//	           and turns nodes off where the ledger asks this one to
//	fence      the devices of the node file, and what operators ask of them; kennel pets the watchdogs
//	pair       of two nodes without a witness, shoots the lost one and goes on alone (package quorum/pair)
//	govern     an operator changes a policy, a priority, or pauses failover
//	timeline   where two histories part, and what is known of each generation; pure
//	roster     who is a member, and where: from the ledger, or from the node file
//	admitter   lets nodes in that have a token, and signs certificates where the authority's key is
//	keeper     renews this node's certificate
//	registrar  has the ledger record which process of this node runs
//	care       what follows the primary: tells the keepers of services (package services) about the role, and
//	           the ledger where they failed
//	address    which deleted resources only carried an address, so that their files go
//	checks     what proxies are told about who is primary (package health)
//	exports    which resource the NBD server may serve here, and how it refuses the others; who is
//	           attached, and that nobody else is served beside an exclusive attachment
//	facts      what this node knows of itself, its host and its ways to the others, for doctor
//	drill      what a drill asks of this process: to die, to stand still, to remove scratch files
//	journal    the last events, for `lockstep events` and for tests
//
// # The life of a local replica
//
//	           record names it          metadata made or found
//	(nothing) ----------------> absent ------------------------> open, not registered
//	                              ^                                   | instance recorded
//	                        fault | retry slowly                      v
//	                           failed <----------------------- open and registered
//	                                   closed: device ended           | record deleted
//	                                                                  v
//	                                                                gone (its files stay)
//
// A crash between making the metadata and recording its instance leaves metadata of the recorded
// resource id behind; the next start finds and registers it instead of making another.
//
// # Goroutines
//
//	daemon.run   waits for the end; one goroutine below it for each of: transport, ledger,
//	             manager, control (operators), control (nodes), NBD on unix, NBD on TCP, health
//	             checks, gossip
//	keeper.run  looks at the certificate each minute; only where there are certificates
//	members.keepKeys  looks at the gossip keys each minute; likewise
//	registrar.run  tries until this process is registered, then ends; wake, capacity 1
//	failover.run  owns the Coordinator; a tick each 50 ms; wake, capacity 1; events, capacity 256: of
//	             reports and hints that find it full nothing is lost, the next ones follow. One goroutine
//	             below it for each proposal and each fence under way
//	pairGuard.run  looks each 100 ms; one goroutine below it for the fence or the rewriting under way;
//	             answers, capacity 1: there is never a second one
//	kennel.run   one goroutine for each watchdog; ends last
//	manager.run  hands each applied state to the workers and starts them; wake, capacity 1
//	worker.run   one for each resource with a replica here; opens, feeds and closes it; wake,
//	             capacity 1: only the newest record counts
//	caretakers.run  starts one caretaker for each resource with a replica here. A caretaker looks each 50 ms and
//	             at each notice; below it are the keeper of its services and one goroutine for the proposal or
//	             the switchover under way
//	places.run   asks other nodes where clients reach the primaries; 16 questions wait at most
//	replica      one for each open replica: device.Run, which owns those of docs/threads.md
//
// The verbs of operators run in the goroutine of their request, one at a time for each resource.
//
// # Order at the end
//
// Services first, as long as they may take; where one cannot be stopped, the role is kept until the process
// ends. Then clients, the ledger late: a primary stops serving, then proposes StepDown, for which
// it needs the ledger and the transport; replicas are then closed clean; the ledger stays for up to
// lingerTimeout where others need its vote to go on without this node; it and the transport go last.
// Giving up roles is bounded by stopTimeout, after which the process leaves without a clean mark,
// which costs a resync and no data.
package node
