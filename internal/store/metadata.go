package store

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// MetaDevice is what metadata stands on: a file, or the model of one in a simulation.
//
// A WriteAt that has returned is seen by later reads. It survives a crash of the host when a Sync
// that began later has returned; until then the crash may keep it, lose it, or tear it at any
// sector. A Sync that failed is not called again: see MarkFailed.
type MetaDevice interface {
	ReadAt(p []byte, off int64) (int, error)  // as io.ReaderAt; the part of p beyond the end: io.EOF
	WriteAt(p []byte, off int64) (int, error) // as io.WriterAt, within Size; p is not kept
	Sync() error

	// SeekData returns where the first byte at or after off stands that was ever written, or io.EOF
	// if there is none. It may say too little, and a device that cannot tell returns off.
	SeekData(off int64) (int64, error)

	Size() (int64, error)      // length in bytes
	Truncate(size int64) error // makes it longer, with zeros; stable with the next Sync
}

// MetaError says which use of the MetaDevice failed. Op names it for people.
type MetaError struct {
	Op   string
	Sync bool // it was Sync that failed
	Err  error
}

func (e *MetaError) Error() string { return e.Op + ": " + e.Err.Error() }

func (e *MetaError) Unwrap() error { return e.Err }

// Fatal reports whether the disk cannot be trusted any more. Lack of space or memory is an answer;
// not so from a Sync, which reports it once and forgets what it could not write. Rule 13.
func (e *MetaError) Fatal() bool { return e.Sync || !mild(e.Err) }

// Metadata is an open metadata file: superblocks, activity log and bitmaps, see docs/format.md. It
// does what a Store does with it, on any MetaDevice, and nothing else: it starts no goroutine and
// reads no clock. A simulation runs this code; a Store adds files, locks and the data.
//
// Errors of the device are *MetaError. After a fatal one every call that saves returns that error,
// but for MarkFailed. Methods may be called at the same time; functions that are handed to them must
// not call the Metadata.
type Metadata struct {
	dev      MetaDevice
	lay      layout
	instance uint64
	size     atomic.Int64 // of the device, bytes

	// together runs two syncs and returns when both have ended. They run one after the other, which
	// is all that a simulation needs; a Store runs them at the same time.
	together func(a, b func() error) error

	recovered []bitmap.RegionIndex // as found at the start
	wasClean  bool                 // as found at the start

	superMu sync.Mutex
	meta    Meta   // as in the newest superblock
	seq     uint64 // its sequence number

	logMu         sync.Mutex
	log           table  // as last written whole
	pagesUnsynced bool   // bitmap pages were written since the last sync
	page          []byte // room for one page on its way to the device

	// syncMu keeps syncs apart: of two at once, the kernel tells an error to one of them alone.
	syncMu sync.Mutex
	fault  atomic.Pointer[MetaError] // the first fatal error

	warnMu   sync.Mutex
	warnings []error
}

// maxWarnings bounds what a damaged file can make Warnings hold.
const maxWarnings = 32

// FormatMetadata writes the metadata of a new replica to an empty device, both superblocks and both
// log tables, so that every slot that does not decode later is damage. It is durable on return. No
// Regions means bitmap.DefaultRegions. The replica counts as cleanly stopped.
func FormatMetadata(dev MetaDevice, m Meta) error {
	if m.Regions == 0 {
		m.Regions = bitmap.DefaultRegions
	}
	m.Clean = true
	if err := m.validate(); err != nil {
		return err
	}
	l := layout{regions: m.Regions}
	if err := dev.Truncate(l.fileSize(m.Size)); err != nil {
		return err
	}
	for seq := uint64(1); seq <= 2; seq++ {
		b, err := encodeSuper(m, seq)
		if err != nil {
			return err
		}
		if err := writeBlocks(dev, b, superOff(seq%2)); err != nil {
			return err
		}
		b = encodeTable(table{seq: seq}, m.Instance)
		if err := writeBlocks(dev, b, l.tableOff(seq%2)); err != nil {
			return err
		}
	}
	return dev.Sync()
}

// OpenMetadata takes over what the last process left on dev and records that this one, running in
// the given boot of the host, is using it. What it found is in Recovered, Warnings and Meta; there a
// changed boot id has set Unclean, unless the stop before was clean. A replica recorded as Failed
// opens, unchanged, and nothing can be saved to it. Errors: ErrNewerVersion, ErrDamaged, *MetaError.
func OpenMetadata(dev MetaDevice, boot string) (*Metadata, error) {
	m, err := loadMetadata(dev)
	if err == nil {
		err = m.start(boot, func(*Backing) {})
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// loadMetadata reads what dev says and changes nothing.
func loadMetadata(dev MetaDevice) (*Metadata, error) {
	meta, seq, warn, err := loadSuper(dev)
	if err != nil {
		return nil, err
	}
	m := &Metadata{dev: dev, lay: layout{regions: meta.Regions}, instance: meta.Instance,
		together: inTurn, meta: meta, seq: seq, wasClean: meta.Clean, page: make([]byte, pageStride)}
	m.size.Store(meta.Size)
	m.warn(warn)
	length, err := dev.Size()
	if err != nil {
		return nil, err
	}
	if want := m.lay.fileSize(meta.Size); length < want {
		return nil, fmt.Errorf("%w: file of %d bytes, not %d", ErrDamaged, length, want)
	}
	if m.log, warn, err = loadTable(dev, m.lay, m.instance); err != nil {
		return nil, err
	}
	m.warn(warn)
	m.recovered = m.log.suspects()
	// What lingered has not been seen to leave, and pages may be unstable.
	m.log.active, m.log.linger = m.recovered, nil
	m.pagesUnsynced = !m.wasClean
	return m, nil
}

// start records that a process of the given boot uses the metadata. note lets a Store fill in what
// recognises the backing.
func (m *Metadata) start(boot string, note func(*Backing)) error {
	if m.meta.State == Failed && !planted.On(planted.FailedHealedByRestart) {
		m.fault.Store(&MetaError{Op: "recorded by an earlier process", Err: fmt.Errorf("%w: %s", ErrFailed, m.meta.Failure)})
		return nil
	}
	// A process that was killed may have left a superblock or a table that was written and not
	// synced. It is the newest, so the next save goes over the other one, the only one that a crash
	// of the host is sure to leave.
	if err := m.sync(false); err != nil {
		return err
	}
	crashed := !m.meta.Clean && m.meta.Boot != boot && !planted.On(planted.BootForgotten)
	if planted.On(planted.UncleanAfterBoot) {
		if err := m.change(false, func(c *Meta) { c.Boot = boot }); err != nil {
			return err
		}
	}
	return m.change(false, func(c *Meta) {
		// Rule 9: one slot holds the mark and the new boot id, so no crash can keep the id alone.
		c.Unclean = c.Unclean || crashed || len(m.Warnings()) > 0
		c.Clean = false
		c.Boot = boot
		note(&c.Backing)
	})
}

// Size returns the size of the device in bytes.
func (m *Metadata) Size() int64 { return m.size.Load() }

// Resize records a new size of the device, which is not below the present one. The caller has made
// the new space zero, or dirty, before. Durable on return. Errors: ErrShrink, ErrRange, *MetaError.
func (m *Metadata) Resize(size int64) error {
	switch was := m.size.Load(); {
	case size < was:
		return fmt.Errorf("%w: from %d to %d bytes", ErrShrink, was, size)
	case size > bitmap.MaxSize:
		return fmt.Errorf("%w: size %d, at most %d", ErrRange, size, int64(bitmap.MaxSize))
	}
	if err := m.usable(); err != nil {
		return err
	}
	if err := m.dev.Truncate(m.lay.fileSize(size)); err != nil {
		return m.failed("grow metadata", err)
	}
	// The length is stable before a superblock speaks of it: one that survives a crash alone would
	// describe a file that is too short, and the replica would be refused as damaged.
	if err := m.sync(false); err != nil {
		return err
	}
	if err := m.change(false, func(c *Meta) { c.Size = size }); err != nil {
		return err
	}
	m.size.Store(size)
	return nil
}

// MarkClean makes log and bitmaps stable and then records a clean stop. The caller has made the data
// stable before; mtime is the backing's time of change, ns since 1970, that the next start compares.
// After an error the mark is not set, and the next start finds an unclean stop. It is the last call.
func (m *Metadata) MarkClean(mtime int64) error {
	m.logMu.Lock()
	defer m.logMu.Unlock()
	if err := m.sync(false); err != nil {
		return err
	}
	m.pagesUnsynced = false
	if len(m.log.linger) > 0 {
		if err := m.saveLog(m.log.active, nil); err != nil {
			return err
		}
	}
	return m.change(false, func(c *Meta) {
		c.Clean = true
		c.Backing.MTime = mtime
	})
}

// Warnings returns what was found damaged and could be passed over: a superblock or log table that
// does not decode, bitmap pages taken as all dirty. At most the first 32.
func (m *Metadata) Warnings() []error {
	m.warnMu.Lock()
	defer m.warnMu.Unlock()
	return slices.Clone(m.warnings)
}

func (m *Metadata) warn(err error) {
	m.warnMu.Lock()
	defer m.warnMu.Unlock()
	if err != nil && len(m.warnings) < maxWarnings {
		m.warnings = append(m.warnings, err)
	}
}

// usable returns nil, or the fatal error of before.
func (m *Metadata) usable() error {
	if f := m.fault.Load(); f != nil {
		return f
	}
	return nil
}

// failed returns the error for a use of the device, and remembers it if it is fatal.
func (m *Metadata) failed(op string, err error) error {
	return m.remember(&MetaError{Op: op, Err: err})
}

func (m *Metadata) remember(e *MetaError) error {
	if e.Fatal() {
		m.fault.CompareAndSwap(nil, e)
	}
	return e
}

// write writes whole disk blocks. Last words are written to a failed disk, too.
func (m *Metadata) write(op string, b []byte, off int64, last bool) error {
	if err := m.usable(); err != nil && !last {
		return err
	}
	if err := writeBlocks(m.dev, b, off); err != nil {
		return m.failed(op, err)
	}
	return nil
}

// sync makes all that was written before stable.
func (m *Metadata) sync(last bool) error {
	m.syncMu.Lock()
	defer m.syncMu.Unlock()
	if err := m.usable(); err != nil && !last {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return m.remember(&MetaError{Op: "sync metadata", Sync: true, Err: err})
	}
	return nil
}

// inTurn runs a and then b, whatever a says.
func inTurn(a, b func() error) error {
	err := a()
	return errors.Join(err, b())
}

// readBlocks fills p. A device that ends before is io.ErrUnexpectedEOF.
func readBlocks(dev MetaDevice, p []byte, off int64) error {
	n, err := dev.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

func writeBlocks(dev MetaDevice, p []byte, off int64) error {
	n, err := dev.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}
