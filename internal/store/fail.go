package store

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// diskFailure is the error of every call after the disk has failed.
type diskFailure struct {
	op    string // what failed
	cause error
}

func (f *diskFailure) Error() string {
	return fmt.Sprintf("%v: %s: %v", ErrFailed, f.op, f.cause)
}

func (f *diskFailure) Unwrap() []error { return []error{ErrFailed, f.cause} }

// Failed returns nil, or why the disk counts as failed: an error that wraps ErrFailed and the cause.
// Once set it stays, across restarts as well.
func (s *Store) Failed() error {
	if f := s.failure.Load(); f != nil {
		return f
	}
	return nil
}

// fail makes the disk Failed and returns the error for the caller. The first failure stays; it is
// recorded in the metadata by a goroutine of its own, because the metadata may stand on the disk
// that has failed, and a write there may hang: whoever waits for this error must hear of it at once.
// Rule 13.
func (s *Store) fail(op string, cause error) error {
	f := &diskFailure{op: op, cause: cause}
	if s.failure.CompareAndSwap(nil, f) {
		s.tasks.Go(func() {
			// An error has no one to go to: the superblock then says what it said, and the
			// ledger, which hears of the failure from the caller, removes this node anyway.
			_ = s.meta.MarkFailed(f.Error())
		})
	}
	return s.Failed()
}

// ioError judges an error of reading or writing, never of syncing: lack of space and of memory are
// answers, anything else means that the disk cannot be trusted.
func (s *Store) ioError(op string, err error) error {
	if mild(err) {
		return fmt.Errorf("%s: %w", op, err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: cut off while in use", ErrBackingShort)
	}
	return s.fail(op, err)
}

// mild reports whether err is an answer, not a failure of the disk.
func mild(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.ENOMEM, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// syncData makes every write of the backing that completed before the call stable. It is not called
// again after an error: the kernel reports it once and forgets the pages.
func (s *Store) syncData() error {
	before := s.written.Load()
	if err := s.data.datasync(); err != nil {
		return s.fail("sync backing", err)
	}
	// Of two syncs at once, the kernel tells an error to one of them alone.
	if err := s.Failed(); err != nil {
		return err
	}
	for old := s.stable.Load(); old < before && !s.stable.CompareAndSwap(old, before); old = s.stable.Load() {
	}
	return nil
}

// unsynced reports whether a completed write of the backing may not be stable.
func (s *Store) unsynced() bool { return s.stable.Load() != s.written.Load() }
