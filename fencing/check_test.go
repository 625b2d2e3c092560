package fencing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestUnfence_TellsTheDevicesThatNeedItOnce(t *testing.T) {
	for _, self := range []string{"n1", "n2"} {
		plain, fabric, own := &fake{name: "plain"}, &fake{name: "fabric", on: true}, &fake{name: "own", on: true, self: true}
		f := fencerOf(t, [][]string{{"plain", "fabric"}, {"own", "fabric"}}, plain, fabric, own)
		f.cfg.Node = self
		attempts, err := f.Unfence(t.Context(), n2)
		want, wantOwn := "fabric/1/1", 0
		if self == "n2" {
			want, wantOwn = "fabric/1/1 own/2/1", 1
		}
		if err != nil || tried(attempts) != want || plain.ons != 0 || fabric.ons != 1 || own.ons != wantOwn {
			t.Errorf("on %s: %s, %v", self, tried(attempts), err)
		}
	}
}

func TestUnfence_NeverRunsBesideAFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &fake{name: "d", off: takes(5 * time.Second), on: true}
		f := fencerOf(t, [][]string{{"d"}}, dev)
		var wg sync.WaitGroup
		wg.Go(func() {
			if r := f.Fence(t.Context(), shootN2); r.Proof == nil {
				t.Error(r.Err)
			}
		})
		synctest.Wait()
		if _, err := f.Unfence(t.Context(), n2); !errors.Is(err, ErrBusy) || dev.ons != 0 {
			t.Errorf("%v, on ran %d times", err, dev.ons)
		}
		wg.Wait()
		if _, err := f.Unfence(t.Context(), n2); err != nil || dev.ons != 1 {
			t.Errorf("%v, on ran %d times", err, dev.ons)
		}
	})
}

func TestTest_JudgesLevelsByTheirDevices(t *testing.T) {
	const good, bad = "monitor) exit 0;; status) exit 0;; list) echo n2; exit 0;;", "monitor) exit 1;;"
	for _, tc := range []struct {
		name, cases string
		exit        int
		levels      [][]string
		node        string
		works       bool
		text        string
	}{
		{"all is well", good, 0, [][]string{{"agent", "hook"}}, "n2", true, "status says that n2 is on"},
		{"one of a level", good, 1, [][]string{{"agent", "hook"}}, "n2", false, "no level works"},
		{"the second level", bad, 0, [][]string{{"agent"}, {"hook"}}, "n2", true, "level 1 cannot prove"},
		{"too little time for each", good, 0, [][]string{{"agent"}, {"hook"}}, "n2", true, "its level has 25s"},
		{"a watchdog that is not declared", good, 0, [][]string{{"dog"}}, "n2", false, "no armed watchdog is declared by n2"},
		{"no devices", good, 0, nil, "n2", false, "no fence device is configured for the node n2"},
		{"itself", good, 0, [][]string{{"agent"}}, "n1", false, "this is n1 itself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := fencerFor(t, tc.cases, tc.exit, tc.levels)
			r := f.Test(t.Context(), Target{Node: tc.node})
			if r.Works != tc.works || !slices.ContainsFunc(r.Findings, func(x Finding) bool { return strings.Contains(x.Text, tc.text) }) {
				t.Errorf("works %v: %v; want %q", r.Works, r.Findings, tc.text)
			}
			if len(f.History()) != 0 {
				t.Error("it fired")
			}
		})
	}
	f := fencerFor(t, good, 0, [][]string{{"dog"}})
	target := n2
	target.Armed = &Armed{Boot: "boot-2", Timeout: time.Minute, Lease: time.Second}
	if r := f.Test(t.Context(), target); r.Works != false || !strings.Contains(fmt.Sprint(r.Findings), "longer than a fence may take") {
		t.Errorf("a watchdog that takes longer than the limit: %+v", r)
	}
	target.Armed = armed
	if r := f.Test(t.Context(), target); !r.Works || !strings.Contains(fmt.Sprint(r.Findings), "23.33s after") {
		t.Errorf("%+v", r)
	}
}
