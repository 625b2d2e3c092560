package config

import (
	"path/filepath"
	"time"
)

// Compression names what frames between nodes are compressed with.
type Compression string

// The values of Compression.
const (
	CompressNone Compression = "none"
	CompressS2   Compression = "s2"   // fast; pays on networks below about 10 Gbit/s
	CompressZstd Compression = "zstd" // smaller and slower; pays below about 1 Gbit/s
)

// LabBootEnv is set by a lab for a node that was turned off: a number that makes a boot of its own out of
// the machine's one, which all nodes of a lab share. Nobody else sets it.
const LabBootEnv = "LOCKSTEP_LAB_BOOT"

// Node is everything one daemon is told at its start. Field order is the order of the file.
type Node struct {
	// Name of this node; one of the [[node]] entries has the same. Required.
	Name string `toml:"name"`
	// Cluster is the same on all nodes; nodes of different clusters refuse each other. Required.
	Cluster string `toml:"cluster"`
	// DataDir holds the ledger and, unless said otherwise, the sockets. Default /var/lib/lockstep.
	DataDir string `toml:"data_dir"`
	// ControlSocket is the unix socket of the operator's API, mode 0600. Default (when empty):
	// control.sock in DataDir.
	ControlSocket string `toml:"control_socket"`

	// Listen is the TCP address for the other nodes. Port 0 takes a free port, which no peer can
	// know: for tests only. Default 127.0.0.1:7780.
	Listen string `toml:"listen"`
	// GossipListen is the TCP and UDP address for membership. Default 127.0.0.1:7781.
	GossipListen string `toml:"gossip_listen"`
	// NBDUnix is the unix socket for block device clients, mode 0600. Default (when empty):
	// nbd.sock in DataDir.
	NBDUnix string `toml:"nbd_unix"`
	// NBDListen is a TCP address for block device clients. Default: empty, which means none.
	NBDListen string `toml:"nbd_listen"`
	// HealthListen is a TCP address for those that lead clients to the primary: GET /primary/RESOURCE.
	// Default: empty, which means none.
	HealthListen string `toml:"health_listen"`
	// AllowNetwork permits listeners and peers outside the loopback interface that are not encrypted:
	// set it only where the network in between is trusted. Default false.
	AllowNetwork bool `toml:"allow_network"`

	// PKIDir holds this node's certificate and the authorities that it believes; then all links
	// between nodes are TLS, except where ReplicationTLS says otherwise. `lockstep cluster init` and
	// `join` make it. Default: empty, which means that nodes know each other by the key alone, and
	// that nothing between them but gossip is encrypted.
	PKIDir string `toml:"pki_dir"`
	// ReplicationTLS encrypts what replicas send each other. false is for a link that nobody else is
	// on: both ends still prove who they are. The same on all nodes. Default true; needs PKIDir.
	ReplicationTLS bool `toml:"replication_tls"`
	// NBDTLS is what NBDListen asks of clients: required, allowed or off. Default: empty, which with
	// PKIDir means required off the loopback interface and allowed on it, and without it off.
	NBDTLS string `toml:"nbd_tls"`
	// NBDClientCerts is require when clients need a certificate of the cluster. Default: empty, which
	// means that they may have one.
	NBDClientCerts string `toml:"nbd_client_certs"`

	// Key is the cluster's shared secret, 32 bytes as base64; the file must then have mode 0600. With
	// PKIDir it protects the gossip alone.
	// One of Key and KeyFile is required; Load fills Key from KeyFile.
	Key Key `toml:"key"`
	// KeyFile names a file of mode 0600 that holds the key as base64.
	KeyFile string `toml:"key_file"`

	// Witness makes a node that votes and holds no data. Default false.
	Witness bool `toml:"witness"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `toml:"log_level"`

	// Compression of frames between nodes: none, s2 or zstd. Default none.
	Compression Compression `toml:"compression"`
	// DirectIO opens the backing of new replicas with O_DIRECT. Default false: page cache.
	DirectIO bool `toml:"direct_io"`
	// DiskTimeout is how long one operation on the backing device may take before the replica
	// counts as failed until its process is gone. 100 ms to 24 h. Default 30 s.
	DiskTimeout time.Duration `toml:"disk_timeout"`
	// StallTimeout is how long a connected peer may complete nothing of what it was sent before
	// it leaves the in-sync set. 100 ms to 24 h. Default 10 s.
	StallTimeout time.Duration `toml:"stall_timeout"`
	// Window is the most payload in flight per resource, in bytes; beyond it clients wait.
	// At least 1 MiB, at most 1 GiB. Default 16 MiB.
	Window Size `toml:"window"`
	// ResyncLatency is how much a resync may raise the latency of applications, in percent,
	// 1 to 1000; the rate follows from it. Default 20.
	ResyncLatency int `toml:"resync_latency"`
	// ActivityLogRegions is how many regions of 4 MiB may be hot at once, 16 to 65536: more of
	// them mean fewer metadata writes and a longer resync after a crash. Default 1237.
	ActivityLogRegions int `toml:"activity_log_regions"`

	// Timing names the preset that the five settings below come from where the file does not
	// set them: lan or wan. Default lan.
	Timing string `toml:"timing"`
	// BeaconInterval is the time between two beacons to each peer. 0 is refused.
	// lan 100 ms, wan 500 ms.
	BeaconInterval time.Duration `toml:"beacon_interval"`
	// Lease is how long a primary may serve after the last beacon that all counting members
	// acknowledged; a failover waits it out. At least 50 ms and two beacon intervals, at most 1 min.
	// lan 300 ms, wan 2 s.
	Lease time.Duration `toml:"lease"`
	// PeerTimeout is the silence after which a session with a peer is given up. At least
	// 100 ms and two beacon intervals, at most 1 min. lan 2 s, wan 10 s.
	PeerTimeout time.Duration `toml:"peer_timeout"`
	// DropGrace is how long a primary whose session broke holds writes for the peer to come
	// back, before it proposes to drop it. 0 proposes at once. At most 1 min.
	// lan 100 ms, wan 1 s.
	DropGrace time.Duration `toml:"drop_grace"`
	// DriftMargin is how much two clocks may differ in rate, in percent of the lease, 1 to 50.
	// Default 10 in both presets.
	DriftMargin int `toml:"drift_margin"`

	// Nodes lists every node of the cluster, this one too, in the same way on all of them.
	Nodes []Peer `toml:"node"`

	// Fences are the devices that can turn nodes off, sorted by name: the sections [fence.NAME].
	Fences []Fence `toml:"fence"`
	// Fencing says which of them turn which node off: the section [fencing].
	Fencing Fencing `toml:"fencing"`
	// Watchdog of this node: the section [watchdog].
	Watchdog Watchdog `toml:"watchdog"`
	// Memory of the daemon: the section [memory].
	Memory Memory `toml:"memory"`
}

// Peer is one [[node]] entry.
type Peer struct {
	// Name of the node. Required.
	Name string `toml:"name"`
	// Addr is where the others reach its Listen, host:port. Required.
	Addr string `toml:"addr"`
	// Gossip is where the others reach its GossipListen, host:port. Required.
	Gossip string `toml:"gossip"`
	// Witness says that the node votes and holds no data. Default false.
	Witness bool `toml:"witness"`
}

// DefaultNode returns a Node with every default set and nothing that is required.
func DefaultNode() Node {
	n := Node{
		DataDir:            "/var/lib/lockstep",
		Listen:             "127.0.0.1:7780",
		GossipListen:       "127.0.0.1:7781",
		LogLevel:           "info",
		Compression:        CompressNone,
		DiskTimeout:        30 * time.Second,
		StallTimeout:       10 * time.Second,
		Window:             16 * MiB,
		ResyncLatency:      20,
		ActivityLogRegions: 1237,
		Timing:             "lan",
		ReplicationTLS:     true,
		Fencing:            defaultFencing(),
		Memory:             defaultMemory(),
	}
	n.applyTiming()
	return n
}

// applyTiming sets the five timing fields from the preset that Timing names. It reports whether
// there is such a preset.
func (n *Node) applyTiming() bool {
	n.DriftMargin = 10
	switch n.Timing {
	case "lan":
		n.BeaconInterval = 100 * time.Millisecond
		n.Lease = 300 * time.Millisecond
		n.PeerTimeout = 2 * time.Second
		n.DropGrace = 100 * time.Millisecond
	case "wan":
		n.BeaconInterval = 500 * time.Millisecond
		n.Lease = 2 * time.Second
		n.PeerTimeout = 10 * time.Second
		n.DropGrace = time.Second
	default:
		return false
	}
	return true
}

// ApplyTiming sets the five timing settings to those of the preset that Timing names. A preset that
// does not exist changes nothing; Validate refuses it.
func (n *Node) ApplyTiming() { n.applyTiming() }

// Resolve makes the paths of n absolute, counting relative ones from dir, and fills in the socket
// paths that follow from DataDir. Load does it; whoever builds a Node in Go calls it once.
func (n *Node) Resolve(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if n.ControlSocket == "" {
		n.ControlSocket = filepath.Join(n.DataDir, "control.sock")
	}
	if n.NBDUnix == "" {
		n.NBDUnix = filepath.Join(n.DataDir, "nbd.sock")
	}
	for _, p := range []*string{&n.DataDir, &n.ControlSocket, &n.NBDUnix, &n.KeyFile, &n.PKIDir} {
		abs(p)
	}
	n.resolveFencing(abs)
}

// Self returns the [[node]] entry of this node. It reports false when there is none, which
// Validate refuses.
func (n *Node) Self() (Peer, bool) {
	for _, p := range n.Nodes {
		if p.Name == n.Name {
			return p, true
		}
	}
	return Peer{}, false
}

// Peers returns the entries of the other nodes, in the order of the file.
func (n *Node) Peers() []Peer {
	var out []Peer
	for _, p := range n.Nodes {
		if p.Name != n.Name {
			out = append(out, p)
		}
	}
	return out
}
