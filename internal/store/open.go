package store

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// OpenOptions says which replica to open. Each Expect field that is not zero must match.
type OpenOptions struct {
	DataPath string
	MetaPath string
	Direct   bool   // O_DIRECT for the backing; Size must be a multiple of its logical block
	BootID   string // kernel boot id; must not be empty

	ExpectCluster    string
	ExpectResource   string
	ExpectResourceID uint64
	ExpectNode       string

	wrap func(name string, f file) file // for tests: name is "data" or "meta"
}

// Open opens a replica and locks it. It refuses what it cannot vouch for: ErrLocked, ErrNewerVersion,
// ErrDamaged, ErrOtherResource, ErrReadOnly, ErrDirectUnsupported, the ErrBacking errors, and the
// errno of a metadata file that is not there.
//
// A host that crashed may have lost writes that were not flushed: when the stop before was not clean
// and the boot id is another one, or when a superblock slot does not decode, the replica is marked
// Unclean in the same superblock that takes the new boot id. A replica recorded as Failed opens, so
// that it can be asked, and every call answers ErrFailed.
func Open(o OpenOptions) (*Store, error) {
	if o.BootID == "" {
		panic("store: no boot id")
	}
	s := &Store{align: 1, memAlign: 1}
	err := s.openMeta(o)
	if err == nil {
		err = s.openData(o)
	}
	if err == nil {
		err = s.start(o)
	}
	if err != nil {
		s.tasks.Wait()
		for _, f := range []file{s.data, s.metaFile} {
			if f != nil {
				f.close()
			}
		}
		return nil, fmt.Errorf("replica %s: %w", o.MetaPath, err)
	}
	return s, nil
}

// wrapped returns f as the tests want to see it.
func (o OpenOptions) wrapped(name string, f file) file {
	if o.wrap == nil {
		return f
	}
	return o.wrap(name, f)
}

// openMeta opens, locks and reads the metadata file.
func (s *Store) openMeta(o OpenOptions) error {
	f, err := openFile(o.MetaPath, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.metaFile = o.wrapped("meta", f)
	if err := restart(func() error { return unix.Flock(int(f), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		}
		return err
	}
	var warn error
	if s.meta, s.metaSeq, warn, err = loadSuper(s.metaFile); err != nil {
		return err
	}
	s.warn(warn)
	if err := o.expect(s.meta.Identity); err != nil {
		return err
	}
	s.instance, s.lay = s.meta.Instance, layout{regions: s.meta.Regions}
	s.size.Store(s.meta.Size)
	length, err := s.metaFile.seek(0, unix.SEEK_END)
	if err != nil {
		return err
	}
	if want := s.lay.fileSize(s.meta.Size); length < want {
		return fmt.Errorf("%w: file of %d bytes, not %d", ErrDamaged, length, want)
	}
	if s.log, warn, err = loadTable(s.metaFile, s.lay, s.instance); err != nil {
		return err
	}
	s.warn(warn)
	return nil
}

// expect compares what was found with what the caller looks for.
func (o OpenOptions) expect(id Identity) error {
	var errs []error
	check := func(field string, want, found any, ok bool) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s is %v, not %v", ErrOtherResource, field, found, want))
		}
	}
	check("cluster", o.ExpectCluster, id.Cluster, o.ExpectCluster == "" || o.ExpectCluster == id.Cluster)
	check("resource", o.ExpectResource, id.Resource, o.ExpectResource == "" || o.ExpectResource == id.Resource)
	check("resource id", o.ExpectResourceID, id.ResourceID, o.ExpectResourceID == 0 || o.ExpectResourceID == id.ResourceID)
	check("node", o.ExpectNode, id.Node, o.ExpectNode == "" || o.ExpectNode == id.Node)
	return errors.Join(errs...)
}

// openData opens and locks the backing and makes sure that it is ours.
func (s *Store) openData(o OpenOptions) error {
	f, block, length, err := openBacking(o.DataPath, o.Direct)
	if err != nil {
		return err
	}
	s.data, s.block = o.wrapped("data", f), block
	var now Backing
	if err := now.identify(f.fd()); err != nil {
		return err
	}
	if length < s.meta.Size { // said first: a file that was cut is changed, too
		return fmt.Errorf("backing %s: %w: %d of %d bytes", o.DataPath, ErrBackingShort, length, s.meta.Size)
	}
	if err := s.meta.Backing.differs(now, s.meta.Boot == o.BootID, s.meta.Clean); err != nil {
		return fmt.Errorf("backing %s: %w", o.DataPath, err)
	}
	if !o.Direct {
		return nil
	}
	s.memAlign, s.align, err = alignments(f.fd(), block)
	if err == nil && s.meta.Size%s.align != 0 {
		err = fmt.Errorf("%w: size %d is no multiple of %d", ErrDirectUnsupported, s.meta.Size, s.align)
	}
	return err
}

// start takes over what the last process left and records that this one is using it.
func (s *Store) start(o OpenOptions) error {
	s.recovered, s.wasClean = s.log.suspects(), s.meta.Clean
	// Until the first sync anything may be unstable, but for what a clean stop has synced; and what
	// lingered has not been seen to leave.
	s.log.active, s.log.linger = s.recovered, nil
	if !s.wasClean {
		s.written.Store(1)
		s.pagesUnsynced.Store(true)
	}
	if s.meta.State == Failed {
		s.failure.Store(&diskFailure{op: "recorded by an earlier process", cause: errors.New(s.meta.Failure)})
		return nil
	}
	var now Backing
	if err := now.identify(s.data.fd()); err != nil {
		return err
	}
	crashed := !s.meta.Clean && s.meta.Boot != o.BootID
	return s.change(func(m *Meta) {
		// Rule 9: one slot holds the mark and the new boot id, so no crash can keep the id alone.
		m.Unclean = m.Unclean || crashed || len(s.Warnings()) > 0
		m.Clean = false
		m.Boot = o.BootID
		m.Backing.Path, m.Backing.Dev = o.DataPath, now.Dev
		if m.Backing.Born == 0 {
			m.Backing.Born = now.Born
		}
		if m.Backing.Serial == "" {
			m.Backing.Serial = now.Serial
		}
	})
}
