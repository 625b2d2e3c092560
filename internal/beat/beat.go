// Package beat lets the periodic work of a process, and of all processes of one host, fall on the
// same instants.
//
// Waking an idle process costs far more than the little that it then does: a node with a dozen
// tickers of its own phase each wakes hundreds of times a second. Tickers of this package tick at
// multiples of their period since a common origin, so that those of 50 ms wake nobody whom those of
// 100 ms have not woken already, and what is sent to another process of the host finds it awake.
package beat

import "time"

// origin is when the clock of all Tickers began: the same for every process of a host that has not
// set its clock between their starts. It matters for the cost alone.
var origin = time.Unix(0, 0)

// Ticker sends on C at the multiples of its period. Unlike a time.Ticker it has to be told when a
// tick was taken, by Next, and it skips those that nobody came for.
type Ticker struct {
	C      <-chan time.Time
	timer  *time.Timer
	period time.Duration
}

// NewTicker returns a Ticker. It panics if period is not above 0, as time.NewTicker does.
func NewTicker(period time.Duration) *Ticker {
	if period <= 0 {
		panic("beat: a period that is not above zero")
	}
	t := &Ticker{timer: time.NewTimer(until(period)), period: period}
	t.C = t.timer.C
	return t
}

// Next arms the Ticker again, with another period if period is not 0. To be called after each
// receive from C.
func (t *Ticker) Next(period time.Duration) {
	if period > 0 {
		t.period = period
	}
	t.timer.Reset(until(t.period))
}

// Stop ends the Ticker; nothing is sent any more.
func (t *Ticker) Stop() { t.timer.Stop() }

// until is the time to the next multiple of period, and one period more if that is so close that a
// timer which fired a little early would tick twice for it.
func until(period time.Duration) time.Duration {
	left := period - time.Since(origin)%period
	if left < period/8 {
		left += period
	}
	return left
}
