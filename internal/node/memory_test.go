package node

import (
	"math"
	"slices"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
)

func TestMemoryLimit_FollowsTheWindowsUnlessTheFileOrTheControlGroupSaysLess(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name                string
		replicas            int
		window              int64
		written, group      int64
		wantNeed, wantLimit int64
	}{
		{"no replica", 0, 16 * mib, 0, math.MaxInt64, 256 * mib, 256 * mib},
		{"three", 3, 16 * mib, 0, math.MaxInt64, 640 * mib, 640 * mib},
		{"the file goes first", 3, 16 * mib, 200 * mib, math.MaxInt64, 640 * mib, 200 * mib},
		{"a control group that is large enough", 3, 16 * mib, 0, 1000 * mib, 640 * mib, 640 * mib},
		{"a control group that is not", 3, 16 * mib, 0, 500 * mib, 640 * mib, 450 * mib},
		{"the file wants more than the control group", 3, 16 * mib, 800 * mib, 500 * mib, 640 * mib, 450 * mib},
		{"beyond counting", math.MaxInt32, 1 << 40, 0, math.MaxInt64, math.MaxInt64, math.MaxInt64},
	} {
		need := memoryNeed(tc.replicas, tc.window)
		if limit := memoryLimit(need, tc.written, tc.group); need != tc.wantNeed || limit != tc.wantLimit {
			t.Errorf("%s: need %d, limit %d, want %d and %d", tc.name, need, limit, tc.wantNeed, tc.wantLimit)
		}
	}
}

func TestWritePathFacts_TellWhatTheFileWantsAndWhatIsSo(t *testing.T) {
	f := writePathFacts(config.Memory{})
	if !slices.Equal(f.Off, []string{"io_flusher", "lock", "oom_protect"}) || len(f.Lacks) != 0 {
		t.Errorf("nothing wanted: %+v", f)
	}
	// This process has not entered the write path, so at least its memory is not locked.
	if f = writePathFacts(config.Memory{Lock: true}); len(f.Lacks) != 1 || len(f.Off) != 2 {
		t.Errorf("locked memory wanted: %+v", f)
	}
}
