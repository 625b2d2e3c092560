//go:build plantedbugs

package bitmap

import (
	"math"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Two trims wait for room that a third request holds. When it ends, each of them holds a part of the
// log and needs a part of what the other one holds: neither is ever admitted. Asked all at once, as
// in a healthy log, one goes and then the other.
func TestPlanted_SplitTrim(t *testing.T) {
	after := func(b planted.Bug) (a, c Admission) {
		planted.Plant(b)
		defer planted.Plant(planted.None)
		l := NewLog(10)
		l.SetWatermark(math.MaxUint64)
		first, left, right := at(50, 2), at(0, 8), at(100, 8)
		l.Begin(first)
		commit(t, l)
		l.Begin(at(200, 3))
		commit(t, l)
		l.Begin(left) // five regions are free
		l.End(at(200, 3), 1)
		l.Begin(right) // three are
		commit(t, l)
		l.End(first, 2)
		for range 10 {
			if a, _ = l.Begin(left); a != Full {
				return a, Full
			}
			if c, _ = l.Begin(right); c != Full {
				return a, c
			}
		}
		return a, c
	}
	if a, c := after(planted.None); a == Full && c == Full {
		t.Fatal("the healthy log admits none of the two")
	}
	if a, c := after(planted.SplitTrim); a != Full || c != Full {
		t.Errorf("not found: the trims are %v and %v", a, c)
	}
}
