// Package bitmap remembers what replicas may disagree on: a dirty Bitmap per peer, in blocks of
// 4 KiB, and one activity Log per replica, in regions of 4 MiB. It is pure: no I/O, no clock, no
// goroutine, no lock. One owner calls it at a time.
//
// # Why two structures
//
// A bit of the Bitmap is exact and costs nothing durable when it is set: it lives in memory. The
// Log is coarse and durable: before a block is written, the region around it stands in the log on
// disk. After a crash the bits in memory are gone, and then
//
//	dirty = Bitmap as last stored + every region that stands in the log
//
// A region stays hot for many writes, so that nearly all of them need no metadata I/O. When it
// leaves the log, the pages of the Bitmap that cover it are stored first.
//
//	write -> Log.Begin --Hot-----------------------------------> write -> Log.End
//	                   --Staged(gen)--> NextTx -> store -> Committed(gen) ^
//
// # Sizes
//
//	block    4 KiB of device     one bit
//	region   4 MiB of device     1,024 blocks, the unit of the Log
//	page     128 MiB of device   32,768 blocks, 32 regions, 4,096 bytes of bits
//
// A Bitmap holds memory for a page only while some, but not all, of its blocks are dirty: the
// clean device and the device that needs a first sync are both cheap. What remains is one pointer
// a page: 1 MiB for a device of 16 TiB.
//
// # Coordinates
//
// Everything is in bytes of the device at the interface and in blocks inside. Marking rounds out
// to every block that is touched, clearing rounds in to the blocks that are wholly covered, so a
// careless extent errs towards copying too much.
package bitmap
