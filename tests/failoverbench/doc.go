// Failoverbench measures how long a client waits when a node is lost: the longest time between two
// acknowledged writes of a load that follows the primary, over many losses, with nobody's help.
//
//	kill        SIGKILL to the primary's process; it is started again after the measure
//	isolation   every packet to and from the primary's host is lost; healed after (needs root)
//	switchover  an operator moves the role
//	secondary   SIGKILL to the secondary's process
//	idle        processor time of a lab that does nothing
//
//	mounted-kill, mounted-switchover
//	            the same for an ext4 that a relay attaches: the longest time between two steps that were
//	            synced, each some fsyncs (needs root, nbdfuse and loop devices)
//	attach      from the start of a relay to a read that its device answers
//
// There is no kernel driver in the last three: package userdev stands in for it, so that they can be
// measured where the module is missing. What it costs, more than the driver, counts against them.
//
// Two data nodes and a witness, default settings, files on tmpfs, all on this machine. The load is
// light, 16 requests at a time with a pause after each, so that what is measured is the failover and
// not the machine. Targets are printed beside the measures and never fail the run: a busy machine is
// slow. What does fail it is a history that is not that of one device, an error answer, replicas that
// differ, or a service that does not come back.
//
// After a promotion the coordinator waits before it promotes again, twice as long each time, until a
// primary has served for 10 s: a resource whose primaries die one after another is not thrown about. So
// the losses of a primary are 11 s apart; -rest 0 measures them in quick succession, that pause included.
//
// Usage: failoverbench [-lockstep PROGRAM] [-runs N] [-only NAMES] [-rest DURATION] [-idle DURATION] [-json FILE]
package main
