package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func (f *fake) Set(_ context.Context, r string, s control.Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return f.note("set %s %s", r, b)
}
func (f *fake) PauseFailover(_ context.Context, r string, on bool, why string) error {
	return f.note("pause-failover %s %v %q", r, on, why)
}

func (f *fake) ClearServices(_ context.Context, r string) error { return f.note("clear %s", r) }

func TestResourceSet_OnlyWhatIsNamedTravels(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	for _, tc := range []struct{ line, call, says string }{
		{"resource set r0 --fencing stonith --priority n1=10 --priority n2=-1", `set r0 {"fencing":"stonith","priorities":{"n1":10,"n2":-1}}`, "changed r0"},
		{"resource set r0 --freeze-deadline 0", `set r0 {"freeze_deadline_ns":0}`, "changed r0"},
		{"resource set r0 --reads confirm --failover manual --on-no-quorum io-error", `set r0 {"failover":"manual","on_no_quorum":"io-error","reads_confirm":true}`, "changed r0"},
		{"resource set r0 --unit db.service --vip 10.0.0.10/24,dev=eth0 --unit web.service,stop-timeout=5s",
			`set r0 {"services":[{"kind":"vip","target":"10.0.0.10/24","options":["dev=eth0"]},{"kind":"unit","target":"db.service"},{"kind":"unit","target":"web.service","stop_timeout_ns":5000000000}]}`, "changed r0"},
		{"resource set r0 --no-services", `set r0 {"services":[]}`, "changed r0"},
		{"resource clear r0", `clear r0`, "r0"},
		{"pause-failover r0 --why upgrade", `pause-failover r0 true "upgrade"`, "lockstep resume-failover r0"},
		{"resume-failover r0", `pause-failover r0 false ""`, "resumed failover of r0"},
	} {
		f.call = ""
		code, out, errs := cli(t.Context(), vars, strings.Fields(tc.line)...)
		if code != exitOK || f.call != tc.call || !strings.Contains(out, tc.says) {
			t.Errorf("%s: exit %d, call %s, %q %q", tc.line, code, f.call, out, errs)
		}
	}
	for _, line := range []string{"resource set r0", "resource set r0 --vip 10.0.0.10", "resource set r0 --no-services --unit db.service", "resource set r0 --reads maybe", "resource set r0 --priority n1", "resource set r0 --priority n1=1 --priority n1=2"} {
		f.call = ""
		if code, _, errs := cli(t.Context(), vars, strings.Fields(line)...); code != exitUsage || f.call != "" {
			t.Errorf("%s: exit %d, call %s, %q", line, code, f.call, errs)
		}
	}
}

func TestStatus_SaysWhyNobodyIsPromoted(t *testing.T) {
	for want, p := range map[string]control.Policy{
		"": {Failover: "auto"}, "manual": {Failover: "manual"}, "paused": {Paused: true},
		"paused (new kernel)":           {Failover: "auto", Paused: true, PausedWhy: "new kernel"},
		"held (an operator demoted it)": {Failover: "manual", Paused: true, Held: true},
	} {
		if got := failoverText(&p); got != want {
			t.Errorf("%+v: %q", p, got)
		}
	}
}
