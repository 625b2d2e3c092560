package coordinator

import (
	"errors"
	"fmt"
	"time"
)

// ReportInterval is how often a node reports each resource to the leader.
const ReportInterval = 100 * time.Millisecond

// TickInterval is the longest time between two EvTick while something is amiss; otherwise ReportInterval.
const TickInterval = 50 * time.Millisecond

// Config is fixed for the life of a Coordinator. A zero duration means the default.
type Config struct {
	Node string // this node's name

	SuspectAfter time.Duration // a primary that nobody heard for so long is silent; 0: 300 ms
	ReportStale  time.Duration // an older report says nothing; 0: 400 ms
	Grace        time.Duration // a role that was given up stays free for so long; 0: 500 ms
	IdleAfter    time.Duration // a recorded primary that is none for so long is replaced; 0: 1 s
	RetryAfter   time.Duration // pause after a promotion, refused or not; doubled each time; 0: 500 ms
	RetryMost    time.Duration // longest such pause; 0: 30 s
	StableAfter  time.Duration // a primary that served for so long ends the doubling; 0: 10 s

	FenceTimeout time.Duration // an executor that says nothing for so long has failed; 0: 60 s
	FenceDelay   time.Duration // a node of the pair waits so long before it shoots; 0: 500 ms

	// PromoteNew: a resource that was never promoted is given a primary like any other. Otherwise
	// its first promotion is an operator's.
	PromoteNew bool

	// NewID returns a random id that is not 0. It must never be nil.
	NewID func() uint64
}

// DefaultConfig returns the Config that zero durations stand for, for a local network.
func DefaultConfig() Config {
	return Config{
		SuspectAfter: 300 * time.Millisecond,
		ReportStale:  400 * time.Millisecond,
		Grace:        500 * time.Millisecond,
		IdleAfter:    time.Second,
		RetryAfter:   500 * time.Millisecond,
		RetryMost:    30 * time.Second,
		StableAfter:  10 * time.Second,
		FenceTimeout: 60 * time.Second,
		FenceDelay:   500 * time.Millisecond,
	}
}

// Validate lists everything that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf("coordinator: "+format, a...)) }
	if c.Node == "" {
		bad("no node name")
	}
	if c.NewID == nil {
		bad("no source of ids")
	}
	if c.SuspectAfter < 2*ReportInterval {
		bad("suspect after %v: a lost report would be a lost primary; at least %v", c.SuspectAfter, 2*ReportInterval)
	}
	if c.ReportStale < c.SuspectAfter {
		bad("reports stale after %v: they must last for the %v after which a primary is suspect", c.ReportStale, c.SuspectAfter)
	}
	if c.RetryMost < c.RetryAfter {
		bad("longest pause %v is below the first one, %v", c.RetryMost, c.RetryAfter)
	}
	for _, d := range []time.Duration{c.Grace, c.IdleAfter, c.RetryAfter, c.StableAfter, c.FenceTimeout, c.FenceDelay} {
		if d < 0 {
			bad("a duration of %v", d)
		}
	}
	return errors.Join(all...)
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	set := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	set(&c.SuspectAfter, d.SuspectAfter)
	set(&c.ReportStale, d.ReportStale)
	set(&c.Grace, d.Grace)
	set(&c.IdleAfter, d.IdleAfter)
	set(&c.RetryAfter, d.RetryAfter)
	set(&c.RetryMost, d.RetryMost)
	set(&c.StableAfter, d.StableAfter)
	set(&c.FenceTimeout, d.FenceTimeout)
	set(&c.FenceDelay, d.FenceDelay)
	return c
}
