package linkcheck

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// enough is how many probes have to be sent before a link is called good.
const enough = 20

// Judge sets the verdict of r, whose probes were sent at interval. slower are presets to fall back on, the
// fastest first.
func Judge(r *control.LinkReport, interval time.Duration, slower []control.Timing) {
	judge(r, interval, slower)
	if r.SenderLate+r.Timing.BeaconInterval > leaseOf(r.Timing) {
		r.Text += fmt.Sprintf(" The host of %s was so busy that it sent a probe %v late; it would send beacons as late, whatever the link.", r.From, round(r.SenderLate))
	}
}

func judge(r *control.LinkReport, interval time.Duration, slower []control.Timing) {
	have := name(r.Timing)
	rest := r.LongestGap + r.Timing.BeaconInterval - interval
	switch {
	case r.Answered+r.Late == 0:
		r.Verdict = control.LinkUnfit
		r.Text = fmt.Sprintf("No probe was answered: %s does not reach %s. See whether the daemon runs there, and what lies between.", r.From, r.To)
	case fits(r, interval, r.Timing) && r.Sent < enough:
		r.Verdict = control.LinkShort
		r.Text = fmt.Sprintf("Nothing went wrong, but %d probes are too few to tell. Measure longer: --duration 1m.", r.Sent)
	case fits(r, interval, r.Timing):
		r.Verdict = control.LinkGood
		r.Text = fmt.Sprintf("Good for %s: the longest that a primary would have rested on one beacon is %v, and its lease is %v, of which %d %% are kept free.", have, round(rest), r.Timing.Lease, r.Timing.DriftMargin)
	default:
		for _, t := range slower {
			if t.Lease > r.Timing.Lease && fits(r, interval, t) {
				r.Verdict = control.LinkSlow
				r.Text = fmt.Sprintf("Too slow for %s: a primary would have rested on one beacon for %v, and its lease is %v, of which %d %% are kept free; "+
					"beyond that it freezes. Use %s, whose lease is %v: timing = %q in the file of each node, and lockstep resource set NAME --lease %v.",
					have, round(rest), r.Timing.Lease, r.Timing.DriftMargin, name(t), t.Lease, t.Preset, t.Lease)
				return
			}
		}
		r.Verdict = control.LinkUnfit
		r.Text = fmt.Sprintf("Unfit: a primary would have rested on one beacon for %v, and no preset has a lease that long, so it would freeze. "+
			"Mend the network first: %.2f %% of the probes were late or lost.", round(rest), r.LossPercent)
	}
}

// fits reports whether the lease of t would have held all the time.
func fits(r *control.LinkReport, interval time.Duration, t control.Timing) bool {
	return r.LongestGap+t.BeaconInterval-interval <= leaseOf(t)
}

// name names a timing for people.
func name(t control.Timing) string {
	if t.Preset == "" {
		return "the timing that is set"
	}
	return "the " + t.Preset + " preset"
}

// round drops digits that nobody reads.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}
