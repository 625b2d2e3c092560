package sim

import (
	"slices"
	"testing"
)

func upTo(n int) []int {
	items := make([]int, n)
	for i := range items {
		items[i] = i
	}
	return items
}

func TestShrink_FindsTheFewThatMatter(t *testing.T) {
	for _, c := range []struct {
		name  string
		items int
		need  []int
	}{
		{"one of one", 1, []int{0}},
		{"nothing is needed", 40, nil},
		{"the first", 40, []int{0}},
		{"the last", 41, []int{40}},
		{"two far apart", 100, []int{3, 90}},
		{"several", 64, []int{0, 1, 31, 32, 63}},
		{"all", 7, []int{0, 1, 2, 3, 4, 5, 6}},
		{"none at all", 0, nil},
	} {
		calls := 0
		fails := func(part []int) bool {
			calls++
			if !slices.IsSorted(part) {
				t.Fatalf("%s: order is lost: %v", c.name, part)
			}
			for _, n := range c.need {
				if !slices.Contains(part, n) {
					return false
				}
			}
			return true
		}
		items := upTo(c.items)
		if got := Shrink(items, fails, 400); !slices.Equal(got, c.need) {
			t.Errorf("%s: %v, not %v, after %d calls", c.name, got, c.need, calls)
		}
		if !slices.Equal(items, upTo(c.items)) {
			t.Errorf("%s: the plan was changed", c.name)
		}
	}
}

func TestShrink_ResultIsMinimal_WhenFailuresHaveSeveralCauses(t *testing.T) {
	fails := func(part []int) bool { // 5 with 50, or any ten
		return len(part) >= 10 || slices.Contains(part, 5) && slices.Contains(part, 50)
	}
	got := Shrink(upTo(80), fails, 1000)
	if !fails(got) {
		t.Fatalf("%v does not fail", got)
	}
	for i := range got {
		if fails(slices.Delete(slices.Clone(got), i, i+1)) {
			t.Errorf("%v fails without %d, too", got, got[i])
		}
	}
}

func TestShrink_StaysInItsBudget(t *testing.T) {
	for budget := range 30 {
		calls := 0
		fails := func(part []int) bool {
			calls++
			return slices.Contains(part, 17) && slices.Contains(part, 60)
		}
		got := Shrink(upTo(64), fails, budget)
		if calls > budget {
			t.Fatalf("%d calls with a budget of %d", calls, budget)
		}
		if !fails(got) {
			t.Fatalf("budget %d: %v does not fail", budget, got)
		}
		if budget == 29 && len(got) > 8 {
			t.Errorf("29 calls left %d items", len(got))
		}
	}
}
