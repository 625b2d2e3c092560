package linkcheck

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

const ms = time.Millisecond

var (
	lan = control.Timing{Preset: "lan", BeaconInterval: 100 * ms, Lease: 300 * ms, DriftMargin: 10}
	wan = control.Timing{Preset: "wan", BeaconInterval: 500 * ms, Lease: 2000 * ms, DriftMargin: 10}
)

// measure sends count probes every 20 ms; trip tells how long each takes, less than 0 that it is lost.
func measure(count int, trip func(i int) time.Duration) control.LinkReport {
	const every = 20 * ms
	t := NewTally(lan, every, lan.Lease)
	type event struct{ sent, at time.Duration }
	var answers []event
	end := time.Duration(0)
	for i := range count {
		at := time.Duration(i+1) * every
		if d := trip(i); d >= 0 {
			answers = append(answers, event{at, at + d})
			end = max(end, at+d)
		} else {
			end = max(end, at+lan.Lease)
		}
	}
	next := 0
	for i := range count { // in the order of time; trips here never overtake each other
		at := time.Duration(i+1) * every
		for next < len(answers) && answers[next].at <= at {
			t.Answer(answers[next].sent, answers[next].at)
			next++
		}
		t.Send(at)
	}
	for ; next < len(answers); next++ {
		t.Answer(answers[next].sent, answers[next].at)
	}
	t.End(end)
	r := control.LinkReport{From: "n1", To: "n2", Timing: lan}
	t.Report(&r)
	Judge(&r, every, []control.Timing{lan, wan})
	return r
}

// stall holds everything back that is sent from probe a to b until b is sent, as one lost packet does.
func stall(a, b int) func(int) time.Duration {
	return func(i int) time.Duration {
		if i >= a && i < b {
			return time.Duration(b-i) * 20 * ms
		}
		return ms
	}
}

func TestJudge_SaysWhetherTheLeaseWouldHaveHeld(t *testing.T) {
	for _, tc := range []struct {
		name    string
		count   int
		trip    func(int) time.Duration
		verdict string
		says    string
	}{
		{"all is well", 500, func(int) time.Duration { return ms }, control.LinkGood, "Good for the lan preset"},
		{"slow and even", 500, func(int) time.Duration { return 120 * ms }, control.LinkGood, "Good for the lan preset"},
		{"slower than the lease", 500, func(int) time.Duration { return 400 * ms }, control.LinkSlow, `timing = "wan"`},
		{"one stall of 160 ms", 500, stall(100, 108), control.LinkGood, "Good"},
		{"one stall of 240 ms", 500, stall(100, 112), control.LinkSlow, "Use the wan preset"},
		{"one stall of 2 s", 500, stall(100, 200), control.LinkUnfit, "no preset has a lease that long"},
		{"lost at the end", 500, func(i int) time.Duration {
			if i >= 480 {
				return -1
			}
			return ms
		}, control.LinkSlow, "Use the wan preset"},
		{"nothing is answered", 500, func(int) time.Duration { return -1 }, control.LinkUnfit, "n1 does not reach n2"},
		{"too few", 5, func(int) time.Duration { return ms }, control.LinkShort, "5 probes are too few"},
	} {
		if r := measure(tc.count, tc.trip); r.Verdict != tc.verdict || !strings.Contains(r.Text, tc.says) {
			t.Errorf("%s: %s (%s), gap %v", tc.name, r.Verdict, r.Text, r.LongestGap)
		}
	}
}

func TestReport_CountsLossAndRoundTrips(t *testing.T) {
	r := measure(100, func(i int) time.Duration {
		switch {
		case i%10 == 5:
			return -1
		case i%2 == 0:
			return 2 * ms
		}
		return 4 * ms
	})
	if r.Sent != 100 || r.Answered != 90 || r.Late != 0 || r.Lost != 10 || r.LossPercent != 10 {
		t.Errorf("counts: %+v", r)
	}
	if r.Min != 2*ms || r.Max != 4*ms || r.Median != 2*ms || r.P99 != 4*ms || r.Jitter == 0 || r.Jitter > 2*ms {
		t.Errorf("round trips: %+v", r)
	}
	if r.LongestGap < 40*ms || r.LongestGap > 64*ms {
		t.Errorf("one lost probe makes a gap of %v", r.LongestGap)
	}
}

func TestReport_LateIsNotLost_AndReliabilityIsAShareOfTheTime(t *testing.T) {
	r := measure(500, stall(100, 150)) // 1 s
	if r.Lost != 0 || r.Late != 35 {   // those held for more than 300 ms
		t.Errorf("late %d, lost %d", r.Late, r.Lost)
	}
	// The gap is 1.02 s and a little; beacons come 80 ms later than probes; 270 ms of it are covered.
	want := 100 * (1 - (1020.0+80-270)/10001)
	if math.Abs(r.Reliability-want) > 0.2 {
		t.Errorf("reliability %v, about %v", r.Reliability, want)
	}
}

func TestTally_ABusySenderIsNotLaidToTheLink(t *testing.T) {
	tally := NewTally(lan, 20*ms, lan.Lease)
	at := time.Duration(0)
	for i := range 50 {
		at += 20 * ms
		if i == 25 {
			at += 500 * ms
		}
		tally.Send(at)
		tally.Answer(at, at+ms)
	}
	tally.End(at + ms)
	r := control.LinkReport{From: "n1", To: "n2", Timing: lan}
	tally.Report(&r)
	Judge(&r, 20*ms, []control.Timing{lan, wan})
	if r.Verdict != control.LinkGood || r.SenderLate != 500*ms || !strings.Contains(r.Text, "was so busy") {
		t.Errorf("%s, late by %v: %s", r.Verdict, r.SenderLate, r.Text)
	}
}
