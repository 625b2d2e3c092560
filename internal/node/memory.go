package node

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/writepath"
)

const (
	memoryBase      = 256 << 20 // bytes of the process without any replica, generously
	memoryPerWindow = 8         // payloads, frames, pooled buffers and queues, as multiples of a window
)

// memoryNeed is what so many replicas may take at most, in bytes; MaxInt64 if that is beyond counting.
func memoryNeed(replicas int, window int64) int64 {
	per := memoryPerWindow * window
	if replicas > 0 && per > (math.MaxInt64-memoryBase)/int64(replicas) {
		return math.MaxInt64
	}
	return memoryBase + int64(replicas)*per
}

// memoryLimit is the soft limit of the Go heap: what the node file says, else what is needed. Of what a
// control group allows a tenth is left for stacks, for the program and for the kernel's part.
func memoryLimit(need, written, group int64) int64 {
	limit := need
	if written > 0 {
		limit = written
	}
	if group != math.MaxInt64 {
		limit = min(limit, group/10*9)
	}
	return limit
}

// limitMemory sets the soft limit of the Go heap for so many replicas, and says what it is. Payload buffers
// are pooled and come and go with the load; near the limit the collector works more rather than let them
// grow. An operator's GOMEMLIMIT goes first.
func limitMemory(cfg config.Node, replicas int, group int64, log *slog.Logger) {
	need := memoryNeed(replicas, int64(cfg.Window))
	limit := memoryLimit(need, int64(cfg.Memory.Limit), group)
	from := "memory limit"
	if os.Getenv("GOMEMLIMIT") != "" {
		limit, from = debug.SetMemoryLimit(-1), "memory limit of GOMEMLIMIT"
	} else {
		debug.SetMemoryLimit(limit)
	}
	log.Info(from, "limit", config.Size(limit), "need", config.Size(need), "replicas", replicas, "window", cfg.Window)
	if group < need {
		log.Warn("the control group allows less memory than the windows may need", "allowed", config.Size(group), "need", config.Size(need))
	}
}

// writePathOptions are what the node file wants of package writepath.
func writePathOptions(m config.Memory) writepath.Options {
	return writepath.Options{IOFlusher: m.IOFlusher, Lock: m.Lock, Spare: m.OOMProtect}
}

// EnterWritePath makes this process fit for the write path of its own host, as the node file wants it, and
// says what the host does not allow. It is called before anything else of the daemon.
func EnterWritePath(cfg config.Node, log *slog.Logger) {
	for _, l := range writepath.Enter(writePathOptions(cfg.Memory)) {
		log.Warn("not protected under memory pressure", "what", l.What, "err", l.Err, "next", l.Next)
	}
}

// writePathFacts tells how this process stands now, beside what its file wants.
func writePathFacts(m config.Memory) control.WritePath {
	var f control.WritePath
	for _, x := range []struct {
		key string
		on  bool
	}{{"io_flusher", m.IOFlusher}, {"lock", m.Lock}, {"oom_protect", m.OOMProtect}} {
		if !x.on {
			f.Off = append(f.Off, x.key)
		}
	}
	s, err := writepath.Look()
	if err != nil {
		f.Unknown = err.Error()
		return f
	}
	for _, l := range s.Lacks(writePathOptions(m)) {
		f.Lacks = append(f.Lacks, control.WriteLack{What: l.What, Next: l.Next})
	}
	return f
}
