package replication

import "time"

// throttle sets the rate of resync so that the latency of writes grows by no more than a given
// percentage. While no client writes, resync has everything.
//
// The latency of writes with nothing being copied is the base. It is measured in every interval
// in which nothing was copied; while a resync goes on, one interval in ten is kept free for that.
// The rate falls by a fifth after an interval over the limit and grows by a quarter after one
// below it. It never falls below minCopyRate: a resync that does not end is a danger, too.
type throttle struct {
	rate     float64       // bytes per second while clients write
	tokens   float64       // bytes that may be copied now; negative after a run that was longer
	interval time.Duration // start of the present one
	lastTick time.Duration
	count    int // intervals
	arrivals int // in this interval
	writes   int
	latency  time.Duration // sum over writes
	bytes    int64         // copied
	base     float64       // nanoseconds, smoothed
	busy     bool          // clients wrote in the last interval
	probing  bool          // nothing is copied in this interval
}

const (
	throttleInterval = 100 * time.Millisecond
	firstCopyRate    = 256 << 20
	minCopyRate      = 32 << 20
	maxCopyRate      = 8 << 30
)

func (t *throttle) arrived() { t.arrivals++ }

func (t *throttle) finished(d time.Duration) {
	t.writes++
	t.latency += d
}

func (t *throttle) copied(n int64) { t.bytes += n }

// budget returns how many bytes may be under way.
func (t *throttle) budget() int64 {
	switch {
	case !t.busy && t.arrivals < 4:
		return copyWindow
	case t.probing || t.tokens <= 0:
		return 0
	default:
		return min(copyWindow, max(copyRun, int64(t.tokens)))
	}
}

// take accounts for a run that begins.
func (t *throttle) take(n int64) { t.tokens -= float64(n) }

// tick refills the tokens and, at the end of an interval, judges it.
func (t *throttle) tick(now time.Duration, percent int) {
	if t.rate == 0 {
		t.rate = firstCopyRate
	}
	t.tokens = min(t.tokens+t.rate*(now-t.lastTick).Seconds(), t.rate/5+copyRun)
	t.lastTick = now
	if now-t.interval < throttleInterval {
		return
	}
	t.judge(percent)
	t.interval = now
	t.count++
	t.busy = t.arrivals >= 4
	t.probing = t.busy && t.count%10 == 0
	t.arrivals, t.writes, t.latency, t.bytes = 0, 0, 0, 0
}

// judge draws the conclusion of the interval that ends.
func (t *throttle) judge(percent int) {
	if t.writes == 0 {
		return
	}
	mean := float64(t.latency) / float64(t.writes)
	switch {
	case t.bytes == 0 && t.base == 0:
		t.base = mean
	case t.bytes == 0:
		t.base += (mean - t.base) / 4
	case t.base > 0 && mean > t.base*(1+float64(percent)/100):
		t.rate = max(minCopyRate, t.rate*0.8)
	default:
		t.rate = min(maxCopyRate, t.rate*1.25)
	}
}
