package node

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
	"github.com/lockstep-ha/lockstep/quorum"
)

// fakeDoor has connections to r0 by what they said of themselves; nil said nothing.
type fakeDoor struct {
	conns []nbd.Attached
	plain int // lookups were made void so often
}

func (f *fakeDoor) CloseConns(_, _ string, plain bool, match func(nbd.Attached) bool) int {
	before := len(f.conns)
	f.conns = slices.DeleteFunc(f.conns, match)
	if plain {
		f.plain++
	}
	return before - len(f.conns)
}

func (f *fakeDoor) Attached(string) []nbd.Attached { return f.conns }

// attachable is r0 on n1, which is primary and serves, and the exports there.
func attachable(t *testing.T) (*fakeCluster, *exports, *fakeDoor) {
	t.Helper()
	c := promoted(t)
	n1 := c.nodes["n1"]
	n1.opener.replica("r0").disk = nbdtest.NewMemory(1 << 20)
	door := &fakeDoor{}
	e := &exports{m: n1.m, asker: c, srv: door}
	n1.m.onAttachments = e.enforce
	return c, e, door
}

func someAttach(key byte) nbd.Attach {
	return nbd.Attach{Resource: "r0", Key: nbd.Key{key}, Session: 7, Holder: "h1", Device: "/dev/nbd0", Boot: "b1"}
}

func kindOf(t *testing.T, err error) nbd.NotServedKind {
	t.Helper()
	var no *nbd.ErrNotServed
	if !errors.As(err, &no) {
		t.Fatalf("%v is no refusal", err)
	}
	return no.Kind
}

func TestAttach_LostAnswersRegisterOnce(t *testing.T) {
	for name, fates := range map[string][]fate{
		"answered":             {answered},
		"lost, and applied":    {lostAfter, answered},
		"lost, not applied":    {lostBefore, answered},
		"not proposed":         {notDone, notDone, answered},
		"applied, lost, again": {lostAfter, notDone, lostBefore, answered},
	} {
		t.Run(name, func(t *testing.T) {
			c, e, _ := attachable(t)
			c.ledger.fates = fates
			for range 2 { // the holder may ask again, too
				at, err := e.Attach(t.Context(), someAttach(1))
				if err != nil || at.Number() != 1 {
					t.Fatalf("%v, %v", at, err)
				}
			}
			if got := c.record("r0").Attachments; len(got) != 1 {
				t.Errorf("attachments %+v", got)
			}
		})
	}
}

func TestAttach_SessionsOfExclusiveHoldersRiseAndSharedOnesAreApart(t *testing.T) {
	_, e, _ := attachable(t)
	rep := e.m.find("r0")
	open := func(a nbd.Attach) {
		t.Helper()
		at, err := e.Attach(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		x, err := at.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		x.Gone()
	}
	first, again := someAttach(1), someAttach(2)
	open(first)
	again.Boot, again.Session = "b2", 1
	open(again)
	shared := someAttach(3)
	shared.Boot, shared.Shared = "b3", true
	open(shared)
	r, _ := rep.open()
	want := []string{"open 1 1099511627783", "close 1 1099511627783", "open 1 2199023255553", "close 1 2199023255553", "open 4 7", "close 4 7"}
	if got := r.(*fakeReplica).sessions; !slices.Equal(got, want) {
		t.Errorf("sessions %q, want %q", got, want)
	}
}

// Who was bound between the count and the record's change is closed, and the session waits for its end.
func TestAttach_ClientThatSlippedInIsClosedAndWaitedFor(t *testing.T) {
	_, e, door := attachable(t)
	at, err := e.Attach(t.Context(), someAttach(1))
	if err != nil || door.plain != 1 {
		t.Fatalf("%v; lookups were made void %d times", err, door.plain)
	}
	door.conns = []nbd.Attached{nil} // closed, and its last request has not ended
	if _, err := at.Open(t.Context()); kindOf(t, err) != nbd.NotServedShutdown || !strings.Contains(err.Error(), "being closed") {
		t.Errorf("open beside it: %v", err)
	}
	door.conns = nil
	if _, err := at.Open(t.Context()); err != nil {
		t.Errorf("open: %v", err)
	}
	if _, err := e.Lookup(t.Context(), "r0"); kindOf(t, err) != nbd.NotServedPolicy || !strings.Contains(err.Error(), "/dev/nbd0 on h1") {
		t.Errorf("lookup: %v", err)
	}
}

func TestEnforce_ClosesWhoHasNoPlaceAndNobodyElse(t *testing.T) {
	c, e, door := attachable(t)
	claims := func(numbers ...uint64) (out []nbd.Attached) {
		for _, n := range numbers {
			out = append(out, &claim{e: e, name: "r0", id: c.record("r0").ID, number: n, shared: true, session: 9})
		}
		return out
	}
	rec := func(version uint64, last uint64, shared bool, numbers ...uint64) *quorum.Resource {
		r := *c.record("r0")
		r.Version, r.LastAttachment = version, last
		for _, n := range numbers {
			r.Attachments = append(r.Attachments, quorum.Attachment{Number: n, Shared: shared})
		}
		return &r
	}
	left := func(what string, want ...uint64) {
		t.Helper()
		var got []uint64
		for _, a := range door.conns {
			n := uint64(0) // said nothing
			if a != nil {
				n = a.Number()
			}
			got = append(got, n)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: left are %v, want %v", what, got, want)
		}
	}
	door.conns = append(claims(1, 2, 3), nil)
	e.enforce(rec(100, 3, true, 1, 2, 3))
	left("all are there", 1, 2, 3, 0)
	e.enforce(rec(101, 3, true, 1, 3))
	left("2 has ended", 1, 3, 0)
	e.enforce(rec(100, 3, true))
	left("an older record", 1, 3, 0)
	door.conns = append(door.conns, claims(4)...)
	e.enforce(rec(102, 3, true, 3))
	left("1 has ended; 4 is not heard of yet", 3, 0, 4)
	e.enforce(rec(103, 4, false, 4))
	left("4 is exclusive", 4)
	r, _ := e.m.find("r0").open()
	if got, want := r.(*fakeReplica).sessions, []string{"close 3 9", "close 2 9", "close 4 9"}; !slices.Equal(got, want) {
		t.Errorf("the core heard %q, want %q", got, want)
	}
	e.applied(&quorum.State{})
	if len(e.watched.seen) != 0 {
		t.Errorf("a resource that is gone is remembered: %+v", e.watched.seen)
	}
}
