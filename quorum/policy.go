package quorum

import (
	"cmp"
	"fmt"
	"slices"
)

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

	Failover FailoverMode `json:"failover"` // who promotes after a failure; "": auto
	// Fencing is what must be proven before a recorded primary is replaced by another node; "":
	// lease.
	Fencing    FencingMode  `json:"fencing"`
	OnNoQuorum NoQuorumMode `json:"on_no_quorum"` // what a primary does that reaches neither peer nor quorum; "": freeze
	// FreezeDeadline: connections of a primary that has been frozen for so long are closed, and none is
	// taken until it goes on, 100 ms to 24 h. 0: never.
	FreezeDeadline Duration `json:"freeze_deadline"`
	// ReadsConfirm: each read makes a round trip to a peer that began after the request arrived,
	// which covers a pause of the whole machine; a lease cannot (rule 4).
	ReadsConfirm bool `json:"reads_confirm"`
}

// FailoverMode says who promotes after a failure.
type FailoverMode string

// Failover modes.
const (
	FailoverAuto   FailoverMode = "auto"   // the coordinator
	FailoverManual FailoverMode = "manual" // an operator alone
)

// FencingMode says what must be proven before a recorded primary is replaced by another node.
type FencingMode string

// Fencing modes.
const (
	FencingLease   FencingMode = "lease"   // nothing: rules 1 to 5 keep the data right, its lease runs out
	FencingStonith FencingMode = "stonith" // a confirmed fence, which the coordinator asks for
	FencingManual  FencingMode = "manual"  // the same proof, but nobody is shot: an operator says that it is down
)

// NoQuorumMode says what a primary does with requests that it cannot carry out.
type NoQuorumMode string

// Modes without a quorum.
const (
	NoQuorumFreeze NoQuorumMode = "freeze"   // they wait
	NoQuorumError  NoQuorumMode = "io-error" // they are answered with EIO, once the ledger has not answered for PeerTimeout
)

// needsProof reports whether the policy lets another node take over only from a primary that is
// proven to be over.
func (p Policy) needsProof() bool { return p.Fencing == FencingStonith || p.Fencing == FencingManual }

// DefaultPolicy returns the policy that a zero Policy stands for.
func DefaultPolicy() Policy {
	return Policy{
		Lease:        300 * millisecond,
		PeerTimeout:  5 * second,
		ResyncImpact: 20,
		Failover:     FailoverAuto,
		Fencing:      FencingLease,
		OnNoQuorum:   NoQuorumFreeze,
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
	p.Failover = cmp.Or(p.Failover, d.Failover)
	p.Fencing = cmp.Or(p.Fencing, d.Fencing)
	p.OnNoQuorum = cmp.Or(p.OnNoQuorum, d.OnNoQuorum)
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
	between("freeze_deadline", p.FreezeDeadline, 100*millisecond, 24*3600*second)
	one(&f, "failover", p.Failover, FailoverAuto, FailoverManual)
	one(&f, "fencing", p.Fencing, FencingLease, FencingStonith, FencingManual)
	one(&f, "on_no_quorum", p.OnNoQuorum, NoQuorumFreeze, NoQuorumError)
	return f.err()
}

// one notes a mode that is neither the default, "", nor one of those known.
func one[T ~string](f *faults, name string, v T, known ...T) {
	if v != "" && !slices.Contains(known, v) {
		f.addf("%s %q is none of %v", name, clip(string(v)), known)
	}
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
