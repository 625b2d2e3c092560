package control

import (
	"context"
	"net/http"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// Examiner is the part of a Backend that says what a node knows of itself and of its ways to the
// others, and that carries out what a drill asks of it.
type Examiner interface {
	// Facts tells what this node knows of itself and its host, and measures its ways to the other
	// nodes, which takes up to a few seconds. What it cannot find out it leaves empty, and says why.
	Facts(ctx context.Context) (Facts, error)
	// LinkCheck measures the way to opts.Peer. It calls progress now and then with what is known so
	// far, and returns the whole. Ending ctx ends it. An error of progress ends it and is returned.
	LinkCheck(ctx context.Context, opts LinkOptions, progress func(LinkReport) error) (LinkReport, error)
	// Drill carries one order of a drill out on this node; see DrillOrder.
	Drill(ctx context.Context, order DrillOrder) (DrillAnswer, error)
}

// Facts are what one node knows of itself. They are for doctor, which judges them.
type Facts struct {
	Node       string         `json:"node"`
	Version    string         `json:"version"` // of its program
	Host       string         `json:"host"`    // name of its host
	Boot       string         `json:"boot"`    // boot id of its kernel: nodes that share one share the host
	Kernel     string         `json:"kernel"`
	Virtual    string         `json:"virtual"`    // VirtualYes, VirtualNo, or empty: cannot be told
	Supervisor string         `json:"supervisor"` // who starts the daemon again when it ends; empty: nobody is known to
	Timing     Timing         `json:"timing"`
	DataDir    Disk           `json:"data_dir"`
	Replicas   []ReplicaFacts `json:"replicas"`
	Peers      []PeerFacts    `json:"peers"`
	Fences     []string       `json:"fences"`   // nodes that this one has a way to turn off
	Watchdog   string         `json:"watchdog"` // what resets the host when the daemon hangs; empty: nothing
	WritePath  WritePath      `json:"write_path"`
	// Certificate is how this node proves who it is; nil: by a shared key.
	Certificate *CertificateFacts `json:"certificate,omitempty"`
}

// CertificateFacts are what a node knows of its certificate. Left is by its own clock, as it is the
// clocks of its peers, all about the same, by which it will be refused.
type CertificateFacts struct {
	Ends          time.Time     `json:"ends"`
	Left          time.Duration `json:"left_ns"`
	Due           bool          `json:"due"`               // it should have been renewed
	Problem       string        `json:"problem,omitempty"` // why it was not, as far as that is known
	AuthorityEnds time.Time     `json:"authority_ends"`
	AuthorityLeft time.Duration `json:"authority_left_ns"`
	Signs         bool          `json:"signs"` // it holds the authority's key
}

// WritePath is how fit a daemon is to serve the write-back of its own host when memory is short.
type WritePath struct {
	Lacks   []WriteLack `json:"lacks"`
	Off     []string    `json:"off"`               // the settings of [memory] that are off
	Unknown string      `json:"unknown,omitempty"` // why it cannot be told
}

// WriteLack is something that the node file wants for the write path and that is not so.
type WriteLack struct {
	What string `json:"what"` // in plain words
	Next string `json:"next"` // what to do about it
}

// Values of Facts.Virtual.
const (
	VirtualYes = "yes" // below this kernel there is a hypervisor, which can pause it
	VirtualNo  = "no"
)

// Timing is what of a node's timing a link has to keep up with.
type Timing struct {
	Preset         string        `json:"preset"` // lan or wan
	BeaconInterval time.Duration `json:"beacon_interval_ns"`
	Lease          time.Duration `json:"lease_ns"`
	DriftMargin    int           `json:"drift_margin"` // percent of the lease
}

// Disk is where a path lies, as far as the kernel tells.
type Disk struct {
	Path       string   `json:"path"`
	FileSystem string   `json:"file_system"` // its type; empty for a block device
	Device     string   `json:"device"`      // nvme0n1p2; empty: not known
	Disks      []string `json:"disks"`       // the whole disks below, nvme0n1; empty: not known
	WriteCache string   `json:"write_cache"` // CacheVolatile, CacheNone, or empty: not known
	InMemory   bool     `json:"in_memory"`   // a file system that a loss of power empties
	Sparse     bool     `json:"sparse"`      // a file that may still grow into its file system
	MissBytes  int64    `json:"miss_bytes"`  // of a sparse file: what it has not taken yet
	FreeBytes  int64    `json:"free_bytes"`  // that the daemon may still take from the file system
	TotalBytes int64    `json:"total_bytes"` // of the file system
	Unknown    string   `json:"unknown,omitempty"`
}

// Values of Disk.WriteCache, as the kernel knows them: it does not see what a disk hides.
const (
	CacheVolatile = "volatile" // flushes are sent, and needed
	CacheNone     = "none"     // what was written is stable
)

// ReplicaFacts are what a node knows of its replica of one resource.
type ReplicaFacts struct {
	Resource  string `json:"resource"`
	Open      bool   `json:"open"`
	Fault     string `json:"fault,omitempty"` // why it is not open
	DiskState string `json:"disk_state"`
	Unclean   bool   `json:"unclean"` // its host went down since it was last known to hold everything
	Data      Disk   `json:"data"`
	Meta      Disk   `json:"meta"`
	// Services follow the primary, in the order of starting.
	Services []ServiceFacts `json:"services"`
}

// ServiceFacts are what a node finds out about a service without starting it.
type ServiceFacts struct {
	Name    string       `json:"service"` // kind, target and options
	Kind    service.Kind `json:"kind"`
	AtBoot  bool         `json:"at_boot"`           // systemd starts it at boot
	Problem string       `json:"problem,omitempty"` // what would hinder a start; empty: nothing that can be told
}

// PeerFacts are what a node finds on its way to another one.
type PeerFacts struct {
	Node      string        `json:"node"`
	Addr      string        `json:"addr"`      // of the other node's transport
	Gossip    string        `json:"gossip"`    // of its membership gossip
	Problem   string        `json:"problem"`   // why it was not reached; empty: it was
	Interface string        `json:"interface"` // by which it is reached; empty: not known
	Loopback  bool          `json:"loopback"`  // the interface is this host's own
	Members   int           `json:"members"`   // links that a bond joins; 0: it is no bond
	RTT       time.Duration `json:"rtt_ns"`    // the shortest of several
	// ClockAhead is how far the other node's clock is ahead of this one's, ClockError how wrong that
	// may be: half of RTT.
	ClockAhead time.Duration `json:"clock_ahead_ns"`
	ClockError time.Duration `json:"clock_error_ns"`
}

func (s *Server) examinerRoutes() {
	s.mux.HandleFunc("GET /v1/facts", s.facts)
	s.mux.HandleFunc("POST /v1/link-check", s.linkCheck)
	s.mux.HandleFunc("POST /v1/drill", s.drill)
}

func (s *Server) facts(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, "", nil, func(ctx context.Context, _ string) (any, error) {
		f, err := s.opts.Backend.Facts(ctx)
		f.normalize()
		return f, err
	})
}

// normalize makes lists empty rather than null, as that of Status does.
func (f *Facts) normalize() {
	lists := []*[]string{&f.Fences, &f.DataDir.Disks, &f.WritePath.Off}
	if f.WritePath.Lacks == nil {
		f.WritePath.Lacks = []WriteLack{}
	}
	if f.Replicas == nil {
		f.Replicas = []ReplicaFacts{}
	}
	if f.Peers == nil {
		f.Peers = []PeerFacts{}
	}
	for i := range f.Replicas {
		lists = append(lists, &f.Replicas[i].Data.Disks, &f.Replicas[i].Meta.Disks)
		if f.Replicas[i].Services == nil {
			f.Replicas[i].Services = []ServiceFacts{}
		}
	}
	for _, l := range lists {
		if *l == nil {
			*l = []string{}
		}
	}
}

// Facts asks the target node for its facts; see Examiner.
func (c *Client) Facts(ctx context.Context) (Facts, error) {
	var f Facts
	err := c.call(ctx, http.MethodGet, "/v1/facts", nil, nil, &f)
	return f, err
}
