package sim

import (
	"cmp"
	"slices"
	"testing"
	"time"
)

// Many events share a moment, so their numbers decide.
func TestEventHeap_GivesTheNextEventFirst(t *testing.T) {
	rng := testRand(1)
	var h eventHeap
	var want []event
	order := func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) }
	for seq := range uint64(1000) {
		e := event{at: time.Duration(rng.IntN(40)), seq: seq}
		h.push(e)
		want = append(want, e)
		if rng.IntN(100) > 45 {
			continue
		}
		slices.SortFunc(want, order)
		if got := h.pop(); order(got, want[0]) != 0 {
			t.Fatalf("event %d of %v, want %d of %v", got.seq, got.at, want[0].seq, want[0].at)
		}
		want = want[1:]
	}
	slices.SortFunc(want, order)
	for _, e := range want {
		if got := h.pop(); order(got, e) != 0 {
			t.Fatalf("event %d of %v, want %d of %v", got.seq, got.at, e.seq, e.at)
		}
	}
	if len(h) != 0 {
		t.Errorf("%d events are left", len(h))
	}
}
