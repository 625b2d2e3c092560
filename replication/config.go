package replication

import (
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// Config is what a Resource is made with. It does not change.
type Config struct {
	Resource   string
	ResourceID uint64
	Node       string
	Instance   uint64 // of this replica
	Boot       string // kernel boot id
	Process    uint64 // fresh for each start of the daemon
	Peers      []string

	LogicalBlock   int64         // bytes: sub-block writes are read-modify-write below; 1 where they are not
	Regions        int           // capacity of the activity log; 0: bitmap.DefaultRegions
	BeaconInterval time.Duration // 0: 100 ms
	Lease          time.Duration // 0: 300 ms
	MaxLease       time.Duration // longest lease the ledger allows; 0: Lease
	DriftPercent   int           // clocks may differ by this in rate; 0: 10
	PeerTimeout    time.Duration // silence after which a session is given up; 0: 2 s
	StallTimeout   time.Duration // a connected peer that completes nothing is given up; 0: 10 s
	DiskTimeout    time.Duration // a local I/O that takes longer means a hung disk; 0: 30 s
	DropGrace      time.Duration // time for a broken session to come back before a Drop; 0: 100 ms
	StopTimeout    time.Duration // time for started requests to finish at a stop; 0: 3 s
	Window         int64         // bytes on their way to a peer that does not count, before writes wait for it; 0: 16 MiB
	LatencyPercent int           // resync may raise the latency of writes by this; 0: 20
	ConfirmReads   bool          // a read is answered after a round trip to every counting member begun after it came
	NewID          func() uint64 // source of session ids and hash keys; must be unpredictable
}

// Stored is what the replica remembered when its process started.
type Stored struct {
	Meta
	Clean   bool                 // stopped cleanly
	Active  []bitmap.RegionIndex // activity log as found
	LogSeq  uint64               // how often the stored activity log was changed; never falls
	Bitmaps []*bitmap.Bitmap     // per Peer; nil: empty. The core takes them over
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.BeaconInterval, 100*time.Millisecond)
	def(&c.Lease, 300*time.Millisecond)
	def(&c.MaxLease, c.Lease)
	def(&c.PeerTimeout, 2*time.Second)
	def(&c.StallTimeout, 10*time.Second)
	def(&c.DiskTimeout, 30*time.Second)
	def(&c.DropGrace, 100*time.Millisecond)
	def(&c.StopTimeout, 3*time.Second)
	if c.DriftPercent == 0 {
		c.DriftPercent = 10
	}
	if c.Window == 0 {
		c.Window = 16 << 20
	}
	if c.LatencyPercent == 0 {
		c.LatencyPercent = 20
	}
	if c.Regions == 0 {
		c.Regions = bitmap.DefaultRegions
	}
	if c.LogicalBlock == 0 {
		c.LogicalBlock = 1
	}
	return c
}
