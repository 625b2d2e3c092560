package sim

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// script drives a History with a clock that advances by a millisecond a call.
type script struct {
	t   *testing.T
	h   *History
	now time.Duration
	err error // the first violation
}

func newScript(t *testing.T) *script { return &script{t: t, h: NewHistory(testDiskSize)} }

func (s *script) tick() time.Duration { s.now += time.Millisecond; return s.now }

func (s *script) note(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *script) begin(kind OpKind, e bitmap.Extent, v uint64) OpID {
	return s.h.Begin(kind, e, v, false, s.tick())
}

func (s *script) done(op OpID, vals ...uint64) {
	s.note(s.h.Done(op, "n2", vals, s.tick()))
}

func (s *script) failed(op OpID, o Outcome) { s.note(s.h.Failed(op, o, s.tick())) }

func (s *script) write(e bitmap.Extent, v uint64) OpID {
	op := s.begin(OpWrite, e, v)
	s.done(op)
	return op
}

func (s *script) fua(e bitmap.Extent, v uint64) {
	op := s.h.Begin(OpWrite, e, v, true, s.tick())
	s.done(op)
}

func (s *script) zero(e bitmap.Extent) { s.done(s.begin(OpZero, e, 0)) }

func (s *script) read(e bitmap.Extent, vals ...uint64) { s.done(s.begin(OpRead, e, 0), vals...) }

func (s *script) flush() { s.done(s.begin(OpFlush, bitmap.Extent{}, 0)) }

func (s *script) loss() { s.h.LossPoint(s.tick()) }

// check wants a violation with all of want in its text, or none.
func (s *script) check(want ...string) {
	s.t.Helper()
	err := s.err
	if err == nil {
		err = s.h.Check()
	}
	if len(want) == 0 {
		if err != nil {
			s.t.Fatalf("a legal history is refused: %v", err)
		}
		return
	}
	var v *Violation
	if !errors.As(err, &v) {
		s.t.Fatalf("no violation, but %v", err)
	}
	for _, w := range want {
		if !strings.Contains(v.Text, w) {
			s.t.Errorf("%q is not in: %s", w, v.Text)
		}
	}
	s.t.Log(v.Text)
}

var (
	x  = span(17, 1)
	xy = span(16, 8)
)

func TestHistory_FindsEveryKindOfWrongRead(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(s *script)
		want []string
	}{
		{"stale read", func(s *script) {
			s.write(x, 12)
			s.write(x, 19)
			s.read(x, 12)
		}, []string{"n2 answered a read of sector 17 with 12 (op 2, 5ms to 6ms), written by op 0 at 1ms, but op 1 = 19 was acknowledged at 4ms before this began at 5ms; 12 was acknowledged at 2ms before op 1 began at 3ms"}},
		{"lost acknowledged write", func(s *script) {
			s.write(x, 12)
			s.read(x, 0)
		}, []string{"with 0", "held at the start", "op 0 = 12 was acknowledged at 2ms"}},
		{"lost write that was only read", func(s *script) {
			s.begin(OpWrite, x, 12)
			s.read(x, 12)
			s.read(x, 0)
		}, []string{"op 0 = 12 was read by op 1 until 3ms"}},
		{"two reads back and forth between concurrent writes", func(s *script) {
			a, b := s.begin(OpWrite, x, 12), s.begin(OpWrite, x, 19)
			s.read(x, 12)
			s.read(x, 19)
			s.read(x, 12)
			s.done(a)
			s.done(b)
		}, []string{"with 12 (op 4", "op 1 = 19 was read by op 3", "12 was read by op 2 until 4ms before op 3, which read 19, began at 5ms"}},
		{"resurrected value", func(s *script) {
			s.write(x, 12)
			s.zero(x)
			s.read(x, 12)
		}, []string{"op 1 = 0 was acknowledged at 4ms"}},
		{"zeros come back", func(s *script) {
			s.zero(x)
			s.write(x, 12)
			s.read(x, 0)
		}, []string{"with 0", "op 1 = 12 was acknowledged at 4ms"}},
		{"zeros that nobody wrote", func(s *script) {
			s.h.Forced(s.tick(), func(int64) uint64 { return 0 })
			s.write(x, 12)
			s.h.Forced(s.tick(), func(int64) uint64 { return 12 })
			s.read(x, 0)
		}, []string{"with 0", "before the forced promotion at 4ms; since then the sector may hold 12"}},
		{"value that was never written", func(s *script) {
			s.write(x, 12)
			s.read(x, 13)
		}, []string{"nobody ever wrote it; the sector may hold 0, 12"}},
		{"value where nothing was ever written", func(s *script) {
			s.read(x, 13)
		}, []string{"nobody ever wrote it"}},
		{"value written elsewhere", func(s *script) {
			s.write(x, 12)
			s.read(span(900, 1), 12)
		}, []string{"sector 900", "op 0 wrote it elsewhere, to [8704+512]"}},
		{"torn block after the acknowledgement", func(s *script) {
			s.write(xy, 12)
			s.read(xy, 12, 12, 12, 12, 0, 0, 0, 0)
		}, []string{"sector 20 with 0", "op 0 = 12 was acknowledged"}},
		{"write that certainly was not done", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.failed(op, NotDone)
			s.read(x, 12)
		}, []string{"op 0 wrote it at 1ms and was answered at 2ms as certainly not done"}},
		{"read of a write before it was certainly not done", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.read(x, 12)
			s.failed(op, NotDone)
		}, []string{"op 0 = 12 was answered at 4ms as certainly not done", "was read by op 1 until 3ms"}},
		{"write given up lands late", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.failed(op, MayHave)
			s.write(x, 19)
			s.read(x, 12)
		}, []string{"op 1 = 19 was acknowledged", "12 was given up at 2ms before op 1 began"}},
		{"write given up is seen by an early read, after another showed that it never landed", func(s *script) {
			r := s.begin(OpRead, x, 0)
			s.write(x, 12)
			s.failed(s.begin(OpWrite, x, 19), MayHave)
			s.read(x, 12)
			s.done(r, 19)
		}, []string{"with 19", "op 1 = 12 was acknowledged at 3ms before op 2 began at 4ms; 19 was given up at 5ms before op 3, which read 12, began at 6ms"}},
		{"full check of what followed a loss point", func(s *script) {
			s.write(x, 12)
			s.loss()
			s.begin(OpZero, x, 0)
			for v := range uint64(3) {
				s.failed(s.begin(OpZero, x, 0), MayHave)
				s.write(x, 20+v)
				s.begin(OpZero, x, 0)
				s.read(x, 0)
			}
			for v := range uint64(2) {
				s.write(x, 30+v)
				s.read(x, 0)
			}
		}, []string{"after the loss point at 3ms", "may have held 12", "still open", "unknown, over"}},
		{"two values after one acknowledged write", func(s *script) {
			a, b := s.begin(OpWrite, x, 12), s.begin(OpWrite, x, 19)
			s.done(a)
			s.done(b)
			s.read(x, 12)
			s.read(x, 19)
		}, []string{"with 19", "op 0 = 12 was acknowledged", "19 was acknowledged at 4ms before op 2, which read 12"}},
		{"flushed write lost at a loss point", func(s *script) {
			s.write(x, 12)
			s.write(x, 19)
			s.flush()
			s.loss()
			s.read(x, 12)
		}, []string{"with 12", "written by op 0", "followed by a write promised stable, before the loss point at 7ms", "may hold 19"}},
		{"write with fua lost at a loss point", func(s *script) {
			s.fua(x, 12)
			s.loss()
			s.read(x, 0)
		}, []string{"may hold 12"}},
		{"changed mind after a loss point", func(s *script) {
			s.write(x, 12)
			s.loss()
			s.read(x, 0)
			s.read(x, 12)
		}, []string{"with 12", "that was lost"}},
		{"changed mind over a second loss point", func(s *script) {
			s.write(x, 12)
			s.loss()
			s.read(x, 12)
			s.loss()
			s.read(x, 0)
		}, []string{"with 0", "may hold 12"}},
		{"old content after a write that followed the loss", func(s *script) {
			s.write(x, 12)
			s.loss()
			s.write(x, 19)
			s.read(x, 12)
		}, []string{"which it could hold after the loss point at 3ms", "op 1 = 19 was acknowledged"}},
		{"one open write of zeros is seen twice", func(s *script) {
			s.begin(OpZero, x, 0)
			s.write(x, 12)
			s.read(x, 0)
			s.write(x, 19)
			s.read(x, 0)
		}, []string{"with 0 (op 4", "op 3 = 19 was acknowledged"}},
		{"two open writes of zeros are seen three times, which Check alone tells", func(s *script) {
			s.begin(OpZero, x, 0)
			s.begin(OpZero, x, 0)
			for v := range uint64(3) {
				s.write(x, 12+v)
				s.read(x, 0)
			}
			if s.err != nil {
				s.t.Errorf("found at once: %v", s.err)
			}
		}, []string{"sectors 17 to 17 are not linearizable", "op 0: zero", "op 7: read [8704+512], 13ms to 14ms, done: 0"}},
		{"the same, while they are under way, after a crowd that is too large to search", func(s *script) {
			var crowd []OpID
			for range mostAtOnce + 1 {
				crowd = append(crowd, s.begin(OpRead, x, 0))
			}
			for _, op := range crowd {
				s.done(op, 0)
			}
			s.write(x, 11)
			a, b := s.begin(OpZero, x, 0), s.begin(OpZero, x, 0)
			for v := range uint64(3) {
				s.write(x, 12+v)
				s.read(x, 0)
			}
			s.done(a)
			s.done(b)
			if s.err != nil {
				s.t.Errorf("found at once: %v", s.err)
			}
		}, []string{"sectors 17 to 17 are not linearizable"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			c.run(s)
			s.check(c.want...)
		})
	}
}

func TestHistory_AcceptsWhatIsLegal(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(s *script)
	}{
		{"torn read of a write under way", func(s *script) {
			op := s.begin(OpWrite, xy, 12)
			s.read(xy, 12, 0, 12, 12, 0, 0, 0, 12)
			s.done(op)
			s.read(xy, repeat(12, 8)...)
		}},
		{"write of unknown outcome lands when it may", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.failed(op, MayLand)
			s.write(x, 19)
			s.read(x, 19)
			s.read(x, 12)
		}},
		{"write given up had landed", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.failed(op, MayHave)
			s.read(x, 12)
		}},
		{"request sent again as a second operation takes effect twice", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.read(x, 12)
			s.failed(op, MayHave)
			s.write(x, 19)
			s.read(x, 19)
			s.write(x, 12)
			s.read(x, 12)
		}},
		{"unflushed writes come back in any order", func(s *script) {
			s.write(x, 12)
			s.write(x, 19)
			s.read(x, 19)
			s.loss()
			s.read(x, 12)
		}},
		{"a flush does not cover what was acknowledged after it began", func(s *script) {
			f := s.begin(OpFlush, bitmap.Extent{}, 0)
			s.write(x, 12)
			s.done(f)
			s.loss()
			s.read(x, 0)
		}},
		{"a flush begun before a loss promises nothing", func(s *script) {
			s.write(x, 12)
			f := s.begin(OpFlush, bitmap.Extent{}, 0)
			s.loss()
			s.done(f)
			s.loss()
			s.read(x, 0)
		}},
		{"open write across a loss is there again", func(s *script) {
			op := s.begin(OpWrite, x, 12)
			s.read(x, 12)
			s.loss()
			s.read(x, 0)
			s.read(x, 12)
			s.done(op)
		}},
		{"read across a loss sees either side", func(s *script) {
			s.write(x, 12)
			r1, r2 := s.begin(OpRead, x, 0), s.begin(OpRead, x, 0)
			s.loss()
			s.read(x, 0)
			s.done(r1, 12)
			s.done(r2, 0)
		}},
		{"forced content, in part what was written", func(s *script) {
			s.write(xy, 12)
			s.write(xy, 19)
			s.h.Forced(s.tick(), func(sector int64) uint64 {
				if sector < 20 {
					return 12
				}
				return 0
			})
			s.read(xy, 12, 12, 12, 12, 0, 0, 0, 0)
			s.zero(xy)
			s.read(xy, repeat(0, 8)...)
		}},
		{"grown space is zero", func(s *script) {
			s.h.Grow(testDiskSize + 4<<20)
			s.read(span(testDiskSize/SectorSize, 2), 0, 0)
			s.write(span(testDiskSize/SectorSize, 2), 5)
			s.read(span(testDiskSize/SectorSize-1, 2), 0, 5)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			c.run(s)
			s.check()
		})
	}
}

func TestHistory_FinalContent_IsJudgedAsARead(t *testing.T) {
	for _, c := range []struct {
		name  string
		hold  map[int64]uint64
		wants []string
	}{
		{"right", map[int64]uint64{16: 12, 17: 19, 18: 12}, nil},
		{"unknown write is there", map[int64]uint64{16: 12, 17: 19, 18: 12, 50: 7}, nil},
		{"acknowledged write is not", map[int64]uint64{16: 12, 17: 12, 18: 12}, []string{"n1 holds 12 in sector 17 at the end", "op 1 = 19 was acknowledged"}},
		{"write out of place", map[int64]uint64{16: 12, 17: 19, 18: 12, 4000: 12}, []string{"n1 holds 12 in sector 4000", "elsewhere"}},
	} {
		s := newScript(t)
		s.write(span(16, 3), 12)
		s.write(x, 19)
		s.failed(s.begin(OpWrite, span(50, 1), 7), MayHave)
		s.note(s.h.FinalContent("n1", s.tick(), func(i int64) uint64 { return c.hold[i] }))
		s.check(c.wants...)
	}
}

func TestHistory_Describe_SaysWhatBecameOfIt(t *testing.T) {
	s := newScript(t)
	s.fua(x, 12)
	s.failed(s.begin(OpZero, xy, 0), MayLand)
	s.begin(OpFlush, bitmap.Extent{}, 0)
	for i, want := range []string{
		"op 0: write 12 fua [8704+512], 1ms to 2ms, done",
		"op 1: zero [8192+4096], 3ms to 4ms, unknown, may yet land",
		"op 2: flush, 5ms to the end, still open",
	} {
		if got := s.h.Describe(OpID(i)); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
