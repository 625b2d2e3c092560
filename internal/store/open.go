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
	if s.meta, err = loadMetadata(fileDevice{s.metaFile}); err != nil {
		return err
	}
	s.meta.together = s.syncBoth
	return o.expect(s.meta.Meta().Identity)
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
	was := s.meta.Meta()
	if length < was.Size { // said first: a file that was cut is changed, too
		return fmt.Errorf("backing %s: %w: %d of %d bytes", o.DataPath, ErrBackingShort, length, was.Size)
	}
	if err := was.Backing.differs(now, was.Boot == o.BootID, was.Clean); err != nil {
		return fmt.Errorf("backing %s: %w", o.DataPath, err)
	}
	if !o.Direct {
		return nil
	}
	s.memAlign, s.align, err = alignments(f.fd(), block)
	if err == nil && was.Size%s.align != 0 {
		err = fmt.Errorf("%w: size %d is no multiple of %d", ErrDirectUnsupported, was.Size, s.align)
	}
	return err
}

// start takes over what the last process left and records that this one is using it.
func (s *Store) start(o OpenOptions) error {
	was := s.meta.Meta()
	if !was.Clean {
		s.written.Store(1) // until the first sync anything may be unstable
	}
	if was.State == Failed {
		s.failure.Store(&diskFailure{op: "recorded by an earlier process", cause: errors.New(was.Failure)})
	}
	var now Backing
	if err := now.identify(s.data.fd()); err != nil {
		return err
	}
	return s.judge(s.meta.start(o.BootID, func(b *Backing) {
		b.Path, b.Dev = o.DataPath, now.Dev
		if b.Born == 0 {
			b.Born = now.Born
		}
		if b.Serial == "" {
			b.Serial = now.Serial
		}
	}))
}
