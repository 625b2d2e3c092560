// Package store is one replica on one host: a backing file or block device that holds the data, and
// a metadata file beside it, or apart from it, that says what the data is worth.
//
// # What is stored where
//
// The backing holds the device's bytes from offset 0 and nothing else, so an existing disk image is
// taken in, and given back, without moving a byte. The metadata file holds identity, epoch, lineage
// and disk state (two superblock slots), the activity log (two tables) and up to MaxPeers dirty
// bitmaps. docs/format.md describes every byte.
//
// # What is promised
//
//	WriteAt returned           later reads see it; a crash of the host may lose it
//	WriteAt(fua), Sync         it survives a crash of the host
//	SaveMeta, SaveLog          durable when they return; a crash in between leaves old or new
//	SaveBitmapPages            durable when a later SaveLog or SyncMeta returns
//
// # Failure
//
// A disk fails once. An fsync that fails, for whatever reason, or a read or write that fails with
// anything but lack of space, makes the whole replica Failed: the state is recorded in the metadata,
// every later call returns ErrFailed with the first cause, and an Open after a restart finds it still
// failed. Nobody retries an fsync: the kernel reports the error once and forgets the pages, so the
// second one would succeed and lie. Lack of space (ENOSPC, EDQUOT) is an answer, not a failure; the
// errno is kept for errors.Is.
//
// # Concurrency
//
// All methods may be called at the same time. The package orders nothing: I/O that overlaps is the
// caller's to serialise, rounded out to Alignment. Close waits for the calls under way, then every
// call returns ErrClosed.
//
// # Metadata without files
//
// All that is done with the metadata file is done by Metadata, over the small interface MetaDevice: it
// starts no goroutine and reads no clock, so that a simulation runs the same code on a device that
// loses, keeps and tears sectors. A Store adds the file, its lock, the data, and the decision that a
// disk has failed.
//
// # Files
//
//	metadata.go  metadata on any device            records.go   what a Store does with it
//	meta.go      what a superblock slot says       super.go     choosing and writing a slot
//	block.go     the header that guards each block logtable.go  the activity log on disk
//	create.go    making a replica                  bitpage.go   bitmap pages on disk
//	open.go      opening one, and what is refused  backing.go   which file or device this is
//	io.go        reads, writes, sync               zero.go      zeroes and trims
//	fail.go      what makes a disk Failed          file.go      system calls, and where faults go in
//	clone.go     a copy of a backing, to undo      dump.go      metadata shown to people
package store
