package sim

import (
	"errors"
	"strings"
	"testing"
)

func TestKindOf_TakesTwoMeetingsWithOneBugForOneKind(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"n1 answered a read of sector 12 with 7 (op 3)", "n2 answered a read of sector 9 with 40 (op 1)\nmore", true},
		{"at rest sector 1 of n1 holds 3, of n2 4", "at rest sector 77 of n2 holds 9, of n1 0", true},
		{"at rest sector 1 of n1 holds 3, of n2 4", "not at rest 2m0s after everything was healed: nobody serves", false},
		{"panic: core: ack for unknown write 7", "panic: core: ack for unknown write 9, epoch 3", true},
	} {
		if got := kindOf(c.a) == kindOf(c.b); got != c.same {
			t.Errorf("%q and %q: the same is %v, want %v", c.a, c.b, got, c.same)
		}
	}
}

func TestStats_SumAndWords(t *testing.T) {
	s := sumOf(Stats{Events: 1, LossPoints: 2}, Stats{Events: 10, Forces: 3})
	if s != (Stats{Events: 11, LossPoints: 2, Forces: 3}) {
		t.Errorf("the sum is %+v", s)
	}
	if text := countsOf(s); !strings.Contains(text, "events 11") || !strings.Contains(text, "loss points 2") {
		t.Errorf("shown as %q", text)
	}
	if idle := strings.Join(idleOf(s), " "); strings.Contains(idle, "forces") || !strings.Contains(idle, "promotions") {
		t.Errorf("idle: %q", idle)
	}
}

// A process that dies takes no seed with it unnoticed: the parent knows which one it was at.
func TestFleet_SaysWhereAProcessDied(t *testing.T) {
	f := &fleet{first: 100, seeds: 10}
	alive, dead, stuck := &worker{next: 100}, &worker{next: 101}, &worker{next: 102}
	f.workers = []*worker{alive, dead, stuck}
	for seed := uint64(100); seed < 110; seed += 3 {
		f.took(said{from: alive, line: seedLine{Seed: seed, Stats: Stats{Events: 5}}}, 3)
	}
	f.took(said{from: dead, line: seedLine{Seed: 101}}, 3)
	f.ended(said{from: alive, ended: true})
	f.ended(said{from: dead, ended: true, err: errors.New("exit status 2"), words: "fatal error: stack overflow"})
	stuck.late = true
	f.ended(said{from: stuck, ended: true, err: errors.New("signal: killed")})
	if f.done != 5 || f.total.Events != 20 {
		t.Errorf("%d seeds done, %d events", f.done, f.total.Events)
	}
	if len(f.broken) != 2 {
		t.Fatalf("broken: %q", f.broken)
	}
	for i, want := range [][]string{{"seed 104 ", "exit status 2", "stack overflow", "-seed=104"}, {"seed 102 does not end", "-seed=102"}} {
		for _, w := range want {
			if !strings.Contains(f.broken[i], w) {
				t.Errorf("%q does not say %q", f.broken[i], w)
			}
		}
	}
}

// A worker that exits well before its seeds are through is no success either.
func TestFleet_ShareThatIsNotThroughIsAFailure(t *testing.T) {
	f := &fleet{first: 1, seeds: 4}
	w := &worker{next: 1}
	f.took(said{from: w, line: seedLine{Seed: 1}}, 2)
	if f.ended(said{from: w, ended: true}); len(f.broken) != 1 || !strings.Contains(f.broken[0], "seed 3 ") {
		t.Errorf("broken: %q", f.broken)
	}
}

func TestListen_TellsLinesFromOtherWords(t *testing.T) {
	heard := make(chan said, 4)
	var words strings.Builder
	out := strings.NewReader("{\"Seed\":7,\"Failure\":\"lost\"}\nPASS\n{\"Seed\":0}\n{\"Seed\":9}\nrest")
	listen(out, &worker{}, &words, heard)
	if len(heard) != 2 {
		t.Fatalf("%d lines", len(heard))
	}
	if a, b := <-heard, <-heard; a.line.Seed != 7 || a.line.Failure != "lost" || b.line.Seed != 9 {
		t.Errorf("heard %+v and %+v", a.line, b.line)
	}
	if words.String() != "PASS\n{\"Seed\":0}\nrest" {
		t.Errorf("words %q", words.String())
	}
}
