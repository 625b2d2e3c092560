package quorum

import "fmt"

// Duration is a length of time in nanoseconds, as time.Duration is: convert one to the other.
// This package imports no clock, so it has a type of its own.
type Duration int64

const (
	millisecond = Duration(1e6)
	second      = Duration(1e9)
)

// MaxLease is the longest lease that any policy may ask for.
const MaxLease = 60 * second

// Policy is what an operator chose for one resource. A zero field means the default.
type Policy struct {
	Lease       Duration `json:"lease"`        // beacon lease, 50 ms to MaxLease; 0: 300 ms
	PeerTimeout Duration `json:"peer_timeout"` // a peer without progress is dropped after it; 0: 5 s
	// ResyncImpact is how much resync may raise application latency, in percent, up to 1000.
	// 0: 20.
	ResyncImpact int `json:"resync_impact"`
}

// DefaultPolicy returns the policy that a zero Policy stands for.
func DefaultPolicy() Policy {
	return Policy{
		Lease:        300 * millisecond,
		PeerTimeout:  5 * second,
		ResyncImpact: 20,
	}
}

// WithDefaults returns p with each zero field replaced by its default.
func (p Policy) WithDefaults() Policy {
	d := DefaultPolicy()
	set := func(v *Duration, def Duration) {
		if *v == 0 {
			*v = def
		}
	}
	set(&p.Lease, d.Lease)
	set(&p.PeerTimeout, d.PeerTimeout)
	if p.ResyncImpact == 0 {
		p.ResyncImpact = d.ResyncImpact
	}
	return p
}

// Validate lists everything that is wrong with p, nil if nothing is.
func (p Policy) Validate() error {
	var f faults
	between := func(name string, v, low, high Duration) {
		if v != 0 && (v < low || v > high) {
			f.addf("%s of %d ns is not between %d and %d ns", name, v, low, high)
		}
	}
	between("lease", p.Lease, 50*millisecond, MaxLease)
	between("peer_timeout", p.PeerTimeout, 100*millisecond, 3600*second)
	if p.ResyncImpact < 0 || p.ResyncImpact > 1000 {
		f.addf("resync_impact of %d %% is not between 0 and 1000", p.ResyncImpact)
	}
	return f.err()
}

// faults collects what is wrong, so that an operator sees all of it at once.
type faults []string

func (f *faults) addf(format string, a ...any) { *f = append(*f, fmt.Sprintf(format, a...)) }

// err returns ErrInvalid with every fault, nil if there is none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	text := f[0]
	for _, t := range f[1:] {
		text += "; " + t
	}
	return fmt.Errorf("%w: %s", ErrInvalid, text)
}
