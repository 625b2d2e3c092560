// Package rig boots real kernels for tests: Debian's own, in QEMU without hardware help, with a file system in
// memory that holds busybox, lockstep and what else a test asks for. A machine is up within seconds, is told
// what to do over a port of its own, and has disks that lose at a power cut what was not flushed.
//
// # Parts
//
//	FindKernel   the kernel package, downloaded once and unpacked, never installed (kernel.go, modules.go)
//	Initramfs    the file that the kernel unpacks at boot (cpio.go, initramfs.go)
//	Disk         a disk with a volatile cache, served to QEMU over NBD (disk.go, serve.go)
//	Network      what joins several machines, and cables that can be pulled (network.go)
//	VM, Cmd      the machine, and a command in it (vm.go, cmd.go); what they speak is package talk
//
// The guest's side is the program tests/vm/guest.
//
// # Power cuts
//
// VM.PowerCut kills QEMU and then decides for each write that reached a Disk after its last flush whether it is
// kept, lost, or torn into sectors. Alternatives that were weighed: an image file keeps everything, since the
// page cache of this machine outlives QEMU; dm-log-writes replays what a log holds up to a flush, but never
// loses one write and keeps a later one, and needs the whole stack below the log to be trusted; QEMU's
// blkdebug fails requests and forgets none.
//
// # What it is not
//
// There is no KVM and no firmware, and only x86-64. Emulation is slower by a factor of ten or more
// and different in proportion: durations are logged, never asserted.
package rig
