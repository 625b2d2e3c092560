package store

import "errors"

// Returned by Create.
var (
	ErrExists     = errors.New("replica metadata exists already")
	ErrDataExists = errors.New("backing exists already and was not named to be taken in")
)

// Returned by Open, and by Create where they apply.
var (
	ErrLocked            = errors.New("replica is in use by another process")
	ErrNewerVersion      = errors.New("metadata was written by a newer version of this program")
	ErrDamaged           = errors.New("metadata is damaged")
	ErrOtherResource     = errors.New("metadata belongs to another replica")
	ErrReadOnly          = errors.New("backing is read-only")
	ErrBackingMissing    = errors.New("backing is missing")
	ErrBackingKind       = errors.New("backing is neither a regular file nor a block device")
	ErrBackingShort      = errors.New("backing is shorter than the device")
	ErrBackingReplaced   = errors.New("backing is not the one this metadata was made for")
	ErrBackingChanged    = errors.New("backing was written since the clean stop")
	ErrDirectUnsupported = errors.New("backing does not support direct I/O")
)

// Returned by an open Store.
var (
	ErrFailed    = errors.New("disk has failed")
	ErrClosed    = errors.New("store is closed")
	ErrRange     = errors.New("range outside the device")
	ErrShrink    = errors.New("device cannot shrink")
	ErrEpochBack = errors.New("epoch would go back")
	ErrTooLarge  = errors.New("too large for its place in the metadata")
)

// ErrNoReflink is returned by Clone.
var ErrNoReflink = errors.New("filesystem cannot share blocks between files")
