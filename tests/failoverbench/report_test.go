package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestReport_ShowsTargetsBesideMeasures_AndWhatWasMissed(t *testing.T) {
	ms := func(n ...int) (out []time.Duration) {
		for _, n := range n {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	r := report{
		Results: []*result{
			{Name: "kill", Target: target{600 * time.Millisecond, 1500 * time.Millisecond}, Gaps: ms(2000, 300, 400), Verdict: "right"},
			{Name: "isolation", Verdict: "SKIPPED"},
		},
		Attach: ms(30, 250, 20),
		Idle:   &idleResult{Percent: 12.5, Nodes: map[string]float64{"n1": 5, "n2": 4, "w": 3.5}, For: 30 * time.Second},
	}
	var b strings.Builder
	r.print(&b)
	for _, want := range []string{"400", "(600)", "2000", "(1500 MISSED)", "SKIPPED", "12.5 % of a core (3 MISSED)", "30 ms in the median of 3; at worst 250 (200 MISSED)", "n1 5.0, n2 4.0, w 3.5"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "(600 MISSED)") {
		t.Errorf("a median of 400 misses 600:\n%s", b.String())
	}
}

func TestUsed_CountsTheTimeOfAProcess(t *testing.T) {
	before, err := used(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// Work until the kernel has seen some: its unit is 10 ms.
	for began := time.Now(); ; {
		now, err := used(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("10 s of work, and still %v", now)
		}
	}
}
