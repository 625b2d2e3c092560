package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const diskFormat = 1

var (
	bucketMeta = []byte("meta")
	bucketLog  = []byte("log")

	keyIdentity = []byte("identity")
	keyHard     = []byte("hard")
	keyConf     = []byte("conf")
	keyApplied  = []byte("applied")
	keySnapshot = []byte("snapshot")
)

// identity is who this ledger file is.
type identity struct {
	Format      int    `json:"v"`
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Voter       uint64 `json:"voter"`       // made with the file, never changed
	Incarnation uint64 `json:"incarnation"` // pledged to; 0: to none yet
	Lost        bool   `json:"lost"`        // it lacks entries that it once acknowledged
}

// store keeps raft's state in a bbolt file, and the part of it that raft reads in memory. Only
// the loop uses it.
type store struct {
	db *bbolt.DB
	id identity

	mem     *raft.MemoryStorage
	hard    *pb.HardState // newest known, perhaps not yet written: see lazy
	conf    *pb.ConfState // as of applied
	applied uint64
	lazy    bool // commit or applied index moved since the last write; losing that is harmless
}

// InitialState is raft's view at start: MemoryStorage would give the snapshot's configuration.
type raftStorage struct {
	*raft.MemoryStorage
	conf *pb.ConfState
}

func (s raftStorage) InitialState() (*pb.HardState, *pb.ConfState, error) {
	hard, _, err := s.MemoryStorage.InitialState()
	return hard, s.conf, err
}

// openStore opens or makes the ledger file in dir.
//
// Errors: ErrLocked, ErrForeign, ErrCorrupt, or that of the file system.
func openStore(dir, cluster, node string, newVoter func() uint64) (*store, error) {
	path := filepath.Join(dir, "ledger.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	s := &store{db: db, mem: raft.NewMemoryStorage(), conf: &pb.ConfState{}}
	if err := s.load(identity{Format: diskFormat, Cluster: cluster, Node: node}, newVoter); err != nil {
		db.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// The file's own name must survive a crash: an empty directory after it would make this
	// node a new voter. bbolt syncs the file, not the directory.
	if err := syncDir(dir); err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
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

func (s *store) load(want identity, newVoter func() uint64) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		log, err := tx.CreateBucketIfNotExists(bucketLog)
		if err != nil {
			return err
		}
		if err := s.loadIdentity(meta, want, newVoter); err != nil {
			return err
		}
		if err := s.loadMeta(meta); err != nil {
			return err
		}
		return s.loadLog(log)
	})
}

func (s *store) loadIdentity(meta *bbolt.Bucket, want identity, newVoter func() uint64) error {
	b, err := get(meta, keyIdentity)
	if err != nil {
		return err
	}
	if b == nil {
		if k, _ := meta.Cursor().First(); k != nil {
			return fmt.Errorf("%w: no identity", ErrCorrupt)
		}
		s.id = want
		s.id.Voter = newVoter()
		return putIdentity(meta, s.id)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.id); err != nil {
		return fmt.Errorf("%w: identity: %w", ErrCorrupt, err)
	}
	switch {
	case s.id.Format != diskFormat:
		return fmt.Errorf("%w: format %d, this program knows %d", ErrCorrupt, s.id.Format, diskFormat)
	case s.id.Cluster != want.Cluster || s.id.Node != want.Node:
		return fmt.Errorf("%w: it is of node %q, cluster %q", ErrForeign, s.id.Node, s.id.Cluster)
	case s.id.Voter == 0:
		return fmt.Errorf("%w: voter id 0", ErrCorrupt)
	}
	return nil
}

func (s *store) loadMeta(meta *bbolt.Bucket) error {
	snap, hard := &pb.Snapshot{}, &pb.HardState{}
	for _, v := range []struct {
		key  []byte
		into proto.Message
	}{{keySnapshot, snap}, {keyHard, hard}, {keyConf, s.conf}} {
		b, err := get(meta, v.key)
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(b, v.into); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrCorrupt, v.key, err)
		}
	}
	b, err := get(meta, keyApplied)
	if err != nil {
		return err
	}
	if len(b) == 8 {
		s.applied = binary.BigEndian.Uint64(b)
	}
	if !raft.IsEmptySnap(snap) {
		if err := s.mem.ApplySnapshot(snap); err != nil {
			return fmt.Errorf("%w: snapshot: %w", ErrCorrupt, err)
		}
	}
	if s.applied < snap.GetMetadata().GetIndex() || s.applied > hard.GetCommit() {
		return fmt.Errorf("%w: applied %d, snapshot at %d, commit %d", ErrCorrupt, s.applied, snap.GetMetadata().GetIndex(), hard.GetCommit())
	}
	s.hard = hard
	return s.mem.SetHardState(hard)
}

// loadLog reads the entries behind the snapshot; what was kept before it served lagging
// followers and is not needed after a start.
func (s *store) loadLog(log *bbolt.Bucket) error {
	next, _ := s.mem.FirstIndex()
	var ents []*pb.Entry
	c := log.Cursor()
	for k, _ := c.Seek(indexKey(next)); k != nil; k, _ = c.Next() {
		b, err := get(log, k)
		if err != nil {
			return err
		}
		e := &pb.Entry{}
		if err := proto.Unmarshal(b, e); err != nil {
			return fmt.Errorf("%w: log entry: %w", ErrCorrupt, err)
		}
		if e.GetIndex() != next || !bytes.Equal(k, indexKey(next)) {
			return fmt.Errorf("%w: log entry %d where %d should be", ErrCorrupt, e.GetIndex(), next)
		}
		ents = append(ents, e)
		next++
	}
	if s.hard.GetCommit() >= next {
		return fmt.Errorf("%w: log ends at %d, commit is %d", ErrCorrupt, next-1, s.hard.GetCommit())
	}
	return s.mem.Append(ents)
}

// save makes ents, the newest hard state, and with them whatever else moved, stable. When it
// returns, raft's messages may leave.
func (s *store) save(hard *pb.HardState, ents []*pb.Entry, snap *pb.Snapshot) error {
	if hard != nil {
		s.hard = hard
	}
	if !raft.IsEmptySnap(snap) {
		s.applied, s.conf = snap.GetMetadata().GetIndex(), snap.GetMetadata().GetConfState()
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		log := tx.Bucket(bucketLog)
		if !raft.IsEmptySnap(snap) {
			if err := putProto(tx.Bucket(bucketMeta), keySnapshot, snap); err != nil {
				return err
			}
			if err := cut(log, 0, 1<<63); err != nil {
				return err
			}
		}
		if len(ents) > 0 { // a new leader may overwrite what the old one did not commit
			if err := cut(log, ents[0].GetIndex(), 1<<63); err != nil {
				return err
			}
		}
		for _, e := range ents {
			if err := putProto(log, indexKey(e.GetIndex()), e); err != nil {
				return err
			}
		}
		return s.putPosition(tx)
	})
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	s.lazy = false
	if !raft.IsEmptySnap(snap) {
		if err := s.mem.ApplySnapshot(snap); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
	}
	if err := s.mem.SetHardState(s.hard); err != nil {
		return err
	}
	return s.mem.Append(ents)
}

// putPosition writes hard state, configuration and applied index, which belong together:
// applied never exceeds the commit index beside it.
func (s *store) putPosition(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if err := putProto(meta, keyHard, s.hard); err != nil {
		return err
	}
	if err := putProto(meta, keyConf, s.conf); err != nil {
		return err
	}
	return put(meta, keyApplied, binary.BigEndian.AppendUint64(nil, s.applied))
}

// flush writes what save left for later, if anything.
func (s *store) flush() error {
	if !s.lazy {
		return nil
	}
	return s.save(nil, nil, nil)
}

// compact replaces the log up to the applied index by a snapshot with data, but keeps the last
// keep entries for followers that lag a little.
func (s *store) compact(data []byte, keep uint64) error {
	snap, err := s.mem.CreateSnapshot(s.applied, s.conf, data)
	if err != nil {
		return fmt.Errorf("snapshot at %d: %w", s.applied, err)
	}
	first, _ := s.mem.FirstIndex()
	upTo := max(s.applied, keep) - keep
	err = s.db.Update(func(tx *bbolt.Tx) error {
		if err := putProto(tx.Bucket(bucketMeta), keySnapshot, snap); err != nil {
			return err
		}
		if err := cut(tx.Bucket(bucketLog), 0, upTo); err != nil {
			return err
		}
		return s.putPosition(tx)
	})
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	s.lazy = false
	if upTo < first {
		return nil
	}
	return s.mem.Compact(upTo)
}

// setIdentity writes a changed identity.
func (s *store) setIdentity(id identity) error {
	err := s.db.Update(func(tx *bbolt.Tx) error { return putIdentity(tx.Bucket(bucketMeta), id) })
	if err != nil {
		return fmt.Errorf("write ledger identity: %w", err)
	}
	s.id = id
	return nil
}

// empty reports whether the ledger was never founded here.
func (s *store) empty() bool {
	last, _ := s.mem.LastIndex()
	return last == 0
}

func (s *store) close() error { return s.db.Close() }

func putIdentity(meta *bbolt.Bucket, id identity) error {
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
