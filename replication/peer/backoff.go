package peer

import (
	"math/rand/v2"
	"time"
)

// backoff says how long to wait before the next attempt. It belongs to the link's goroutine.
type backoff struct {
	least, most time.Duration
	step        time.Duration // the wait after the next failure, before chance; 0 is none at all
	rng         *rand.Rand
}

func newBackoff(least, most time.Duration) *backoff {
	return &backoff{least: least, most: most, rng: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
}

// wait returns the time to wait now: up to half of the step is left out by chance, so that the
// links that one event has broken do not all come back in the same moment.
func (b *backoff) wait() time.Duration {
	if b.step == 0 {
		return 0
	}
	return b.step - time.Duration(b.rng.Int64N(int64(b.step)/2+1))
}

// ended books an attempt whose session lived so long, 0 for none. After a steady session the next
// attempt is due at once, and so it is after the first short one, but not after a row of them.
func (b *backoff) ended(lived time.Duration) {
	switch {
	case lived >= steady:
		b.step = 0
	case b.step == 0 && lived > 0:
		b.step = 1 // next to nothing, once
	default:
		b.step = min(max(b.step*2, b.least), b.most)
	}
}

// reset makes the next attempt due at once.
func (b *backoff) reset() { b.step = 0 }
