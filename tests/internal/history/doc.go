// Package history keeps what the clients of a device asked for and were answered, and judges whether
// one device that never loses anything could have answered like that.
//
// # Model
//
// A device is an array of blocks of 4 KiB. Each block is a register, and the device is right when
// every register is linearizable: there is one order of all operations on the block, in which each
// takes effect at one moment between its begin and its end, and each read sees the write before it.
// Every write has a value of its own, so a read names the write whose bytes it saw. Zeros are the
// exception: they are there at the beginning, and every TRIM or WRITE_ZEROES writes them again.
//
// Begins and ends are numbered under one mutex. An operation begins before its request is sent and
// ends after its answer was read, so what has a lower number was earlier on every clock.
//
// A read that meets a write of the same block may return bytes of before and of after it, mixed: NBD promises no
// more, and no replica is the worse for it. Such a read says nothing. Mixed bytes that no write was near, and bytes
// of another block, are a violation.
//
// # Unknown outcomes
//
// A request without an answer, because its connection ended, is open for ever: it may have taken
// effect at any time after its begin, or never. The same is true of one that was answered with an
// error. Nobody sends it again; a client that goes on writes a new value.
//
// # Two checkers
//
// Direct decides with two moments of each value: the first end of an operation that wrote or read it,
// by which it was there, and the last begin of one, until which it had to be. One value comes before
// another when its first end is before the other's last begin; a history is wrong when two values come
// before each other (Gibbons and Korach, Testing Shared Memories, 1997). This is exact for unique
// values and cheap. For zeros it asks whether one of the writes of zeros could be the source.
//
// Linearizable hands each block to porcupine, which shares nothing with Direct but the list of
// operations, and is exact for zeros too. Its time is bounded; it tells how many blocks it left
// undecided.
//
// What replicas hold at the end is taken as a read of each (Content), so one rule judges all: an
// acknowledged write that was lost, an old value that came back, bytes that nobody wrote.
package history
