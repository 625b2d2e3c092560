package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// CreateOptions says what Create makes.
type CreateOptions struct {
	DataPath string // of the backing: made as a sparse file when nothing is there
	MetaPath string // of the metadata file: nothing may be there

	Cluster    string
	Resource   string // must not be empty
	ResourceID uint64
	Node       string
	Size       int64  // of the device, bytes, 1 to bitmap.MaxSize
	BootID     string // of this boot; may be empty

	Regions int // capacity of the activity log; 0 means bitmap.DefaultRegions

	// TakeExisting allows a backing that exists. It must be at least Size bytes long; what lies
	// beyond is left alone. Without it an existing backing is refused with ErrDataExists.
	TakeExisting bool

	// State, Epoch and Lineage at first. The zero State is Inconsistent: only the caller knows
	// whether this replica begins in sync, or is the source of the others.
	State   DiskState
	Epoch   uint64
	Lineage []uint64
}

// Create makes the metadata of a new replica, with a new instance id, and its backing file if there
// is none. Both are durable when it returns; after an error neither is there that was not before.
// Errors: ErrExists, ErrDataExists, ErrBackingShort and what Open says about a backing.
func Create(o CreateOptions) (Identity, error) {
	if o.Regions == 0 {
		o.Regions = bitmap.DefaultRegions
	}
	m := Meta{
		Identity: Identity{Cluster: o.Cluster, Resource: o.Resource, ResourceID: o.ResourceID,
			Node: o.Node, Instance: newInstance(), Size: o.Size},
		Regions: o.Regions, Epoch: o.Epoch, Lineage: o.Lineage, State: o.State, Boot: o.BootID,
	}
	if err := m.validate(); err != nil {
		return Identity{}, fmt.Errorf("resource %s: %w", o.Resource, err)
	}
	if _, err := os.Lstat(o.MetaPath); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = ErrExists
		}
		return Identity{}, fmt.Errorf("metadata %s: %w", o.MetaPath, err)
	}
	made, err := makeBacking(o)
	if err != nil {
		return Identity{}, fmt.Errorf("resource %s: %w", o.Resource, err)
	}
	err = createMeta(o, m, made)
	if err != nil {
		if made {
			os.Remove(o.DataPath)
		}
		return Identity{}, fmt.Errorf("resource %s: %w", o.Resource, err)
	}
	return m.Identity, nil
}

// newInstance returns a random id, never 0.
func newInstance() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}

// makeBacking makes a sparse file of zeros when nothing is at the path.
func makeBacking(o CreateOptions) (made bool, err error) {
	f, err := os.OpenFile(o.DataPath, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		if o.TakeExisting {
			return false, nil
		}
		return false, fmt.Errorf("backing %s: %w", o.DataPath, ErrDataExists)
	}
	if err != nil {
		return false, err
	}
	err = f.Truncate(o.Size)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = syncDir(o.DataPath)
	}
	if err != nil {
		os.Remove(o.DataPath)
		return false, err
	}
	return true, nil
}

// createMeta looks at the backing and writes the metadata file.
func createMeta(o CreateOptions, m Meta, made bool) error {
	data, _, length, err := openBacking(o.DataPath, false)
	if err != nil {
		return err
	}
	defer data.close()
	if length < o.Size {
		return fmt.Errorf("backing %s: %w: %d of %d bytes", o.DataPath, ErrBackingShort, length, o.Size)
	}
	if err := m.Backing.identify(data.fd()); err != nil {
		return err
	}
	m.Backing.Path, m.Backing.Made = o.DataPath, made
	return writeNewMeta(o.MetaPath, m)
}

// writeNewMeta writes the metadata file under another name and then links it to its own, which fails
// if something has come there meanwhile. So the file is whole as soon as it has its name.
func writeNewMeta(path string, m Meta) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = fillNewMeta(sysFile(tmp.Fd()), m)
	err = errors.Join(err, tmp.Close())
	if err != nil {
		return fmt.Errorf("metadata %s: %w", path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = fmt.Errorf("%w: %w", ErrExists, err)
		}
		return fmt.Errorf("metadata %s: %w", path, err)
	}
	return syncDir(path)
}

// fillNewMeta writes what FormatMetadata writes. The space of superblocks and log tables is allocated
// now: a full filesystem must not stop a state change.
func fillNewMeta(f sysFile, m Meta) error {
	l := layout{regions: m.Regions}
	if err := f.fallocate(0, 0, l.bitmapOff()); err != nil && !unsupported(err) {
		return err
	}
	if err := FormatMetadata(fileDevice{f}, m); err != nil {
		return err
	}
	return f.sync()
}

// syncDir makes the name of path durable.
func syncDir(path string) error {
	d, err := openFile(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("directory of %s: %w", path, err)
	}
	defer d.close()
	if err := d.sync(); err != nil {
		return fmt.Errorf("directory of %s: %w", path, err)
	}
	return nil
}
