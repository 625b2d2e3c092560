package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// maxSocketPath is the longest path of a unix socket in bytes (sun_path less its final zero).
const maxSocketPath = 107

// maxNodes bounds the cluster: every node votes or may vote.
const maxNodes = 32

// Validate judges a Node that was built in Go and resolved. It returns nil or all Faults at once.
func (n *Node) Validate() error { return n.validate().err() }

func (n *Node) validate() Faults {
	var fs Faults
	n.validateIdentity(&fs)
	n.validateAddresses(&fs)
	n.validateTLS(&fs)
	n.validateIO(&fs)
	n.validateTiming(&fs)
	n.validateNodes(&fs)
	n.validateFencing(&fs)
	n.validateMemory(&fs)
	return fs
}

func (n *Node) validateIdentity(fs *Faults) {
	if n.Name == "" {
		fs.add("name", "name is missing: the name of this node")
	} else if err := CheckName("node", n.Name); err != nil {
		fs.add("name", "name: %v", err)
	}
	if n.Cluster == "" {
		fs.add("cluster", "cluster is missing: a name that is the same on all nodes")
	} else if err := CheckName("cluster", n.Cluster); err != nil {
		fs.add("cluster", "cluster: %v", err)
	}
	if !filepath.IsAbs(n.DataDir) {
		fs.add("data_dir", "data_dir %q is not an absolute path", n.DataDir)
	}
	switch {
	case n.Key.IsZero() && n.KeyFile == "":
		fs.add("key", "key and key_file are both missing; make a key with: head -c 32 /dev/urandom | base64")
	case n.Key.IsZero():
		fs.add("key_file", "key_file was not read")
	}
	oneOf(fs, "log_level", n.LogLevel, "debug", "info", "warn", "error")
}

func (n *Node) validateAddresses(fs *Faults) {
	for _, s := range []struct{ key, path string }{{"control_socket", n.ControlSocket}, {"nbd_unix", n.NBDUnix}} {
		switch {
		case !filepath.IsAbs(s.path):
			fs.add(s.key, "%s %q is not an absolute path", s.key, s.path)
		case len(s.path) > maxSocketPath:
			fs.add(s.key, "%s is %d bytes long; a unix socket's path has at most %d", s.key, len(s.path), maxSocketPath)
		}
	}
	if n.ControlSocket == n.NBDUnix {
		fs.add("nbd_unix", "nbd_unix and control_socket are the same path")
	}
	listeners := []struct{ key, addr string }{
		{"listen", n.Listen}, {"gossip_listen", n.GossipListen}, {"nbd_listen", n.NBDListen},
		{"health_listen", n.HealthListen},
	}
	seen := map[string]string{}
	for _, l := range listeners {
		if l.addr == "" && (l.key == "nbd_listen" || l.key == "health_listen") {
			continue
		}
		n.checkAddr(fs, l.key, l.addr, "listener")
		if other, dup := seen[l.addr]; dup && !portIsZero(l.addr) {
			fs.add(l.key, "%s and %s are the same address", l.key, other)
		}
		seen[l.addr] = l.key
	}
}

// checkAddr judges host:port and refuses what is not loopback unless AllowNetwork is set.
func (n *Node) checkAddr(fs *Faults, key, addr, what string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		fs.add(key, "%s %q is no address; write host:port, for example 127.0.0.1:7780", key, addr)
		return
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 && what == "peer" {
		fs.add(key, "%s %q: %q is no port number", key, addr, port)
		return
	}
	if host == "" && what == "peer" {
		fs.add(key, "%s %q names no host", key, addr)
		return
	}
	if n.AllowNetwork || isLoopback(host) || n.protects(key) {
		return
	}
	if n.PKIDir != "" {
		fs.add(key, "%s %q is not on the loopback interface, and what is said there is not encrypted; set allow_network = true where the network is trusted", key, addr)
		return
	}
	fs.add(key, "%s %q is not on the loopback interface, and traffic is authenticated but not encrypted: who is on that network can read the device's data; set allow_network = true where the network is trusted, or form the cluster with: lockstep cluster init", key, addr)
}

// isLoopback reports whether host can only be this machine. A name other than localhost may
// resolve to anything.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func portIsZero(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	return err == nil && port == "0"
}

func (n *Node) validateIO(fs *Faults) {
	oneOf(fs, "compression", string(n.Compression), string(CompressNone), string(CompressS2), string(CompressZstd))
	inRange(fs, "window", n.Window, MiB, GiB)
	inRange(fs, "resync_latency", n.ResyncLatency, 1, 1000)
	inRange(fs, "activity_log_regions", n.ActivityLogRegions, 16, 65536)
	inRange(fs, "disk_timeout", n.DiskTimeout, 100*time.Millisecond, 24*time.Hour)
	inRange(fs, "stall_timeout", n.StallTimeout, 100*time.Millisecond, 24*time.Hour)
}

func (n *Node) validateTiming(fs *Faults) {
	oneOf(fs, "timing", n.Timing, "lan", "wan")
	inRange(fs, "beacon_interval", n.BeaconInterval, time.Millisecond, 10*time.Second)
	inRange(fs, "lease", n.Lease, 50*time.Millisecond, time.Minute)
	inRange(fs, "peer_timeout", n.PeerTimeout, 100*time.Millisecond, time.Minute)
	inRange(fs, "drop_grace", n.DropGrace, 0, time.Minute)
	inRange(fs, "drift_margin", n.DriftMargin, 1, 50)
	for _, d := range []struct {
		key string
		v   time.Duration
	}{{"lease", n.Lease}, {"peer_timeout", n.PeerTimeout}} {
		if d.v < 2*n.BeaconInterval {
			fs.add(d.key, "%s is %v, less than two beacon intervals (%v): one lost beacon would count as a dead peer", d.key, d.v, 2*n.BeaconInterval)
		}
	}
}

func (n *Node) validateNodes(fs *Faults) {
	if len(n.Nodes) == 0 {
		fs.add("node", "no [[node]] entry: list every node of the cluster, this one too")
		return
	}
	if len(n.Nodes) > maxNodes {
		fs.add("node", "%d nodes; at most %d are supported", len(n.Nodes), maxNodes)
	}
	names, addrs := map[string]int{}, map[string]string{}
	data := 0
	for i, p := range n.Nodes {
		key := fmt.Sprintf("node[%d]", i)
		if err := CheckName("node", p.Name); err != nil {
			fs.add(key+".name", "%s.name: %v", key, err)
		} else if j, dup := names[p.Name]; dup {
			fs.add(key+".name", "%s.name: node %q is listed twice, first as node[%d]", key, p.Name, j)
		} else {
			names[p.Name] = i
		}
		for _, a := range []struct{ key, addr string }{{key + ".addr", p.Addr}, {key + ".gossip", p.Gossip}} {
			if a.addr == "" {
				fs.add(a.key, "%s is missing: where the other nodes reach it, host:port", a.key)
				continue
			}
			n.checkAddr(fs, a.key, a.addr, "peer")
			if other, dup := addrs[a.addr]; dup {
				fs.add(a.key, "%s and %s are the same address", a.key, other)
			}
			addrs[a.addr] = a.key
		}
		if !p.Witness {
			data++
		}
		if p.Name == n.Name && p.Witness != n.Witness {
			fs.add(key+".witness", "%s.witness is %v and witness is %v: both speak of this node", key, p.Witness, n.Witness)
		}
	}
	if data == 0 {
		fs.add("node", "all nodes are witnesses: nobody holds data")
	}
	if _, ok := names[n.Name]; !ok && n.Name != "" {
		fs.add("name", "no [[node]] entry is named %q", n.Name)
	}
}

// oneOf adds a fault unless v is among allowed.
func oneOf(fs *Faults, key, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		fs.add(key, "%s %q is none of %q", key, v, allowed)
	}
}

// inRange adds a fault unless lo <= v <= hi.
func inRange[T int | Size | time.Duration](fs *Faults, key string, v, lo, hi T) {
	if v < lo || v > hi {
		fs.add(key, "%s is %v; it lies between %v and %v", key, v, lo, hi)
	}
}
