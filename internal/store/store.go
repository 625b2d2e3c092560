package store

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// Store is one open replica. Open makes it, Close ends it.
type Store struct {
	data     file
	metaFile file
	block    bool     // data is a block device
	lay      layout   //
	instance uint64   // of the replica
	align    int64    // unit of offsets and lengths of direct I/O, bytes; 1 when buffered
	memAlign uintptr  // unit of memory addresses of direct I/O, bytes; 1 when buffered
	zero     zeroWays // what the backing can do

	recovered []bitmap.RegionIndex // as found by Open
	wasClean  bool                 // as found by Open

	life    sync.RWMutex // read: a call is under way; written: Close
	closed  bool         // under life
	size    atomic.Int64 // of the device, bytes
	failure atomic.Pointer[diskFailure]
	tasks   sync.WaitGroup // the goroutine that records a failure

	// written counts changes of the backing that are not stable by themselves, each after it was
	// made; stable is what written was before the last good sync began. Equal: nothing to sync.
	written, stable atomic.Uint64

	metaMu  sync.Mutex
	meta    Meta   // as in the newest superblock
	metaSeq uint64 // its sequence number

	logMu         sync.Mutex
	log           table       // as last written whole
	pagesUnsynced atomic.Bool // bitmap pages written since the last sync; changed under logMu

	warnMu   sync.Mutex
	warnings []error
}

// maxWarnings bounds what a damaged file can make Warnings hold.
const maxWarnings = 32

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
func (s *Store) Size() int64 { return s.size.Load() }

// Alignment returns the unit in bytes in which the caller must keep overlapping I/O apart: a write
// of part of a unit reads and writes the whole of it. 1 means that bytes are independent.
func (s *Store) Alignment() int64 { return s.align }

// Warnings returns what was found damaged and could be passed over: a superblock or log table that
// does not decode, bitmap pages taken as all dirty. At most the first 32. Someone should look at
// the disk.
func (s *Store) Warnings() []error {
	s.warnMu.Lock()
	defer s.warnMu.Unlock()
	return slices.Clone(s.warnings)
}

func (s *Store) warn(err error) {
	s.warnMu.Lock()
	defer s.warnMu.Unlock()
	if err != nil && len(s.warnings) < maxWarnings {
		s.warnings = append(s.warnings, err)
	}
}

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
	if err := s.syncMeta(); err != nil {
		return err
	}
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.pagesUnsynced.Store(false)
	if len(s.log.linger) > 0 {
		if err := s.saveLog(s.log.active); err != nil {
			return err
		}
	}
	var b Backing
	if err := b.identify(s.data.fd()); err != nil {
		return err
	}
	return s.change(func(m *Meta) {
		m.Clean = true
		m.Backing.MTime = b.MTime
	})
}
