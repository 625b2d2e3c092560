package bitmap

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestBegin_DoesNotTakeRoomFromItsOwnRegions(t *testing.T) {
	l := NewLog(MinRegions)
	l.SetWatermark(math.MaxUint64)
	l.Begin(at(0, MinRegions))
	commit(t, l)
	l.End(at(0, MinRegions), 1)
	l.Begin(at(0, MinRegions-1))
	if adm, _ := l.Begin(at(MinRegions-1, 2)); adm != Full {
		t.Fatalf("the only idle region is one of the request's own, yet %v", adm)
	}
	if adm, _ := l.Begin(at(MinRegions-1, 1)); adm != Hot {
		t.Errorf("the refused request changed its region: %v", adm)
	}
}

func TestRegionHeap_StaysOrderedWhenMembersLeaveItsMiddle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h regionHeap
		var in []*region
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				r := &region{seq: rapid.Uint64Range(0, 50).Draw(t, "seq"), index: RegionIndex(len(in))}
				h.push(r)
				in = append(in, r)
			},
			"remove": func(t *rapid.T) {
				if len(in) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				h.remove(in[i])
				in = append(in[:i], in[i+1:]...)
			},
			"": func(t *rapid.T) {
				for i, r := range h {
					if int(r.pos) != i || i > 0 && h.less(i, (i-1)/2) {
						t.Fatalf("member %d: pos %d, seq %d", i, r.pos, r.seq)
					}
				}
				if len(h) != len(in) {
					t.Fatalf("%d members, want %d", len(h), len(in))
				}
			},
		})
	})
}
