package ledger

import (
	"errors"
	"testing"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/quorum/voter"
)

func TestFound_MakesALedgerOfOne_AndNotTwice(t *testing.T) {
	dir := t.TempDir()
	n := quorum.Node{Name: "A", Addr: "a:1", Gossip: "a:2", Identity: "x"}
	if err := Found(dir, "c", n); err != nil {
		t.Fatal(err)
	}
	if err := Found(dir, "c", n); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("founded twice: %v", err)
	}
	st, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	id, err := voter.Identify(st, "c", "A", randomWord)
	if err != nil || id == 0 {
		t.Fatalf("voter %x: %v", id, err)
	}
	if _, err := voter.Identify(st, "c", "B", randomWord); !errors.Is(err, ErrForeign) {
		t.Fatalf("the file of A taken for that of B: %v", err)
	}
}

func TestPrepare_DoneAgain_ReturnsTheSameVoter(t *testing.T) {
	dir := t.TempDir()
	if there, err := Exists(dir); there || err != nil {
		t.Fatalf("an empty directory: %v %v", there, err)
	}
	a, err := Prepare(dir, "c", "A")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Prepare(dir, "c", "A")
	if err != nil || a != b || a == 0 {
		t.Fatalf("%x, then %x: %v", a, b, err)
	}
	if there, err := Exists(dir); !there || err != nil {
		t.Fatalf("after Prepare: %v %v", there, err)
	}
}
