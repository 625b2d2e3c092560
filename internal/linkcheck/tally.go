package linkcheck

import (
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// Tally keeps what came of the probes. All times count from the start of the measurement.
type Tally struct {
	limit   time.Duration // for a gap: the lease without its drift margin
	stretch time.Duration // by which a gap between beacons is longer than one between probes
	timeout time.Duration
	every   time.Duration // between two probes

	sent, answered, late, broken int
	trips                        []time.Duration // round trips, in the order of the answers
	base                         time.Duration   // when the newest answered probe was sent
	last                         time.Duration   // when anything was noted last
	longest                      time.Duration
	bare                         time.Duration // for how long no lease would have held
	counted                      time.Duration // up to when bare is
	due                          time.Duration // when the newest probe was sent
	tardy                        time.Duration // the longest that this end was late to send one
}

// NewTally returns the Tally of probes that are sent at interval and late after timeout.
func NewTally(t control.Timing, interval, timeout time.Duration) *Tally {
	return &Tally{limit: leaseOf(t), stretch: t.BeaconInterval - interval, timeout: timeout, every: interval}
}

// leaseOf is what of a lease is counted on: the drift margin is kept free.
func leaseOf(t control.Timing) time.Duration {
	return t.Lease * time.Duration(100-t.DriftMargin) / 100
}

// Send notes that a probe was due, whether or not there was a connection to send it on. If this end is
// late with it, its host was busy: that is told apart, and not laid to the link.
func (t *Tally) Send(at time.Duration) {
	if late := at - t.due - t.every; late > 0 {
		t.tardy = max(t.tardy, late)
		t.base = min(t.base+late, at)
	}
	t.due = at
	t.sent++
	t.last = max(t.last, at)
}

// Break notes that a connection broke, or could not be made.
func (t *Tally) Break(at time.Duration) {
	t.broken++
	t.last = max(t.last, at)
}

// Answer notes that a probe sent at sent was answered.
func (t *Tally) Answer(sent, at time.Duration) {
	trip := at - sent
	t.trips = append(t.trips, trip)
	if trip > t.timeout {
		t.late++
	} else {
		t.answered++
	}
	t.gap(at)
	t.base = max(t.base, sent)
}

// End notes that nothing more comes.
func (t *Tally) End(at time.Duration) {
	if t.base < t.due { // the newest probe was not answered
		t.gap(at)
	}
	t.last = max(t.last, at)
}

// gap counts how long the sender has rested on the newest answered probe.
func (t *Tally) gap(at time.Duration) {
	g := at - t.base
	t.longest = max(t.longest, g)
	if bare := at - max(t.base+t.limit-t.stretch, t.counted); bare > 0 { // the gaps of answers that come together overlap
		t.bare += bare
	}
	t.counted = max(t.counted, at)
	t.last = max(t.last, at)
}

// Report fills in what is known so far.
func (t *Tally) Report(r *control.LinkReport) {
	r.Elapsed, r.Sent, r.Answered, r.Late, r.Broken = t.last, t.sent, t.answered, t.late, t.broken
	r.Lost = t.sent - t.answered - t.late
	r.LongestGap, r.SenderLate = t.longest, t.tardy
	r.Reliability = 100
	if t.last > 0 {
		r.Reliability = 100 * (1 - float64(min(t.bare, t.last))/float64(t.last))
	}
	if t.sent > 0 {
		r.LossPercent = 100 * float64(r.Late+r.Lost) / float64(t.sent)
	}
	if len(t.trips) == 0 {
		return
	}
	sorted := slices.Sorted(slices.Values(t.trips))
	r.Min, r.Max = sorted[0], sorted[len(sorted)-1]
	r.Median, r.P99 = sorted[(len(sorted)-1)/2], sorted[(len(sorted)*99+99)/100-1]
	var sum time.Duration
	for i := 1; i < len(t.trips); i++ {
		sum += (t.trips[i] - t.trips[i-1]).Abs()
	}
	if n := len(t.trips) - 1; n > 0 {
		r.Jitter = sum / time.Duration(n)
	}
}
