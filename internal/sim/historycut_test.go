package sim

import (
	"strings"
	"testing"
)

func TestHistory_ConsistentCut(t *testing.T) {
	y := span(90, 2)
	for _, c := range []struct {
		name string
		run  func(s *script)
		hold map[int64]uint64
		want []string // of the violation; none: legal
	}{
		{"nothing of two writes", func(s *script) { s.write(x, 1); s.write(y, 2) }, nil, nil},
		{"the first of two writes", func(s *script) { s.write(x, 1); s.write(y, 2) }, map[int64]uint64{17: 1}, nil},
		{"the second of two writes without the first", func(s *script) { s.write(x, 1); s.write(y, 2) },
			map[int64]uint64{90: 2, 91: 2},
			[]string{"n2 holds a state that the device never had", "sector 17 = 0 was over at 2ms (end of op 0), before sector 90 = 2 began at 3ms (begin of op 1)"}},
		{"half of a write that was acknowledged before another began", func(s *script) { s.write(y, 1); s.write(x, 2) },
			map[int64]uint64{90: 1, 17: 2}, []string{"sector 91 = 0"}},
		{"half of a write under way", func(s *script) { s.begin(OpWrite, y, 1); s.write(x, 2) },
			map[int64]uint64{91: 1, 17: 2}, nil},
		{"an old value under a newer one elsewhere", func(s *script) { s.write(x, 1); s.write(x, 2); s.write(y, 3) },
			map[int64]uint64{17: 1, 90: 3, 91: 3}, []string{"sector 17 = 1", "end of op 1"}},
		{"a write of unknown outcome that others have seen", func(s *script) {
			s.failed(s.begin(OpWrite, x, 1), MayHave)
			s.read(x, 1)
			s.write(y, 2)
		}, map[int64]uint64{90: 2, 91: 2}, []string{"sector 17 = 0"}},
		{"half of a write that failed and was undone elsewhere", func(s *script) {
			s.write(y, 1)
			failed := s.begin(OpWrite, y, 2)
			s.write(x, 3)
			s.failed(failed, MayHave)
			s.read(y, 1, 1)
			s.write(x, 4)
		}, map[int64]uint64{90: 1, 91: 2, 17: 3}, nil},
		{"a write that was undone when it failed, and a later one", func(s *script) {
			s.write(y, 1)
			s.failed(s.begin(OpWrite, y, 2), MayHave)
			s.read(y, 1, 1)
			s.write(x, 3)
		}, map[int64]uint64{90: 2, 91: 2, 17: 3}, []string{"sector 90 = 2 was over at 4ms (end of op 1), before sector 17 = 3 began"}},
		{"a write that failed and was seen, under a newer one elsewhere", func(s *script) {
			s.failed(s.begin(OpWrite, x, 2), MayHave)
			s.read(x, 2)
			s.write(x, 3)
			s.write(y, 4)
		}, map[int64]uint64{17: 2, 90: 4, 91: 4}, []string{"sector 17 = 2 was over", "end of op 2"}},
		{"zeros may be of either of two writes", func(s *script) {
			s.zero(x)
			s.write(x, 1)
			s.zero(x)
			s.write(y, 2)
		}, map[int64]uint64{90: 2, 91: 2}, nil},
		{"zeros of neither of two writes", func(s *script) {
			s.zero(x)
			s.write(x, 1)
			s.write(y, 2)
			s.write(y, 3)
			s.zero(x)
		}, map[int64]uint64{90: 2, 91: 2}, []string{"never had"}},
		{"value that was never written", func(s *script) { s.write(x, 1) }, map[int64]uint64{17: 9},
			[]string{"holds 9 in sector 17", "nobody ever wrote it"}},
		{"value where nothing was written", func(s *script) { s.write(x, 1) }, map[int64]uint64{17: 1, 4000: 1},
			[]string{"holds 1 in sector 4000", "op 0 wrote it elsewhere"}},
		{"state of before a loss point", func(s *script) {
			s.write(x, 1)
			s.loss()
			s.write(x, 2)
			s.write(y, 3)
		}, map[int64]uint64{17: 1}, nil},
		{"state of before and after a loss point", func(s *script) {
			s.write(x, 1)
			s.flush()
			s.write(x, 4)
			s.loss()
			s.read(x, 1)
			s.write(y, 3)
		}, map[int64]uint64{17: 4, 90: 3, 91: 3}, []string{"sector 17 = 4", "sector 90 = 3"}},
		{"state of before a forced promotion", func(s *script) {
			s.write(x, 1)
			s.write(y, 2)
			s.h.Forced(s.tick(), func(int64) uint64 { return 0 })
			s.write(x, 3)
		}, map[int64]uint64{17: 1, 90: 2, 91: 2}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			c.run(s)
			s.check()
			err := s.h.ConsistentCut("n2", func(i int64) uint64 { return c.hold[i] })
			if (err != nil) != (c.want != nil) {
				t.Fatalf("verdict: %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
}

func TestHistory_ConsistentCut_AcceptsEveryMomentOfARightDevice(t *testing.T) {
	for seed := range uint64(200) {
		d := newOracleDevice(seed, 24)
		if err := d.run(150, 4, false); err != nil {
			t.Fatal(err)
		}
		var stale []uint64
		for _, s := range d.sectors {
			stale = append(stale, s.vals[len(s.vals)-1])
		}
		if err := d.run(100, 4, seed%2 == 0); err != nil {
			t.Fatal(err)
		}
		err := d.h.ConsistentCut("n2", func(i int64) uint64 {
			if i < int64(len(stale)) {
				return stale[i]
			}
			return 0
		})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
