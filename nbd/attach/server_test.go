package attach

import (
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/nbd"
)

func TestParseServer(t *testing.T) {
	for in, want := range map[string]Server{
		"10.0.0.1:10809":                     {"tcp", "10.0.0.1:10809"},
		"db1":                                {"tcp", "db1:10809"},
		"[fe80::1]:7":                        {"tcp", "[fe80::1]:7"},
		"unix:/run/nbd.sock":                 {"unix", "/run/nbd.sock"},
		"/run/../run/nbd.sock":               {"unix", "/run/nbd.sock"},
		"nbd://db1:7/r0":                     {"tcp", "db1:7"},
		"nbds://db1/r0":                      {"tcp", "db1:10809"},
		"nbd+unix:///r0?socket=%2Frun%2Fn.s": {"unix", "/run/n.s"},
	} {
		if got, err := ParseServer(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":7", "unix:run/nbd.sock", "http://db1/", "nbd+unix:///r0", "a b:7", "nbd:///r0"} {
		if got, err := ParseServer(in); err == nil {
			t.Errorf("%q is taken for %+v", in, got)
		}
	}
}

func TestHintIn_ARefusalAsNodesWordIt(t *testing.T) {
	for text, want := range map[string]Server{
		"n1 is secondary of r0; its primary is n2: connect to nbd://10.0.0.2:10809/r0":               {"tcp", "10.0.0.2:10809"},
		"n1 is secondary of r0; its primary is n2: connect to nbd+unix:///r0?socket=%2Frun%2Fn.sock": {"unix", "/run/n.sock"},
		"see nbds://db2/r0.": {"tcp", "db2:10809"},
	} {
		if got, ok := hintIn(text); !ok || got != want {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
	if got, ok := hintIn("nobody is primary of r0; next: lockstep promote r0"); ok {
		t.Errorf("a hint where there is none: %+v", got)
	}
}

func TestBlockSize(t *testing.T) {
	for _, tc := range []struct {
		name               string
		asked, min, prefer uint32
		size               int64
		want               uint32
		wantsError         bool
	}{
		{"what the export prefers", 0, 1, 4096, 1 << 20, 4096, false},
		{"no more than a page", 0, 1, 65536, 1 << 20, 4096, false},
		{"a size that 4096 does not divide", 0, 1, 4096, 1<<20 + 512, 512, false},
		{"as asked", 512, 1, 4096, 1 << 20, 512, false},
		{"below the export's least", 512, 4096, 4096, 1 << 20, 0, true},
		{"a size that nothing divides", 0, 1, 4096, 1000, 0, true},
		{"nothing", 0, 1, 4096, 0, 0, true},
	} {
		x := Info{Size: tc.size, Block: nbd.BlockSize{Min: tc.min, Preferred: tc.prefer}}
		got, err := blockSize(tc.asked, x)
		if (err != nil) != tc.wantsError || got != tc.want {
			t.Errorf("%s: %d, %v", tc.name, got, err)
		}
	}
}

func TestTable_KeepsTheOrder_AndKnowsItsCookies(t *testing.T) {
	tb := newTable()
	reqs := make([]*nbd.Request, 6)
	var at []int32
	for i := range reqs {
		reqs[i] = &nbd.Request{Off: int64(i)}
		at = append(at, tb.add(reqs[i]))
		tb.slots[at[i]].sent = true
	}
	old := tb.cookie(at[2])
	tb.take(at[2])
	tb.take(at[0])
	again := tb.add(reqs[2])
	if got := tb.find(old); got != none {
		t.Errorf("the cookie of an answered request is found in slot %d", got)
	}
	if got := tb.find(tb.cookie(again)); got != none {
		t.Error("a request that was not sent is found")
	}
	tb.slots[again].sent = true
	if got := tb.find(tb.cookie(again)); got != again {
		t.Errorf("found in slot %d, want %d", got, again)
	}
	if got := tb.find(1 << 20); got != none {
		t.Error("a slot that never was is found")
	}
	var order []int64
	for _, r := range tb.takeIf(func(s *slot) bool { return s.req.Off != 3 }) {
		order = append(order, r.Off)
	}
	if !slices.Equal(order, []int64{1, 4, 5, 2}) || tb.n != 1 || tb.slots[tb.head].req.Off != 3 {
		t.Errorf("taken in order %v, %d left", order, tb.n)
	}
}
