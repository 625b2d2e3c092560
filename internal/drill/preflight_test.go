package drill

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/doctor"
)

// whole is a cluster that could take any drill.
func whole() *doctor.Cluster {
	c := &doctor.Cluster{Status: control.Status{
		Node: "n1", Ledger: control.Ledger{Leader: "w", Quorum: true},
		Resources: []control.Resource{{
			Name: "r0", Primary: "n2", InSync: []string{"n1", "n2"}, IO: control.IO{State: control.IORunning},
			Policy:   control.Policy{Failover: "auto", Fencing: "lease", Lease: 300 * time.Millisecond},
			Replicas: []control.Replica{{Node: "n1", InSync: true}, {Node: "n2", InSync: true}},
		}},
	}}
	for _, n := range []string{"n1", "n2", "w"} {
		c.Status.Nodes = append(c.Status.Nodes, control.Node{Name: n, Voter: true, Witness: n == "w"})
		f := &control.Facts{Node: n, Boot: n, Supervisor: "systemd", DataDir: control.Disk{Path: "/var/lib/lockstep", FreeBytes: 1 << 30, TotalBytes: 1 << 31}}
		if n != "w" {
			d := control.Disk{Path: "/srv/" + n + "/r0.img", FreeBytes: 1 << 30, TotalBytes: 1 << 31}
			f.Replicas = []control.ReplicaFacts{{Resource: "r0", Open: true, DiskState: control.DiskUpToDate, Data: d, Meta: d}}
		}
		c.Nodes = append(c.Nodes, doctor.Node{Name: n, Facts: f})
	}
	return c
}

func TestPreflight_PlansOnAWholeCluster(t *testing.T) {
	p, against := preflight(&Config{Events: Events(), Carrier: Daemons{}}, whole())
	if len(against) > 0 {
		t.Fatal(against)
	}
	if p.Like != "r0" || p.primary != "n2" || p.asked != "n1" || p.still != 2*time.Second || !slices.Equal(p.Nodes, []string{"n1", "n2"}) || !slices.Equal(p.Affected, []string{"r0"}) {
		t.Errorf("%+v", p)
	}
	if len(p.replicas) != 2 || p.replicas[0].DataPath != "/srv/n1" || p.replicas[1].DataPath != "/srv/n2" {
		t.Errorf("replicas %+v", p.replicas)
	}
	for _, says := range []string{"scratch resource of 16 MiB", "the daemon of its primary is killed", "taken away for 2s", "That concerns: r0"} {
		if !strings.Contains(p.Text(), says) {
			t.Errorf("%q is not in %q", says, p.Text())
		}
	}
}

func TestPreflight_ADeviceHasItsScratchFilesBesideTheMetadata(t *testing.T) {
	c := whole()
	data := &c.Nodes[0].Facts.Replicas[0]
	data.Data, data.Meta.Path = control.Disk{Path: "/dev/vg/r0", Device: "dm-0"}, "/var/meta/r0"
	c.Nodes[1].Facts.Replicas[0].Data = control.Disk{Path: "/dev/vg/r0", Device: "dm-0"}
	c.Nodes[1].Facts.Replicas[0].Meta = control.Disk{Path: "/dev/vg/meta", Device: "dm-1"}
	p, against := preflight(&Config{Events: Events(), Carrier: Daemons{}}, c)
	if len(against) > 0 || p.replicas[0].DataPath != "/var/meta" || p.replicas[1].DataPath != "/var/lib/lockstep" {
		t.Errorf("%+v, %v", p, against)
	}
}

func TestPreflight_RefusesWhatTheClusterCouldNotTake(t *testing.T) {
	r0 := func(c *doctor.Cluster) *control.Resource { return &c.Status.Resources[0] }
	all := Config{Events: Events(), Carrier: Daemons{}}
	for _, tc := range []struct {
		name string
		cfg  Config
		harm func(*doctor.Cluster)
		says string // "": it may begin
	}{
		{"no such resource", Config{Like: "r9", Events: Events(), Carrier: Daemons{}}, func(*doctor.Cluster) {}, "there is no resource r9"},
		{"two resources and none named", all, func(c *doctor.Cluster) { c.Status.Resources = append(c.Status.Resources, control.Resource{Name: "r1"}) }, "not exactly one"},
		{"no quorum", all, func(c *doctor.Cluster) { c.Status.Ledger.Quorum = false }, "no majority"},
		{"a silent node", all, func(c *doctor.Cluster) { c.Nodes[2].Facts = nil }, "w does not answer"},
		{"nobody serves", all, func(c *doctor.Cluster) { r0(c).Primary = "" }, "r0 is not served"},
		{"not in sync", all, func(c *doctor.Cluster) { r0(c).Replicas[0].InSync = false }, "on n1 is not in sync"},
		{"failover is paused", all, func(c *doctor.Cluster) { r0(c).Policy.Paused = true }, "failover is paused"},
		{"a pair", all, func(c *doctor.Cluster) { c.Status.Nodes, c.Nodes = c.Status.Nodes[:2], c.Nodes[:2] }, "when n2 dies, r0 does not go on"},
		{"a pair, switchover alone", Config{Events: []Event{Switchover}}, func(c *doctor.Cluster) { c.Status.Nodes, c.Nodes = c.Status.Nodes[:2], c.Nodes[:2] }, ""},
		{"a pair that turns each other off", all, func(c *doctor.Cluster) {
			c.Status.Nodes, c.Nodes = c.Status.Nodes[:2], c.Nodes[:2]
			c.Nodes[0].Facts.Fences, c.Nodes[1].Facts.Fences = []string{"n2"}, []string{"n1"}
		}, "n2 turns n1 off for real"},
		{"nobody restarts n1", all, func(c *doctor.Cluster) { c.Nodes[0].Facts.Supervisor = "" }, "start the daemon of n1 again"},
		{"nobody restarts n1, and nobody kills it", Config{Events: []Event{Isolation}, Carrier: Daemons{}}, func(c *doctor.Cluster) { c.Nodes[0].Facts.Supervisor = "" }, ""},
		{"a watchdog", all, func(c *doctor.Cluster) { c.Nodes[0].Facts.Watchdog = "/dev/watchdog" }, "may reset its host"},
		{"stonith", all, func(c *doctor.Cluster) {
			r0(c).Policy.Fencing = "stonith"
			c.Nodes[0].Facts.Fences, c.Nodes[1].Facts.Fences = []string{"n2"}, []string{"n1"}
		}, "turned off for real"},
		{"stonith, and that is what is wanted", Config{Events: Events(), Carrier: Daemons{}, AllowFence: true}, func(c *doctor.Cluster) {
			r0(c).Policy.Fencing = "stonith"
			c.Nodes[0].Facts.Fences, c.Nodes[1].Facts.Fences = []string{"n2"}, []string{"n1"}
		}, ""},
		{"another resource on a struck node", Config{Like: "r0", Events: Events(), Carrier: Daemons{}}, func(c *doctor.Cluster) {
			c.Status.Resources = append(c.Status.Resources, control.Resource{Name: "r1", Primary: "n1", InSync: []string{"n1"}, Replicas: []control.Replica{{Node: "n1", InSync: true}}})
		}, "when n1 dies, r1 does not go on"},
		{"no room", all, func(c *doctor.Cluster) { c.Nodes[1].Facts.Replicas[0].Data.FreeBytes = 1 << 20 }, "/srv/n2 on n2 has 1 MiB free"},
		{"kills on a resource in use", Config{Live: true, Events: Events(), Carrier: Daemons{}}, func(*doctor.Cluster) {}, "only its role is moved"},
		{"a switchover of a resource in use", Config{Live: true, Events: []Event{Switchover}}, func(*doctor.Cluster) {}, ""},
	} {
		c := whole()
		tc.harm(c)
		_, against := preflight(&tc.cfg, c)
		text := strings.Join(against, "\n")
		if (text == "") != (tc.says == "") || !strings.Contains(text, tc.says) {
			t.Errorf("%s: %q", tc.name, text)
		}
	}
}

func TestResult_PassesOnlyIfNothingIsLostAndThePauseIsShort(t *testing.T) {
	for _, tc := range []struct {
		r      Result
		passed bool
		says   string
	}{
		{Result{Pause: time.Second, Answered: 7}, true, "stood still for 1s at most, and lost nothing of 7 acknowledged writes"},
		{Result{Pause: 6 * time.Second}, false, "which is more than 5s"},
		{Result{Mismatches: 2}, false, "would have lost data: 2 blocks"},
		{Result{WrongAnswers: 3}, false, "3 wrong answers"},
		{Result{Problem: "nobody is primary"}, false, "did not get back by itself: nobody is primary"},
	} {
		tc.r.judge(5*time.Second, false)
		if tc.r.Passed != tc.passed || !strings.Contains(tc.r.Meaning, tc.says) {
			t.Errorf("%+v", tc.r)
		}
	}
	for passed, reports := range map[bool][]Report{
		true:  {{Results: []Result{{Passed: true}, {Passed: true}}}},
		false: {{}, {Results: []Result{{Passed: true}, {}}}, {Results: []Result{{Passed: true}}, Differences: 1}, {Results: []Result{{Passed: true}}, Problem: "interrupted"}},
	} {
		for _, r := range reports {
			if r.finish(); r.Passed != passed {
				t.Errorf("%+v", r)
			}
		}
	}
}

func TestMeter_MeasuresTheLongestGap_TheOpenOneToo(t *testing.T) {
	var m meter
	at := time.Unix(0, 0)
	m.begin(at)
	for _, ms := range []int{1, 2, 30, 31} {
		m.ack(at.Add(time.Duration(ms)*time.Millisecond), false)
	}
	if p := m.pause(at.Add(32 * time.Millisecond)); p != 28*time.Millisecond {
		t.Errorf("%v", p)
	}
	if p := m.pause(at.Add(131 * time.Millisecond)); p != 100*time.Millisecond {
		t.Errorf("the open gap: %v", p)
	}
	m.begin(at.Add(200 * time.Millisecond))
	if p := m.pause(at.Add(201 * time.Millisecond)); p != time.Millisecond || m.answered() != 4 {
		t.Errorf("a new window: %v", p)
	}
}
