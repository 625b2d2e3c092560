package config

import (
	"bytes"
	"fmt"
)

// Memory is the [memory] section: how the daemon is kept fit to serve the write-back of its own host.
// What the host does not allow is a warning, never a reason not to start.
type Memory struct {
	// Lock keeps the daemon's memory from being taken away. Default true; labs: false.
	Lock bool `toml:"lock"`
	// IOFlusher keeps the daemon's allocations from waiting for write-back, which may be to itself. Default
	// true; labs: false.
	IOFlusher bool `toml:"io_flusher"`
	// OOMProtect has the OOM killer take other processes first. Default true; labs: false.
	OOMProtect bool `toml:"oom_protect"`
	// Limit is how far the heap may grow before the garbage collector works harder, at least 128 MiB.
	// Default (0): what the windows of the replicas on this node add up to. The variable GOMEMLIMIT goes
	// before either.
	Limit Size `toml:"limit"`
}

// minMemoryLimit is the least Limit: with less, the collector would be at work all the time.
const minMemoryLimit = 128 * MiB

func defaultMemory() Memory { return Memory{Lock: true, IOFlusher: true, OOMProtect: true} }

func (n *Node) validateMemory(fs *Faults) {
	if m := n.Memory.Limit; m != 0 && m < minMemoryLimit {
		fs.add("memory.limit", "memory.limit is %v; it is 0, which leaves it to the windows, or at least %v", m, Size(minMemoryLimit))
	}
}

// encodeMemory writes the section, if it differs from the default.
func (n *Node) encodeMemory(b *bytes.Buffer) {
	m, def := n.Memory, defaultMemory()
	if m == def {
		return
	}
	b.WriteString("\n[memory]\n")
	for _, x := range []struct {
		key       string
		value, is any
	}{
		{"lock", m.Lock, def.Lock}, {"io_flusher", m.IOFlusher, def.IOFlusher}, {"oom_protect", m.OOMProtect, def.OOMProtect},
		{"limit", m.Limit, def.Limit},
	} {
		if x.value != x.is {
			fmt.Fprintf(b, "%s = %s\n", x.key, encodeValue(x.value))
		}
	}
}
