package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// exercise is what drill says in JSON, as far as it is looked at here.
type exercise struct {
	Resource string
	Results  []struct {
		Event, Node, Primary     string
		Pause                    time.Duration `json:"pause_ns"`
		Answered                 int64
		BlocksChecked            int `json:"blocks_checked"`
		Mismatches, WrongAnswers int
		Problem, Meaning         string
		Passed                   bool
	}
	Differences       int
	Leftover, Problem string
	Passed            bool
}

// runDrill drills a lab and takes it up again, as its nodes are other processes then. The pause that passes is
// long: how long one is, is not what is tested here.
func runDrill(t testing.TB, c *cluster.Cluster, args ...string) exercise {
	t.Helper()
	res := c.CLI("n1", append([]string{"drill", "--yes", "--json", "--max-pause", "1m", "--lab", c.Dir}, args...)...)
	again, err := lab.Open(c.Dir)
	must(t, err)
	c.Lab = again
	var x exercise
	if err := json.Unmarshal([]byte(res.Stdout), &x); err != nil {
		t.Fatalf("%v in %v", err, res)
	}
	if (res.Code == 0) != x.Passed || res.Code != 0 && res.Code != 6 {
		t.Errorf("exit %d, passed %v", res.Code, x.Passed)
	}
	return x
}

func TestDrill_ALabPassesEveryEvent_AndNothingIsLeftBehind(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	client := dial(t, c.URI("n1"))
	must(t, client.WriteAt([]byte(strings.Repeat("x", 4096)), 0))
	must(t, client.Sync())

	x := runDrill(t, c)
	if !x.Passed || x.Differences != 0 || x.Leftover != "" || x.Problem != "" {
		t.Errorf("%+v", x)
	}
	var events []string
	for _, r := range x.Results {
		events = append(events, r.Event)
		if r.BlocksChecked == 0 || r.Answered == 0 || r.Primary == "" || !strings.Contains(r.Meaning, "lost nothing") {
			t.Errorf("%+v", r)
		}
		if moved := r.Primary != r.Node; moved != (r.Event != "secondary") && r.Event != "isolation" && r.Event != "secondary" {
			t.Errorf("%s of %s: %s is primary", r.Event, r.Node, r.Primary)
		}
	}
	if strings.Join(events, " ") != "switchover switchover kill isolation secondary" {
		t.Errorf("events %v", events)
	}
	if !control.ScratchName.MatchString(x.Resource) {
		t.Errorf("the load ran on %s", x.Resource)
	}
	for _, n := range c.DataNodes() {
		if left, err := filepath.Glob(filepath.Join(c.Dir, n, "drill-*")); err != nil || len(left) > 0 {
			t.Errorf("left on %s: %v, %v", n, left, err)
		}
	}
	primary := c.Status("n1").Primary
	if _, err := c.TryStatus(primary, x.Resource); err == nil {
		t.Errorf("%s is still there", x.Resource)
	}
	got := make([]byte, 4096)
	must(t, dial(t, c.URI(primary)).ReadAt(got, 0))
	if string(got) != strings.Repeat("x", 4096) {
		t.Error("the drill touched the data of r0")
	}
	c.Identical(primary)
}

func TestDrill_OnTheResourceItself_MovesItsRoleThereAndBack_AndWritesNothing(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	l := ackload.New(64 * cluster.MiB / ackload.Block)
	finish := background(t, l, c.URI("n1"), 1, 4)
	proc.Eventually(t, "writes", func() error { return more(l, 200) })
	finish()

	x := runDrill(t, c, "--resource", "r0")
	if !x.Passed || x.Resource != "r0" || len(x.Results) != 2 || x.Results[0].Primary != "n2" || x.Results[1].Primary != "n1" {
		t.Errorf("%+v", x)
	}
	must(t, l.Check(dial(t, c.URI("n1"))))
	c.Identical("n1")
}

func TestDrill_RefusesAClusterThatCouldNotTakeIt_AndAsksFirst(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB, NoWitness: true})
	res := c.CLI("n1", "drill", "--yes", "--lab", c.Dir)
	if res.Code != 3 || !strings.Contains(res.Stderr, "no majority") {
		t.Errorf("a pair: %v", res)
	}
	res = c.CLI("n1", "drill", "--yes", "--only", "kill")
	if res.Code != 3 || !strings.Contains(res.Stderr, "start the daemon of n1 again") {
		t.Errorf("nobody starts a daemon again: %v", res)
	}
	res = c.CLI("n1", "drill", "--only", "switchover")
	if res.Code != 3 || !strings.Contains(res.Stderr, "not confirmed") {
		t.Errorf("not confirmed: %v", res)
	}
	if files, err := filepath.Glob(filepath.Join(c.Dir, "*", "drill-*")); err != nil || len(files) > 0 {
		t.Errorf("made all the same: %v, %v", files, err)
	}
	if _, err := os.Stat(c.Data("n1")); err != nil {
		t.Error(err)
	}
}
