package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// oracleDevice is a right device: each operation takes effect, sector by sector, between its begin and
// its end, and a loss takes nothing that was promised. Its clients are as unlucky as clients can be.
type oracleDevice struct {
	h       *History
	rng     *rand.Rand
	now     time.Duration
	sectors []oracleSector
	open    []*oracleOp // held by clients
	ghosts  []*oracleOp // given up, and able to land
	acked   []*oracleOp // writes that a flush would promise
	value   uint64
	bug     func(d *oracleDevice, op *oracleOp, vals []uint64) // spoils the answer of a read
	spoils  bool                                               // a loss takes what was promised, once
	spoiled bool
}

// oracleSector is what one sector held since it was last certain: vals[0] is promised.
type oracleSector struct {
	vals []uint64
	ops  []*oracleOp
	safe int // index of the newest value promised stable
}

type oracleOp struct {
	id     OpID
	kind   OpKind
	first  int
	vals   []uint64
	todo   []int // sectors in which it has not taken effect yet
	barred []bool
	fua    bool
	acks   []*oracleOp // of a flush: the writes acknowledged when it began
}

func newOracleDevice(seed uint64, sectors int) *oracleDevice {
	d := &oracleDevice{h: NewHistory(testDiskSize), rng: testRand(seed), sectors: make([]oracleSector, sectors)}
	for i := range d.sectors {
		d.sectors[i] = oracleSector{vals: []uint64{0}, ops: []*oracleOp{nil}}
	}
	return d
}

func (d *oracleDevice) tick() time.Duration { d.now += time.Microsecond; return d.now }

func (d *oracleDevice) start() {
	n := len(d.sectors)
	op := &oracleOp{kind: OpKind(d.rng.IntN(4)), first: d.rng.IntN(n)}
	if op.kind == OpFlush && d.rng.IntN(3) > 0 {
		op.kind = OpRead
	}
	length := 1 + d.rng.IntN(min(n-op.first, 8))
	op.vals, op.barred = make([]uint64, length), make([]bool, length)
	op.todo = d.rng.Perm(length)
	v := uint64(0)
	switch op.kind {
	case OpWrite:
		d.value++
		v = d.value
		fallthrough
	case OpZero:
		op.fua = d.rng.IntN(5) == 0
		for i := range op.vals {
			op.vals[i] = v
		}
	case OpFlush:
		op.todo, op.acks = nil, slices.Clone(d.acked)
	}
	op.id = d.h.Begin(op.kind, span(int64(op.first), int64(length)), v, op.fua, d.tick())
	d.open = append(d.open, op)
}

// effect lets op take effect in one more sector.
func (d *oracleDevice) effect(op *oracleOp) {
	i := op.todo[len(op.todo)-1]
	op.todo = op.todo[:len(op.todo)-1]
	s := &d.sectors[op.first+i]
	if op.kind == OpRead {
		op.vals[i] = s.vals[len(s.vals)-1]
		return
	}
	s.vals, s.ops = append(s.vals, op.vals[i]), append(s.ops, op)
}

func (d *oracleDevice) finish(op *oracleOp) error {
	for len(op.todo) > 0 {
		d.effect(op)
	}
	if op.kind == OpRead {
		if d.bug != nil {
			d.bug(d, op, op.vals)
		}
		return d.h.Done(op.id, "oracle", op.vals, d.tick())
	}
	if op.fua {
		d.promise(op)
	}
	for _, a := range op.acks {
		d.promise(a)
	}
	if op.kind != OpFlush {
		d.acked = append(d.acked, op)
	}
	return d.h.Done(op.id, "oracle", nil, d.tick())
}

func (d *oracleDevice) promise(op *oracleOp) {
	for i := range op.vals {
		s := &d.sectors[op.first+i]
		if k := slices.Index(s.ops, op); k > s.safe {
			s.safe = k
		}
	}
}

// giveUp ends an operation without success.
func (d *oracleDevice) giveUp(op *oracleOp) error {
	switch d.rng.IntN(3) {
	case 0:
		if len(op.todo) == len(op.vals) {
			return d.h.Failed(op.id, NotDone, d.tick())
		}
	case 1:
		if op.kind == OpWrite || op.kind == OpZero {
			d.ghosts = append(d.ghosts, op)
		}
		return d.h.Failed(op.id, MayLand, d.tick())
	}
	return d.h.Failed(op.id, MayHave, d.tick())
}

// lose is a power cut of everything. Writes that are open and were lost are sent again.
func (d *oracleDevice) lose() {
	d.h.LossPoint(d.tick())
	d.acked = nil
	alive := slices.Concat(d.open, d.ghosts)
	for at := range d.sectors {
		s := &d.sectors[at]
		k := s.safe + d.rng.IntN(len(s.vals)-s.safe)
		if d.spoils && !d.spoiled && d.surelyOlder(s) {
			k, d.spoiled = s.safe-1, true
		}
		for i := s.safe; i < len(s.ops); i++ {
			if op := s.ops[i]; i != k && slices.Contains(alive, op) {
				op.todo = append(op.todo, at-op.first)
			}
		}
		*s = oracleSector{vals: []uint64{s.vals[k]}, ops: []*oracleOp{nil}}
	}
	for _, op := range d.open {
		op.acks = nil
	}
}

// surelyOlder reports whether clients can tell that the value before the newest promised one is wrong.
func (d *oracleDevice) surelyOlder(s *oracleSector) bool {
	k := s.safe - 1
	if k < 0 || s.vals[k] == 0 || s.ops[k] == nil {
		return false
	}
	older, newer := d.h.ops[s.ops[k].id], d.h.ops[s.ops[k+1].id]
	return older.state == opDone && newer.state == opDone && older.end < newer.begin
}

// run makes steps random steps and returns the first violation.
func (d *oracleDevice) run(steps, clients int, losses bool) error {
	for range steps {
		if len(d.ghosts) > 0 && d.rng.IntN(20) == 0 {
			g := d.ghosts[d.rng.IntN(len(d.ghosts))]
			if len(g.todo) > 0 {
				d.effect(g)
			}
		}
		if losses && d.rng.IntN(60) == 0 {
			d.lose()
			if d.spoiled { // a later write could hide it
				break
			}
		}
		if len(d.open) < clients && d.rng.IntN(2) == 0 {
			d.start()
			continue
		}
		if len(d.open) == 0 {
			continue
		}
		k := d.rng.IntN(len(d.open))
		op := d.open[k]
		if len(op.todo) > 0 && d.rng.IntN(4) > 0 {
			d.effect(op)
			continue
		}
		d.open = slices.Delete(d.open, k, k+1)
		end := d.finish
		if d.rng.IntN(12) == 0 {
			end = d.giveUp
		}
		if err := end(op); err != nil {
			return err
		}
	}
	return d.h.FinalContent("oracle", d.tick(), func(i int64) uint64 {
		if i >= int64(len(d.sectors)) {
			return 0
		}
		s := &d.sectors[i]
		return s.vals[len(s.vals)-1]
	})
}

func TestHistory_AcceptsEveryHistoryOfARightDevice(t *testing.T) {
	for seed := range uint64(500) {
		d := newOracleDevice(seed, 24)
		err := d.run(300, 5, seed%2 == 0)
		if err == nil {
			err = d.h.Check()
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestHistory_FindsEverySpoiledRead(t *testing.T) {
	found := 0
	for seed := range uint64(300) {
		d := newOracleDevice(seed, 24)
		spoiled := 0
		d.bug = func(d *oracleDevice, op *oracleOp, vals []uint64) {
			// A value that was right once: what the sector held before its newest value, which
			// was promised or not. It is wrong when a later write was over before this began.
			i := d.rng.IntN(len(vals))
			s := &d.sectors[op.first+i]
			if n := len(s.vals); n >= 2 && s.vals[n-2] != s.vals[n-1] && s.vals[n-2] != 0 && s.ops[n-1] != nil &&
				d.h.ops[s.ops[n-1].id].end < d.h.ops[op.id].begin && d.h.ops[s.ops[n-1].id].state == opDone &&
				(s.ops[n-2] == nil || d.h.ops[s.ops[n-2].id].end < d.h.ops[s.ops[n-1].id].begin) {
				vals[i] = s.vals[n-2]
				spoiled++
			}
		}
		err := d.run(400, 3, false)
		if spoiled > 0 && err == nil {
			t.Fatalf("seed %d: %d spoiled reads passed", seed, spoiled)
		}
		if spoiled == 0 && err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if spoiled > 0 {
			found++
		}
	}
	if found < 200 {
		t.Errorf("only %d of 300 runs had a spoiled read", found)
	}
}

func TestHistory_FindsEveryPromiseBrokenAtALoss(t *testing.T) {
	found := 0
	for seed := range uint64(400) {
		d := newOracleDevice(seed, 24)
		d.spoils = true
		err := d.run(300, 3, true)
		if err == nil {
			err = d.h.Check()
		}
		if d.spoiled != (err != nil) {
			t.Fatalf("seed %d: a broken promise is %v, but: %v", seed, d.spoiled, err)
		}
		if d.spoiled {
			found++
		}
	}
	if found < 100 {
		t.Errorf("only %d of 400 runs broke a promise", found)
	}
}

// guess is an operation on one sector, as porcupine is given it in the plainest way.
type guess struct {
	write bool
	value uint64
}

var plainRegister = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, _ any) (bool, any) {
		g := input.(guess)
		return g.write || state == g.value, map[bool]any{true: g.value, false: state}[g.write]
	},
}

// linearizable is the plain answer: every operation goes in, and each write that may have had its
// effect only until it was given up is tried both ways.
func linearizable(ops []clientOp, reads []uint64, optional []int) bool {
	for choice := range 1 << len(optional) {
		var history []porcupine.Operation
		for i, o := range ops {
			k := slices.Index(optional, i)
			if k >= 0 && choice&(1<<k) == 0 || o.kind == OpRead && o.state != opDone {
				continue
			}
			g, end := guess{o.kind != OpRead, o.value}, int64(o.end)
			if o.kind == OpRead {
				g.value = reads[i]
			}
			if o.state == opOpen || o.state == opMayLand {
				end = math.MaxInt64
			}
			history = append(history, porcupine.Operation{Input: g, Call: int64(o.begin), Return: end})
		}
		if porcupine.CheckOperations(plainRegister, history) {
			return true
		}
	}
	return false
}

// randomSectorHistory lets clients do anything with one sector and answers reads with anything, mostly
// something likely. It returns the History, what reads were answered, and the first violation.
func randomSectorHistory(rng *rand.Rand, zeros bool) (h *History, reads []uint64, optional []int, err error) {
	h = NewHistory(testDiskSize)
	var open []OpID
	written := []uint64{0}
	e := bitmap.Extent{Len: SectorSize}
	for range 30 {
		if len(open) < 3 && rng.IntN(2) == 0 {
			kind := OpKind(rng.IntN(2))
			if zeros && rng.IntN(4) == 0 {
				kind = OpZero
			}
			v := uint64(0)
			if kind == OpWrite {
				v = uint64(len(h.ops) + 1)
			}
			if kind != OpRead {
				written = append(written, v)
			}
			open = append(open, h.Begin(kind, e, v, false, 0))
			reads = append(reads, 0)
			continue
		}
		if len(open) == 0 {
			continue
		}
		k := rng.IntN(len(open))
		op := open[k]
		open = slices.Delete(open, k, k+1)
		if h.ops[op].kind != OpRead && rng.IntN(6) == 0 {
			outcome := MayHave + Outcome(rng.IntN(2))
			if outcome == MayHave {
				optional = append(optional, int(op))
			}
			err = h.Failed(op, outcome, 0)
		} else {
			near := written[max(0, len(written)-3):]
			reads[op] = near[rng.IntN(len(near))]
			err = h.Done(op, "n1", reads[op:op+1], 0)
		}
		if err != nil {
			break
		}
	}
	return h, reads, optional, err
}

func TestHistory_AgreesWithPlainSearch(t *testing.T) {
	var legal, wrong, late int
	for seed := range uint64(4000) {
		zeros := seed%2 == 1
		h, reads, optional, err := randomSectorHistory(testRand(seed), zeros)
		want := linearizable(h.ops, reads, optional)
		at := err
		if err == nil {
			err = h.Check()
		}
		text := func() (s string) {
			for i := range h.ops {
				s += fmt.Sprintf("\n%s: %d", h.Describe(OpID(i)), reads[i])
			}
			return fmt.Sprintf("%s\n%v", s, err)
		}
		switch {
		case want != (err == nil):
			t.Fatalf("seed %d: linearizable is %v, but:%s", seed, want, text())
		case want:
			legal++
		case at == nil && !zeros:
			t.Fatalf("seed %d: values are unique, and yet no read was refused:%s", seed, text())
		case at == nil:
			late++
			wrong++
		default:
			wrong++
		}
	}
	t.Logf("%d legal, %d wrong, of these %d found only by Check", legal, wrong, late)
	if legal < 500 || wrong < 500 || late == 0 {
		t.Error("one kind of history hardly occurs")
	}
}

func BenchmarkHistory(b *testing.B) {
	var h *History
	record := func() {
		h = NewHistory(testDiskSize)
		rng := testRand(7)
		held := make([]uint64, 60)
		var vals []uint64
		now := time.Duration(0)
		for i := range uint64(1000) { // two at a time, on blocks of 8 sectors
			now += time.Millisecond
			block := rng.Int64N(60)
			e := span(block*97*8, 8)
			w := h.Begin(OpWrite, e, i+1, false, now)
			r := h.Begin(OpRead, e, 0, false, now)
			vals = append(vals[:0], repeat(held[block], 8)...)
			held[block] = i + 1
			if h.Done(r, "n1", vals, now) != nil || h.Done(w, "n1", nil, now) != nil {
				b.Fatal("refused")
			}
		}
		if err := h.FinalContent("n1", now, func(s int64) uint64 {
			if s/8%97 == 0 && s/8/97 < 60 {
				return held[s/8/97]
			}
			return 0
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			record()
		}
	})
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := h.Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
