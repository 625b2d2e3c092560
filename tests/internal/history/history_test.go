package history

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script builds a history from words: one operation begins or ends with each.
//
//	w1(   write of value 1 begins     w1)  it is answered
//	z1(   zeros begin, named 1        z1)  answered
//	r1(   read begins                 r1=2 it returns value 2
func script(t *testing.T, text string) *History {
	t.Helper()
	h := New(1)
	ids := map[string]ID{}
	for _, word := range strings.Fields(text) {
		name, value, read := strings.Cut(word, "=")
		switch {
		case read:
			var v Value
			if _, err := fmt.Sscan(value, &v); err != nil {
				t.Fatalf("%q: %v", word, err)
			}
			h.DoneRead(ids[name], []Value{v}, nil)
		case word[len(word)-1] == ')':
			h.Done(ids[word[:len(word)-1]])
		default:
			name = word[:len(word)-1]
			switch word[0] {
			case 'w':
				var v Value
				ids[name], v = h.BeginWrite("a", 0, false)
				if got := fmt.Sprintf("w%d", v); got != name {
					t.Fatalf("write %s of the script is the write %s", name, got)
				}
			case 'z':
				ids[name] = h.BeginZero("a", 0, 1)
			case 'r':
				ids[name] = h.BeginRead("a", 0, 1)
			}
		}
	}
	return h
}

// judge returns what both checkers say.
func judge(t *testing.T, h *History) (direct, exact error) {
	t.Helper()
	undecided, exact := h.Linearizable(10 * time.Second)
	if undecided != 0 {
		t.Fatalf("%d blocks were left undecided", undecided)
	}
	return h.Direct(), exact
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name, history string
		right         bool
	}{
		{"nothing was written", "r1( r1=0", true},
		{"a write is read", "w1( w1) r1( r1=1", true},
		{"two at once, read either way", "w1( w2( w1) w2) r1( r1=1 r2( r2=1", true},
		{"a read beside a write sees the old", "w1( w1) w2( r1( r1=1 w2) r2( r2=2", true},
		{"a read beside a write sees the new", "w1( w1) w2( r1( r1=2 w2)", true},
		{"an unanswered write was never done", "w1( w1) w2( r1( r1=1", true},
		{"an unanswered write is done late", "w1( w1) w2( r1( r1=1 w3( w3) r2( r2=3 r3( r3=2", true},
		{"zeros after a trim", "w1( w1) z1( z1) r1( r1=0", true},
		{"an unanswered trim is done late", "w1( w1) z1( r1( r1=1 r2( r2=0", true},
		{"zeros between two values", "w1( w1) z1( w2( r1( r1=0 z1) w2) r2( r2=2", true},
		{"a read beside a write sees some of each", "w1( r1( w1) r1=18446744073709551615 r2( r2=1", true},
		{"a read beside an unanswered write sees some of each", "w1( r1( r1=18446744073709551615 r2( r2=0", true},

		{"stale read", "w1( w1) w2( w2) r1( r1=1", false},
		{"stale read of zeros", "w1( w1) r1( r1=0", false},
		{"lost write: the content at the end is older", "w1( w1) w2( w2) w3( r1( r1=1", false},
		{"resurrected value", "w1( w1) w2( w2) r1( r1=2 r2( r2=1", false},
		{"resurrected unanswered value", "w1( r1( r1=1 w2( w2) r2( r2=2 r3( r3=1", false},
		{"reads at two servers disagree about the order", "w1( w2( r1( r1=1 r2( r2=2 r3( r3=1", false},
		{"a value that nobody wrote", "w1( w1) r1( r1=7", false},
		{"a value before its write", "r1( r1=1 w1( w1)", false},
		{"a value came back after a trim", "w1( w1) z1( z1) r1( r1=1", false},
		{"zeros came back after a write that followed the trim", "z1( z1) w1( w1) r1( r1=0", false},
		{"zeros, seen gone, came back", "w1( r1( r1=1 r2( r2=0", false},
		{"mixed bytes long after the write", "w1( w1) r1( r1=18446744073709551615", false},
		{"mixed bytes before any write", "r1( r1=18446744073709551615 w1( w1)", false},
		{"bytes of another block, beside a write", "w1( r1( r1=18446744073709551614 w1)", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			direct, exact := judge(t, script(t, tc.history))
			if (direct == nil) != tc.right {
				t.Errorf("Direct: %v", direct)
			}
			if (exact == nil) != tc.right {
				t.Errorf("Linearizable: %v", exact)
			}
		})
	}
}

func TestMixedBytes_OfAnotherServersLostWriteOrOfAReplica_AreAViolation(t *testing.T) {
	for name, read := range map[string]func(h *History) ID{
		"read at another server": func(h *History) ID { return h.BeginRead("b", 0, 1) },
		"content":                func(h *History) ID { return h.begin(op{kind: content, where: "a", count: 1}) },
	} {
		h := New(1)
		h.BeginWrite("a", 0, false)
		h.DoneRead(read(h), []Value{Torn}, errors.New("some of each"))
		if direct, exact := judge(t, h); direct == nil || exact == nil || !strings.Contains(direct.Error(), "some of each") {
			t.Errorf("%s: %v %v", name, direct, exact)
		}
	}
}

// generate makes a history of a register that is right, and then, with lie, changes what one read saw.
func generate(rng *rand.Rand, zeros, lie bool) *History {
	h := New(1)
	type running struct {
		id      ID
		kind    Kind
		value   Value
		applied bool // has taken effect, or seen what it will return
	}
	var at []*running
	var held Value
	type seen struct {
		id ID
		v  Value
	}
	var reads []seen
	for range 14 + rng.IntN(20) {
		if len(at) < 4 && rng.IntN(2) == 0 {
			r := &running{kind: Kind(rng.IntN(2))}
			if zeros && rng.IntN(4) == 0 {
				r.kind = Zero
			}
			switch r.kind {
			case Read:
				r.id = h.BeginRead("a", 0, 1)
			case Write:
				r.id, r.value = h.BeginWrite("a", 0, false)
			case Zero:
				r.id = h.BeginZero("a", 0, 1)
			}
			at = append(at, r)
			continue
		}
		if len(at) == 0 {
			continue
		}
		i := rng.IntN(len(at))
		r := at[i]
		if !r.applied {
			r.applied = true
			if r.kind == Read {
				r.value = held
			} else {
				held = r.value
			}
		}
		switch rng.IntN(3) {
		case 0: // the answer comes later, or never
			continue
		case 1:
			if r.kind != Read { // a request whose connection ended
				break
			}
			fallthrough
		default:
			if r.kind == Read {
				reads = append(reads, seen{r.id, r.value})
				h.DoneRead(r.id, []Value{r.value}, nil)
			} else {
				h.Done(r.id)
			}
		}
		at = append(at[:i], at[i+1:]...)
	}
	if lie && len(reads) > 0 && h.value > 0 {
		h.ops[reads[rng.IntN(len(reads))].id].values[0] = Value(rng.Uint64N(uint64(h.value) + 1))
	}
	return h
}

func TestCheck_RightHistoriesPass(t *testing.T) {
	for seed := range uint64(2000) {
		h := generate(rand.New(rand.NewPCG(seed, 1)), seed%2 == 0, false)
		if direct, exact := judge(t, h); direct != nil || exact != nil {
			t.Fatalf("seed %d:\n%v\n%v", seed, direct, exact)
		}
	}
}

// For values of their own the two checkers must say the same of every history. With zeros Direct may
// miss what porcupine finds, and never the other way round.
func TestCheck_TheTwoCheckersAgree(t *testing.T) {
	wrong := 0
	for seed := range uint64(4000) {
		zeros := seed%2 == 0
		h := generate(rand.New(rand.NewPCG(seed, 2)), zeros, true)
		direct, exact := judge(t, h)
		if exact != nil {
			wrong++
		}
		if direct != nil && exact == nil || !zeros && (direct == nil) != (exact == nil) {
			t.Fatalf("seed %d: Direct says %v, Linearizable says %v", seed, direct, exact)
		}
	}
	if wrong < 500 {
		t.Errorf("only %d of the histories were wrong: the test proves little", wrong)
	}
}

func TestLongestGap(t *testing.T) {
	h := New(1)
	for _, ms := range []time.Duration{10, 20, 30, 530, 540, 550} {
		h.acked = append(h.acked, ms*time.Millisecond)
	}
	for _, tc := range []struct{ from, to, want time.Duration }{
		{25, 545, 500}, // from the acknowledgement at 30 to that at 530
		{100, 200, 500},
		{12, 28, 10},
		{540, 900, 350}, // none after 550
	} {
		if got := h.LongestGap(tc.from*time.Millisecond, tc.to*time.Millisecond); got != tc.want*time.Millisecond {
			t.Errorf("from %d to %d: %v, want %d ms", tc.from, tc.to, got, tc.want)
		}
	}
}

func TestFailed_IsKept_AndItsOutcomeIsUnknown(t *testing.T) {
	h := New(1)
	w, v := h.BeginWrite("a", 0, false)
	h.Failed(w, errors.New("EIO"))
	for _, held := range []Value{0, v} {
		h.DoneRead(h.BeginRead("a", 0, 1), []Value{held}, nil)
	}
	if direct, exact := judge(t, h); direct != nil || exact != nil {
		t.Errorf("%v %v", direct, exact)
	}
	if errs := h.Errors(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "EIO") {
		t.Errorf("errors: %v", errs)
	}
}

func TestContent_JudgesWhatAFileHolds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(p []byte)
		right bool
	}{
		{"as written", func([]byte) {}, true},
		{"a lost write", func(p []byte) { clear(p[Block : 2*Block]) }, false},
		{"another block's bytes", func(p []byte) { copy(p[2*Block:], p[:Block]) }, false},
		{"half of a block", func(p []byte) { clear(p[Block+100 : Block+200]) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := New(4)
			image := make([]byte, 4*Block)
			for block := range int64(2) {
				id, v := h.BeginWrite("a", block, true)
				Fill(image[block*Block:][:Block], block, v)
				h.Done(id)
			}
			tc.spoil(image)
			path := filepath.Join(t.TempDir(), "img")
			if err := os.WriteFile(path, image, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := h.Content("n1's file", path); err != nil {
				t.Fatal(err)
			}
			direct, exact := judge(t, h)
			if (direct == nil) != tc.right || (exact == nil) != tc.right {
				t.Errorf("Direct: %v; Linearizable: %v", direct, exact)
			}
		})
	}
}

func TestContent_ShorterThanTheDevice_IsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(path, make([]byte, Block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New(2).Content("n1", path); err == nil {
		t.Error("a file that was cut off passed")
	}
}
