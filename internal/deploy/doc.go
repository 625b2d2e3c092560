// Package deploy carries the files that a host needs beside the program, in the program: systemd units, the
// udev rule and the OCF agent. So one static binary is all that has to be copied to a host.
//
// # Files
//
//	lockstep-node.service      the daemon
//	strict.conf                what the daemon can do without where it starts no services; only if asked for
//	lockstep-attach@.service   one attached device: lockstep-attach@r0:nbd0
//	61-lockstep.rules          stable names of attached devices: /dev/lockstep/r0
//	device                     ocf:lockstep:device, for clusters in which Pacemaker decides
//
// Each file says where it came from and, at the places that look odd, why it is so. Two words are replaced
// when a file is written: @PROGRAM@ by the path of the program and @CONFIG@ by that of the node file.
//
// They go to the directories of the distribution (/usr/lib), not to /etc: what an administrator changes
// stands in /etc, goes before, and survives the next install.
package deploy
