// Package agent runs services through programs: resource agents of the Open Cluster Framework (OCF), as
// Pacemaker runs them, and hooks of the operator's own.
//
//	            OCF agent                                        hook
//	program     /usr/lib/ocf/resource.d/PROVIDER/TYPE ACTION     PATH ACTION [ARGUMENTS]
//	parameters  OCF_RESKEY_name                                  arguments, and LOCKSTEP_RESOURCE, LOCKSTEP_NODE
//	start, stop exit 0; stop also 7, not running                 exit 0
//	monitor     exit 0, 8 (promoted), 190 and 191 (degraded)     exit 0
//
// Both have to bear a start of what runs and a stop of what does not. Deadlines are the caller's, by ctx:
// at its end the program and all of its group are killed, and that is a failure whatever it did before.
//
// A start whose program cannot be run, for instance because its name is mistyped, has started nothing: the stop
// that follows it succeeds. Otherwise a typing error would look like a service that cannot be stopped, and turn
// the node off.
//
// The exit codes 5 and 6 of an agent tell Pacemaker how widely a failure counts. Here a failed start always
// counts for the node that it happened on, and the next one finds out for itself.
package agent
