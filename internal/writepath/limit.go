package writepath

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// GroupLimit returns how many bytes of memory the control groups of this process allow it, and those that
// share them; MaxInt64 if none does limit it, or that cannot be told.
func GroupLimit() int64 { return groupLimit("/proc/self/cgroup", "/sys/fs/cgroup") }

// groupLimit reads the unified hierarchy (see cgroups(7)): the least limit on the way up counts.
func groupLimit(self, root string) int64 {
	least := int64(math.MaxInt64)
	text, err := os.ReadFile(self)
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(text)) {
		at, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		for {
			if b, err := os.ReadFile(filepath.Join(root, at, "memory.max")); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
					least = min(least, n)
				}
			}
			if at == "" || at == "." || strings.HasPrefix(at, "..") {
				break
			}
			at = filepath.Dir(at)
		}
	}
	return least
}
