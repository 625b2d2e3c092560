package nbd

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// Features are the optional commands and promises of an export.
type Features uint16

const (
	FeatureFlush       Features = 1 << iota // OpFlush
	FeatureFUA                              // FlagFUA
	FeatureTrim                             // OpTrim
	FeatureWriteZeroes                      // OpWriteZeroes
	FeatureFastZero                         // FlagFastZero: fail with EOPNOTSUPP what is no faster than a write
	FeatureCache                            // OpCache
	FeatureMultiConn                        // a flush on one connection covers what all had been answered
)

// FeaturesUsual is what a backend offers that knows every command but promises no fast zeroes.
const FeaturesUsual = FeatureFlush | FeatureFUA | FeatureTrim | FeatureWriteZeroes | FeatureCache | FeatureMultiConn

// BlockSize are an export's size constraints in bytes, proto.md "Block size constraints". Zero
// fields mean 1, 4096 and MaxPayload.
type BlockSize struct {
	Min       uint32 // power of two, 1 to 65536; offsets and lengths must be multiples
	Preferred uint32 // power of two, at least 512 and Min
	Max       uint32 // multiple of Min, at most MaxPayload; advice: up to MaxPayload is served
}

// Export is one device as a connection sees it. It stays as it is while connections use it:
// a resized device is a new Export, which later connections get.
type Export struct {
	Name        string // as List shows it; at most 4096 bytes
	Description string // for people; at most 4096 bytes
	Size        int64  // bytes
	BlockSize   BlockSize
	ReadOnly    bool
	Features    Features
	Backend     Backend
	// Gone, which may be nil, is called once when the connection that was bound to this Export has
	// ended: nothing of it will be submitted any more, and everything submitted is replied.
	Gone func()
}

func (e *Export) gone() {
	if e != nil && e.Gone != nil {
		e.Gone()
	}
}

// ExportInfo is an export as LIST shows it.
type ExportInfo struct {
	Name string
}

// Exports finds exports. Its methods are called from many goroutines at once.
type Exports interface {
	// Lookup returns the export that a client asks for; the empty name is the default export.
	// An *ErrNotServed tells the client why not; any other error is logged and shows to the
	// client as an unknown export. ctx ends with the time allowed for negotiation; ClientOf tells
	// who asks.
	Lookup(ctx context.Context, name string) (*Export, error)
	// List returns what clients may see.
	List() []ExportInfo
}

// NotServedKind tells a client's software what a refusal is about.
type NotServedKind uint8

const (
	NotServedUnknown    NotServedKind = iota // no such export: NBD_REP_ERR_UNKNOWN
	NotServedPolicy                          // not here, or not for this client: NBD_REP_ERR_POLICY
	NotServedShutdown                        // not any more, or not yet: NBD_REP_ERR_SHUTDOWN
	NotServedTLS                             // only within TLS: NBD_REP_ERR_TLS_REQD
	NotServedSuperseded                      // a registration that has ended, for good: 0x80004c53
)

// ErrNotServed is a refusal to serve an export.
type ErrNotServed struct {
	Kind   NotServedKind
	Reason string // shown to the user by the client, so it names the primary, or the next step
}

func (e *ErrNotServed) Error() string { return "export not served: " + e.Reason }

// reply returns the option reply that stands for k.
func (k NotServedKind) reply() uint32 {
	switch k {
	case NotServedPolicy:
		return repErrPolicy
	case NotServedShutdown:
		return repErrShutdown
	case NotServedTLS:
		return repErrTLSReqd
	case NotServedSuperseded:
		return repErrSuperseded
	}
	return repErrUnknown
}

// withDefaults returns e, with the zero fields of BlockSize filled in, or an error that lists
// what makes it impossible to serve.
func (e *Export) withDefaults() (*Export, error) {
	x := *e
	b := &x.BlockSize
	if b.Min == 0 {
		b.Min = 1
	}
	if b.Preferred == 0 {
		b.Preferred = max(4096, b.Min)
	}
	if b.Max == 0 {
		b.Max = MaxPayload
	}
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(x.Backend == nil, "no backend")
	fault(x.Size < 0, "size %d is negative", x.Size)
	fault(len(x.Name) > maxName, "name of %d bytes", len(x.Name))
	fault(len(x.Description) > maxName, "description of %d bytes", len(x.Description))
	fault(!powerOfTwo(b.Min) || b.Min > 64<<10, "minimum block size %d", b.Min)
	fault(!powerOfTwo(b.Preferred) || b.Preferred < max(512, b.Min), "preferred block size %d", b.Preferred)
	fault(b.Max < b.Preferred || b.Max > MaxPayload || b.Max%b.Min != 0, "maximum block size %d", b.Max)
	if len(faults) > 0 {
		return nil, fmt.Errorf("export %q: %w", x.Name, errors.Join(faults...))
	}
	// A tail shorter than the minimum block cannot be addressed.
	x.Size -= x.Size % int64(b.Min)
	return &x, nil
}

func powerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// transmissionFlags returns what the client may use, as proto.md encodes it.
func (e *Export) transmissionFlags() uint16 {
	flags := txHasFlags
	add := func(f Features, bit uint16) {
		if e.Features&f != 0 {
			flags |= bit
		}
	}
	add(FeatureFlush, txFlush)
	add(FeatureFUA, txFUA)
	add(FeatureCache, txCache)
	add(FeatureMultiConn, txMultiConn)
	if e.ReadOnly {
		return flags | txReadOnly
	}
	add(FeatureTrim, txTrim)
	add(FeatureWriteZeroes, txWriteZeroes)
	if e.Features&FeatureWriteZeroes != 0 {
		add(FeatureFastZero, txFastZero)
	}
	return flags
}

// contains reports whether the device has the length bytes from off on.
func (e *Export) contains(off uint64, length uint32) bool {
	return off <= math.MaxInt64 && int64(off) <= e.Size && int64(length) <= e.Size-int64(off)
}
