package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/doctor"
	"github.com/lockstep-ha/lockstep/internal/drill"
)

// fakeFacts and fakeLink are what every fake answers when it is examined.
var (
	fakeFacts = control.Facts{
		Node: "n1", Version: "v1", Boot: "b1", Virtual: control.VirtualNo, Supervisor: "systemd", Watchdog: "systemd", Fences: []string{},
		Replicas: []control.ReplicaFacts{{Resource: "r0", Open: true, DiskState: control.DiskUpToDate, Data: control.Disk{Path: "/srv/r0", Device: "sda", WriteCache: control.CacheNone}}},
	}
	fakeLink = control.LinkReport{
		From: "n1", To: "n2", Addr: "10.0.0.2:7780", Elapsed: 10 * time.Second, Sent: 500, Answered: 498, Lost: 2, Broken: 1,
		Min: 71 * time.Microsecond, Median: 226 * time.Microsecond, P99: 4470 * time.Microsecond, Max: 1234567 * time.Microsecond, Jitter: 715 * time.Microsecond,
		LongestGap: 1250 * time.Millisecond, LossPercent: 0.4, Reliability: 90.2, Verdict: control.LinkSlow, Text: "Too slow for the lan preset.",
		Timing: control.Timing{Preset: "lan", BeaconInterval: 100 * time.Millisecond, Lease: 300 * time.Millisecond, DriftMargin: 10},
	}
)

func (f *fake) Facts(context.Context) (control.Facts, error) { return fakeFacts, f.err }

func (f *fake) LinkCheck(_ context.Context, o control.LinkOptions, progress func(control.LinkReport) error) (control.LinkReport, error) {
	if err := progress(control.LinkReport{From: "n1", To: o.Peer, Answered: 1}); err != nil {
		return control.LinkReport{}, err
	}
	return fakeLink, f.note("link %s %d %v %v", o.Peer, o.Count, o.Interval, o.Timeout)
}

// alone is one node with one replica that serves.
func alone() control.Status {
	return control.Status{
		Node: "n1", Ledger: control.Ledger{Leader: "n1", Quorum: true}, Nodes: []control.Node{{Name: "n1", Voter: true, Alive: true}},
		Resources: []control.Resource{{
			Name: "r0", Primary: "n1", InSync: []string{"n1"}, IO: control.IO{State: control.IORunning}, Policy: control.Policy{Failover: "auto", Fencing: "lease", ReadsConfirm: true},
			Replicas: []control.Replica{{Node: "n1", InSync: true, DiskState: control.DiskUpToDate}},
		}},
	}
}

func TestDoctor_SaysWhatIsWrongWhyAndWhatToType(t *testing.T) {
	vars := serve(t, &fake{status: alone()})
	code, out, errs := cli(t.Context(), vars, "doctor", "--all")
	if code != exitDifference || errs != "" {
		t.Errorf("exit %d, %s", code, errs)
	}
	golden(t, "testdata/doctor.golden", out)

	code, out, _ = cli(t.Context(), vars, "doctor", "--accept", "one-copy", "--accept", "few-voters", "--accept", "loss", "--json")
	var rep doctor.Report
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != exitOK || rep.Worst != doctor.Note {
		t.Errorf("all accepted: exit %d, %v, worst %s", code, err, rep.Worst)
	}
	if code, _, errs := cli(t.Context(), vars, "doctor", "--accept", "everything"); code != exitUsage || !strings.Contains(errs, "these are: authority-ends") {
		t.Errorf("an unknown code: exit %d, %s", code, errs)
	}
}

func TestLinkCheck_ShowsWhatIsMeasured(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	code, out, errs := cli(t.Context(), vars, "link-check", "n2", "--duration", "1s", "--interval", "10ms")
	if code != exitDifference || f.call != "link n2 100 10ms 0s" || !strings.Contains(errs, "n1 to n2: 1 of 100 probes answered") {
		t.Errorf("exit %d, call %s, %s", code, f.call, errs)
	}
	golden(t, "testdata/link-check.golden", out)

	if code, _, _ := cli(t.Context(), vars, "link-check", "n2", "--count", "7", "--late", "1s"); code != exitDifference || f.call != "link n2 7 20ms 1s" {
		t.Errorf("exit %d, call %s", code, f.call)
	}
	code, out, errs = cli(t.Context(), vars, "link-check", "n2", "--json")
	var rep control.LinkReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != exitDifference || rep.Sent != 500 || errs != "" {
		t.Errorf("exit %d, %v, %+v, %s", code, err, rep, errs)
	}
	f.call = ""
	for _, line := range []string{"link-check", "link-check n2 --count 0", "link-check n2 --interval 0", "link-check n2 --duration 1ms"} {
		if code, _, errs := cli(t.Context(), vars, strings.Fields(line)...); code != exitUsage || f.call != "" {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
}

func TestDrill_RefusesWhatMakesNoSense_AndWhatTheClusterCouldNotTake(t *testing.T) {
	vars := serve(t, &fake{status: alone()})
	for line, want := range map[string]int{
		"drill --yes --node n1":                          exitUsage,
		"drill --json":                                   exitUsage,
		"drill --yes --resource r0 --like r0":            exitUsage,
		"drill --yes --only earthquake":                  exitUsage,
		"drill --yes --resource r0 --only kill":          exitUsage,
		"drill --yes --max-pause 0":                      exitUsage,
		"drill --yes --lab " + t.TempDir():               exitFailed,
		"drill --yes":                                    exitRefused,
		"drill --yes --like r7":                          exitRefused,
		"drill --yes --resource r0 --only switchover":    exitRefused,
		"drill --yes --only isolation --only switchover": exitRefused,
	} {
		if code, _, errs := cli(t.Context(), vars, strings.Fields(line)...); code != want {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
}

func TestRenderDrill_TellsWhatHappened(t *testing.T) {
	rep := drill.Report{
		Resource: "drill-s7t3avd6", Scratch: true, Like: "r0", Differences: 1,
		Results: []drill.Result{
			{Event: drill.Kill, Node: "n1", Done: "the daemon of n1 is killed", Primary: "n2", Pause: 640 * time.Millisecond, Whole: 2 * time.Second, Answered: 316, BlocksChecked: 319, Passed: true,
				Meaning: "An application would have stood still for 640ms at most, and lost nothing of 316 acknowledged writes."},
			{Event: drill.Isolation, Node: "n2", Done: "n2 is isolated for 2s: its daemon stands still", Primary: "n1", Pause: time.Second, Whole: 3 * time.Second, Answered: 700, BlocksChecked: 745, Mismatches: 2,
				Meaning: "An application would have lost data: 2 blocks do not hold the newest write that was acknowledged.", Details: []string{"block 7: it holds zeros; acknowledged was write 3"}},
		},
	}
	golden(t, "testdata/drill.golden", string(renderDrill(&rep, false)))
}
