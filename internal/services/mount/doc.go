// Package mount mounts the file system on a device, and takes it away again.
//
// Start finds out which file system is there, has its own checker look at it if asked to (see Check), and
// mounts it. It never makes a file system: a device without one that is known is an error. Stop unmounts,
// what is mounted below first; while somebody uses the file system, it asks them to end, and kills them when
// half of the time is over. Monitor says whether it is mounted from that device, and still writable.
//
// # Checking
//
//	none         the file system mends itself from its journal as it is mounted
//	preen        what is safe to mend is mended (fsck -p), as at boot. The default
//	force-check  all of it is looked at, even if it says that it is clean
//
// Nobody answers yes to everything: what preening leaves is for an operator, and Start fails. Of xfs and
// btrfs, which have no preening, force-check looks and changes nothing.
//
// # What hangs
//
// The system calls cannot be interrupted while the device does not answer. They outlive the context then, and
// whoever called has a deadline of its own; package plan calls that stuck.
//
// # Who uses a file system
//
// Processes whose working directory, root, program or open file is on it, as /proc tells. Mapped files that
// are not open, swap files, loop devices and kernel servers such as NFS are not found: then Stop ends with
// "busy", and the node is fenced.
package mount
