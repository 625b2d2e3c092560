// Package doctor finds what a cluster would not survive, and says so in plain words.
//
// # Model
//
//	Gather ----> Cluster ----> Examine ----> Report
//	 asks         facts         judges        findings, and a Loss for each node and host
//
// Gather asks one node for its status and, through it, every node for its facts. It alone touches the
// network. Everything else is pure: the same Cluster gives the same Report, so a cluster that goes wrong
// in some way is a table in a test.
//
// # Findings
//
// Each has a code, which is stable and for programs; a severity; its subject; what was found, why that
// matters and what to type. A severity says what it costs:
//
//	ok       as it should be; listed so that one sees that it was looked at
//	note     to know; nothing is lost by it alone
//	warning  something that may fail would stop a resource
//	danger   something that may fail would lose data, or a resource is not usable now
//
// What an operator has chosen to live with can be accepted by its code; it is shown then, and not counted.
//
// # Losses
//
// Lose answers "if n2 dies now, does r0 go on?" by the rules that the coordinator goes by: a majority of
// the voters is left; one of the in-sync replicas is fit; nobody has paused failover; what the policy
// wants proven about the old primary can be proven. It looks at each node alone, and at each host that
// several nodes share.
//
// # What it cannot see
//
// Two virtual machines on one host have two boot ids and look like two hosts. A disk may hide a volatile
// cache from its kernel. A switch that all paths run through is nobody's interface. Two nodes may share a
// power strip. It says what it knows, and where it knows nothing it says that.
package doctor
