package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

var (
	bucketMeta = []byte("meta")
	bucketLog  = []byte("log")

	keyIdentity = []byte("identity")
	keyHard     = []byte("hard")
	keyConf     = []byte("conf")
	keyApplied  = []byte("applied")
	keySnapshot = []byte("snapshot")
)

// store is a voter.Storage in a bbolt file. Only the loop uses it.
type store struct {
	dir string
	db  *bbolt.DB
}

var _ voter.Storage = (*store)(nil)

func (s *store) path() string { return filepath.Join(s.dir, "ledger.db") }

// fresh is the name of the file that is to become ledger.db, while SetAside prepares it.
func (s *store) fresh() string { return s.path() + ".new" }

// openStore opens or makes the ledger file in dir.
//
// Errors: ErrLocked, ErrCorrupt, or that of the file system.
func openStore(dir string) (*store, error) {
	s := &store{dir: dir}
	var err error
	if s.db, err = openDB(s.path()); err != nil {
		return nil, err
	}
	// A SetAside that a crash cut short has changed nothing yet: see there. With the lock held,
	// nobody else is in the midst of one.
	if err := os.Remove(s.fresh()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("remove what is left of a ledger: %w", err), s.db.Close())
	}
	// The file's own name must survive a crash: an empty directory after it would make this
	// node a new voter. bbolt syncs the file, not the directory.
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

// openDB opens or makes a file with the buckets of a ledger.
func openDB(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketLog} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	return db, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open ledger directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync ledger directory: %w", err)
	}
	return nil
}

// Load reads the whole file. Errors: ErrCorrupt.
func (s *store) Load() (voter.Saved, error) {
	var out voter.Saved
	err := s.db.View(func(tx *bbolt.Tx) error {
		if err := loadMeta(tx.Bucket(bucketMeta), &out); err != nil {
			return err
		}
		return loadLog(tx.Bucket(bucketLog), &out)
	})
	if err != nil {
		return voter.Saved{}, fmt.Errorf("%s: %w", s.path(), err)
	}
	return out, nil
}

func loadMeta(meta *bbolt.Bucket, out *voter.Saved) error {
	b, err := get(meta, keyIdentity)
	if err != nil {
		return err
	}
	if b == nil {
		if k, _ := meta.Cursor().First(); k != nil {
			return fmt.Errorf("%w: no identity", ErrCorrupt)
		}
		return nil
	}
	if err := voter.DecodeStrict(b, &out.Identity); err != nil {
		return fmt.Errorf("%w: identity: %w", ErrCorrupt, err)
	}
	out.Snapshot, out.Position.Hard, out.Position.Conf = &pb.Snapshot{}, &pb.HardState{}, &pb.ConfState{}
	for _, v := range []struct {
		key  []byte
		into proto.Message
	}{{keySnapshot, out.Snapshot}, {keyHard, out.Position.Hard}, {keyConf, out.Position.Conf}} {
		b, err := get(meta, v.key)
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(b, v.into); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrCorrupt, v.key, err)
		}
	}
	if b, err = get(meta, keyApplied); len(b) == 8 {
		out.Position.Applied = binary.BigEndian.Uint64(b)
	}
	return err
}

// loadLog reads the entries behind the snapshot; the voter needs no others, and checks these.
func loadLog(log *bbolt.Bucket, out *voter.Saved) error {
	c := log.Cursor()
	for k, _ := c.Seek(indexKey(out.Snapshot.GetMetadata().GetIndex() + 1)); k != nil; k, _ = c.Next() {
		b, err := get(log, k)
		if err != nil {
			return err
		}
		e := &pb.Entry{}
		if err := proto.Unmarshal(b, e); err != nil {
			return fmt.Errorf("%w: log entry: %w", ErrCorrupt, err)
		}
		if !bytes.Equal(k, indexKey(e.GetIndex())) {
			return fmt.Errorf("%w: log entry %d stored as %x", ErrCorrupt, e.GetIndex(), k)
		}
		out.Entries = append(out.Entries, e)
	}
	return nil
}

// Save makes c durable, in one transaction.
func (s *store) Save(c voter.Change) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return write(tx, c) })
}

func write(tx *bbolt.Tx, c voter.Change) error {
	meta, log := tx.Bucket(bucketMeta), tx.Bucket(bucketLog)
	if c.Identity != nil {
		if err := putIdentity(meta, *c.Identity); err != nil {
			return err
		}
	}
	if c.Snapshot != nil {
		if err := putProto(meta, keySnapshot, c.Snapshot); err != nil {
			return err
		}
	}
	if c.DropTo > 0 {
		if err := cut(log, 0, c.DropTo); err != nil {
			return err
		}
	}
	if len(c.Entries) > 0 { // a new leader may overwrite what the old one did not commit
		if err := cut(log, c.Entries[0].GetIndex(), math.MaxUint64); err != nil {
			return err
		}
	}
	for _, e := range c.Entries {
		if err := putProto(log, indexKey(e.GetIndex()), e); err != nil {
			return err
		}
	}
	if c.Position == nil {
		return nil
	}
	if err := putProto(meta, keyHard, c.Position.Hard); err != nil {
		return err
	}
	if err := putProto(meta, keyConf, c.Position.Conf); err != nil {
		return err
	}
	return put(meta, keyApplied, binary.BigEndian.AppendUint64(nil, c.Position.Applied))
}

// SetAside makes a new file with next in it, gives the present one a second name, and then lets
// the new one take the first name over. That one rename is the whole step: before it, a crash
// leaves ledger.db as it was, and after it, the other name keeps the old ledger. So there is no
// moment without a ledger.db, which would be an empty ledger that could vote.
func (s *store) SetAside(next voter.Identity) error {
	saved, err := s.Load()
	if err != nil {
		return err
	}
	db, err := openDB(s.fresh())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error { return putIdentity(tx.Bucket(bucketMeta), next) })
	if err == nil {
		err = s.keep(saved.Identity.Incarnation)
	}
	if err == nil {
		err = os.Rename(s.fresh(), s.path())
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	old := s.db
	s.db = db
	return errors.Join(syncDir(s.dir), old.Close())
}

// keep gives the present file the name of its incarnation, or one that is free: what was set
// aside before is not overwritten.
func (s *store) keep(incarnation uint64) error {
	name := fmt.Sprintf("%s.%x", s.path(), incarnation)
	for n := 1; ; n++ {
		err := os.Link(s.path(), name)
		if !errors.Is(err, os.ErrExist) {
			return errors.Join(err, syncDir(s.dir))
		}
		name = fmt.Sprintf("%s.%x.%d", s.path(), incarnation, n)
	}
}

func (s *store) close() error { return s.db.Close() }

func putIdentity(meta *bbolt.Bucket, id voter.Identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return put(meta, keyIdentity, b)
}

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// cut deletes the entries from first to last, both included.
func cut(log *bbolt.Bucket, first, last uint64) error {
	c := log.Cursor()
	for k, _ := c.Seek(indexKey(first)); k != nil && bytes.Compare(k, indexKey(last)) <= 0; k, _ = c.Seek(indexKey(first)) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

func putProto(b *bbolt.Bucket, key []byte, m proto.Message) error {
	v, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return put(b, key, v)
}

func put(b *bbolt.Bucket, key, value []byte) error {
	return b.Put(key, append(binary.BigEndian.AppendUint64(nil, sum(key, value)), value...))
}

// get returns a copy of the value, nil if there is none.
func get(b *bbolt.Bucket, key []byte) ([]byte, error) {
	v := b.Get(key)
	if v == nil {
		return nil, nil
	}
	if len(v) < 8 || binary.BigEndian.Uint64(v) != sum(key, v[8:]) {
		return nil, fmt.Errorf("%w: checksum of %q", ErrCorrupt, key)
	}
	return bytes.Clone(v[8:]), nil
}

func sum(key, value []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(key)
	_, _ = d.Write(value)
	return d.Sum64()
}
