// Package vm tests what only a real kernel can show: /dev/nbd devices and file systems mounted on them,
// barriers down to the disk, power cuts, watchdogs that reset the machine, memory that runs out. Package rig
// boots the machines. docs/vm.md says how to run the tests, and how to look into a machine.
//
// In each machine is a whole cluster, `lockstep lab`: nodes n1 and n2, each with its files on a disk of its own
// (/dev/vda, /dev/vdb), and a witness. So "stable on both replicas" is a statement about two disks, and the
// test, which serves the disks, checks it without asking the machine.
//
// Everything is emulated. Durations are logged and never asserted.
package vm
