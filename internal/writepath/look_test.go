package writepath

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// write makes files below a new directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	flagged   = "7 (a) b (c) S 1 7 7 0 -1 5767488 0 0\n" // 0x580140
	unflagged = "8 (lockstep) S 1 7 7 0 -1 4194624 0 0\n"
	half      = "9 (lockstep) S 1 7 7 0 -1 4718912 0 0\n" // NOIO alone
)

func TestLook_EachThreadHasToHaveTheFlag(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  State
	}{
		{"all", map[string]string{"task/7/stat": flagged, "status": "Name:\tx\nVmLck:\t     128 kB\n", "oom_score_adj": "-1000\n"}, State{true, true, -1000}},
		{"one without", map[string]string{"task/7/stat": flagged, "task/8/stat": unflagged, "status": "VmLck:\t       0 kB\n", "oom_score_adj": "0\n"}, State{}},
		{"one with half of it", map[string]string{"task/7/stat": flagged, "task/9/stat": half, "status": "VmLck:\t       0 kB\n", "oom_score_adj": "-17\n"}, State{Score: -17}},
	} {
		if got, err := lookAt(write(t, tc.files)); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v, want %+v", tc.name, got, err, tc.want)
		}
	}
	for _, files := range []map[string]string{
		{"task/7/stat": "7 (x", "status": "VmLck: 0 kB\n", "oom_score_adj": "0"},
		{"task/7/stat": flagged, "status": "Name: x\n", "oom_score_adj": "0"},
		{"task/7/stat": flagged, "status": "VmLck: 0 kB\n", "oom_score_adj": "none"},
		{"status": "VmLck: 0 kB\n", "oom_score_adj": "0"},
	} {
		if s, err := lookAt(write(t, files)); err == nil {
			t.Errorf("%v: %+v without an error", files, s)
		}
	}
}

func TestState_LacksWhatIsWantedAndNotSo(t *testing.T) {
	for _, tc := range []struct {
		state State
		want  Options
		lacks int
	}{
		{State{}, All(), 3},
		{State{}, Options{}, 0},
		{State{true, true, leastScore}, All(), 0},
		{State{Score: -500}, Options{Spare: true}, 1},
		{State{IOFlusher: true}, Options{IOFlusher: true, Lock: true}, 1},
	} {
		if got := tc.state.Lacks(tc.want); len(got) != tc.lacks {
			t.Errorf("%+v, wanted %+v: %v", tc.state, tc.want, got)
		}
	}
}

func TestMapped_FindsTheReadableRangesOfTheProgram(t *testing.T) {
	const maps = `00400000-00a00000 r-xp 00000000 fd:01 12 /opt/a b/lockstep
00a00000-01200000 r--p 00600000 fd:01 12                         /opt/a b/lockstep
01200000-01300000 ---p 00e00000 fd:01 12                         /opt/a b/lockstep
c000000000-c000400000 rw-p 00000000 00:00 0
7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]
7f001000-7f002000 r-xp 00000000 fd:01 13                         /opt/a
`
	want := []span{{0x400000, 0xa00000}, {0xa00000, 0x1200000}}
	if got := mapped(maps, "/opt/a b/lockstep"); !reflect.DeepEqual(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestGroupLimit_TheLeastOnTheWayUpCounts(t *testing.T) {
	root := write(t, map[string]string{
		"self": "1:name=systemd:/x\n0::/system.slice/lockstep-node.service\n", "bad": "0::/../../etc\n", "v1": "3:memory:/x\n",
		"cg/memory.max": "max\n", "cg/system.slice/memory.max": "1000\n", "cg/system.slice/lockstep-node.service/memory.max": "4000\n",
	})
	for file, want := range map[string]int64{"self": 1000, "bad": math.MaxInt64, "v1": math.MaxInt64, "none": math.MaxInt64} {
		if got := groupLimit(filepath.Join(root, file), filepath.Join(root, "cg")); got != want {
			t.Errorf("%s: %d, want %d", file, got, want)
		}
	}
}
