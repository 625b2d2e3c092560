package ledger

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-ha/lockstep/quorum/voter"
)

// storages opens each kind of voter.Storage; again opens the same one again, as the next process
// does.
var storages = map[string]func(t *testing.T) (first voter.Storage, again func() voter.Storage){
	"memory": func(*testing.T) (voter.Storage, func() voter.Storage) {
		m := voter.NewMemory()
		return m, func() voter.Storage { return m }
	},
	"bbolt": func(t *testing.T) (voter.Storage, func() voter.Storage) {
		dir := t.TempDir()
		var s *store
		open := func() voter.Storage {
			if s != nil {
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if s, err = openStore(dir); err != nil {
				t.Fatal(err)
			}
			return s
		}
		t.Cleanup(func() { _ = s.close() })
		return open(), open
	},
}

func entry(index, term uint64) *pb.Entry {
	return &pb.Entry{Index: &index, Term: &term, Data: fmt.Appendf(nil, "%d of %d", index, term)}
}

func position(term, commit, applied uint64) *voter.Position {
	return &voter.Position{Hard: &pb.HardState{Term: &term, Vote: new(uint64), Commit: &commit},
		Conf: &pb.ConfState{Voters: []uint64{7}}, Applied: applied}
}

func snapshot(index, term uint64) *pb.Snapshot {
	return &pb.Snapshot{Data: []byte("state"), Metadata: &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &pb.ConfState{Voters: []uint64{7}}}}
}

// terms returns the terms of the entries, which begin at index first.
func terms(t *testing.T, s voter.Storage, first uint64) []uint64 {
	t.Helper()
	saved, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, e := range saved.Entries {
		if e.GetIndex() < first {
			continue // a Storage may keep what is behind the snapshot, or not show it
		}
		if want := first + uint64(len(out)); e.GetIndex() != want || string(e.GetData()) != string(entry(want, e.GetTerm()).GetData()) {
			t.Fatalf("entry %v where %d should be", e, want)
		}
		out = append(out, e.GetTerm())
	}
	return out
}

func TestStorage_KeepsWhatIsSaved(t *testing.T) {
	for name, open := range storages {
		t.Run(name, func(t *testing.T) {
			s, again := open(t)
			save := func(c voter.Change) {
				t.Helper()
				if err := s.Save(c); err != nil {
					t.Fatal(err)
				}
				s = again()
			}
			if saved, err := s.Load(); err != nil || saved.Identity.Voter != 0 || len(saved.Entries) != 0 {
				t.Fatalf("new: %+v %v", saved, err)
			}
			id := voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 7, Incarnation: 9, Refused: []uint64{4}}
			save(voter.Change{Identity: &id})
			save(voter.Change{Position: position(1, 1, 1), Snapshot: snapshot(1, 1), DropTo: math.MaxUint64})
			save(voter.Change{Position: position(2, 1, 1), Entries: []*pb.Entry{entry(2, 2), entry(3, 2), entry(4, 2)}})
			save(voter.Change{Position: position(3, 3, 2), Entries: []*pb.Entry{entry(3, 3)}})
			if got := terms(t, s, 2); !slices.Equal(got, []uint64{2, 3}) {
				t.Fatalf("after entry 3 was overwritten: %v", got)
			}
			saved, err := s.Load()
			if err != nil || saved.Identity.Voter != 7 || !slices.Equal(saved.Identity.Refused, id.Refused) || saved.Position.Applied != 2 ||
				!proto.Equal(saved.Position.Hard, position(3, 3, 2).Hard) || !proto.Equal(saved.Position.Conf, position(3, 3, 2).Conf) || !proto.Equal(saved.Snapshot, snapshot(1, 1)) {
				t.Fatalf("%+v %v", saved, err)
			}
			save(voter.Change{Position: position(3, 3, 3), Snapshot: snapshot(3, 3), DropTo: 2})
			save(voter.Change{Position: position(3, 3, 3), Entries: []*pb.Entry{entry(4, 3)}})
			if got := terms(t, s, 4); !slices.Equal(got, []uint64{3}) {
				t.Fatalf("after a compaction: %v", got)
			}
			save(voter.Change{Position: position(4, 9, 9), Snapshot: snapshot(9, 4), DropTo: math.MaxUint64})
			if got := terms(t, s, 1); len(got) != 0 {
				t.Fatalf("after a snapshot of the leader: %v", got)
			}
		})
	}
}

func TestStorage_SetAsideBeginsAnEmptyLedger(t *testing.T) {
	for name, open := range storages {
		t.Run(name, func(t *testing.T) {
			s, again := open(t)
			for n := range uint64(3) {
				id := voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 7 + n, Incarnation: 9}
				err := s.Save(voter.Change{Identity: &id, Position: position(1, 1, 1), Snapshot: snapshot(1, 1), Entries: []*pb.Entry{entry(2, 1)}})
				if err != nil {
					t.Fatal(err)
				}
				next := voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 8 + n, Incarnation: 10, Aside: 9}
				if err := s.SetAside(next); err != nil {
					t.Fatal(err)
				}
				for range 2 { // at once, and in the next process
					saved, err := s.Load()
					if err != nil || saved.Identity.Voter != 8+n || saved.Identity.Aside != 9 || len(saved.Entries) != 0 || saved.Snapshot.GetMetadata().GetIndex() != 0 {
						t.Fatalf("%+v %v", saved, err)
					}
					s = again()
				}
			}
		})
	}
}

// What was set aside is a whole ledger, under the name of its incarnation, and nothing that was
// set aside later overwrites it.
func TestStore_SetAsideKeepsEachFile(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint64(2) {
		id := voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 7 + n, Incarnation: 0xabc}
		if err := s.Save(voter.Change{Identity: &id}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetAside(voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 99, Incarnation: 0xabc}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{"ledger.db.abc": 7, "ledger.db.abc.1": 8, "ledger.db": 99} {
		put := t.TempDir() // where an operator puts it back
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(put, "ledger.db")); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(put)
		if err != nil {
			t.Fatal(err)
		}
		if saved, err := s.Load(); err != nil || saved.Identity.Voter != want {
			t.Errorf("%s: %+v %v", name, saved.Identity, err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

// A crash inside SetAside leaves a prepared file, and perhaps the second name; ledger.db is the
// old ledger until the rename.
func TestStore_SetAsideCutShortIsUndone(t *testing.T) {
	for _, linked := range []bool{false, true} {
		dir := t.TempDir()
		s, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		id := voter.Identity{Format: voter.Format, Cluster: "c", Node: "A", Voter: 7, Incarnation: 9}
		if err := s.Save(voter.Change{Identity: &id}); err != nil {
			t.Fatal(err)
		}
		fresh, err := openDB(s.fresh())
		if err != nil {
			t.Fatal(err)
		}
		id.Voter = 8
		err = fresh.Update(func(tx *bbolt.Tx) error { return putIdentity(tx.Bucket(bucketMeta), id) })
		if err = errors.Join(err, fresh.Close()); err != nil {
			t.Fatal(err)
		}
		if linked {
			if err := s.keep(9); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil { // the crash
			t.Fatal(err)
		}
		if s, err = openStore(dir); err != nil {
			t.Fatal(err)
		}
		if saved, err := s.Load(); err != nil || saved.Identity.Voter != 7 {
			t.Errorf("%+v %v", saved, err)
		}
		if _, err := os.Stat(s.fresh()); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := errors.Join(s.SetAside(id), s.close()); err != nil { // and it can be done again
			t.Error(err)
		}
	}
}
