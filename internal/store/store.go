package store

import (
	"sync"
	"sync/atomic"
)

// Store is one open replica. Open makes it, Close ends it.
type Store struct {
	data     file
	metaFile file
	meta     *Metadata // on metaFile
	block    bool      // data is a block device
	align    int64     // unit of offsets and lengths of direct I/O, bytes; 1 when buffered
	memAlign uintptr   // unit of memory addresses of direct I/O, bytes; 1 when buffered
	zero     zeroWays  // what the backing can do

	life    sync.RWMutex // read: a call is under way; written: Close
	closed  bool         // under life
	failure atomic.Pointer[diskFailure]
	tasks   sync.WaitGroup // the goroutine that records a failure

	// written counts changes of the backing that are not stable by themselves, each after it was
	// made; stable is what written was before the last good sync began. Equal: nothing to sync.
	written, stable atomic.Uint64
}

// enter begins a call: it keeps Close waiting until leave, and refuses when there is nothing to call.
func (s *Store) enter() error {
	s.life.RLock()
	err := s.Failed()
	if s.closed {
		err = ErrClosed
	}
	if err != nil {
		s.life.RUnlock()
	}
	return err
}

func (s *Store) leave() { s.life.RUnlock() }

// Size returns the size of the device in bytes.
func (s *Store) Size() int64 { return s.meta.Size() }

// Alignment returns the unit in bytes in which the caller must keep overlapping I/O apart: a write
// of part of a unit reads and writes the whole of it. 1 means that bytes are independent.
func (s *Store) Alignment() int64 { return s.align }

// Close waits for the calls under way, releases the lock and closes both files; calling it again
// does nothing. With clean it first makes data, log and bitmaps stable and then, with the backing's
// time of change, marks the metadata as cleanly stopped; on an error the mark is not set, and the
// next Open finds an unclean stop. A disk that hangs keeps Close waiting: the process must go then.
func (s *Store) Close(clean bool) error {
	s.life.Lock()
	if s.closed {
		s.life.Unlock()
		return nil
	}
	s.closed = true
	s.life.Unlock()
	err := s.Failed()
	if clean && err == nil {
		err = s.markClean()
	}
	s.tasks.Wait()
	s.data.close()
	s.metaFile.close()
	return err
}

// markClean makes everything stable, then says so.
func (s *Store) markClean() error {
	if err := s.data.sync(); err != nil { // times, too: the next Open compares them
		return s.fail("sync backing", err)
	}
	s.stable.Store(s.written.Load())
	var b Backing
	if err := b.identify(s.data.fd()); err != nil {
		return err
	}
	return s.judge(s.meta.MarkClean(b.MTime))
}
