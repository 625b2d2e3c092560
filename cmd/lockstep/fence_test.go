package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// fences is a fake with fence devices.
type fences struct {
	fake
	works bool
	was   *control.FenceRecord
}

func (f *fences) FenceTest(_ context.Context, node string) (control.FenceReport, error) {
	r := control.FenceReport{Node: node, By: "n1", Works: f.works, Findings: []control.FenceFinding{
		{Device: "ipmi", Severity: control.FenceGood, Text: "the device answers: monitor exits 0"},
	}}
	if !f.works {
		r.Findings = append(r.Findings, control.FenceFinding{Severity: control.FenceFault, Text: "no level works"})
	}
	return r, f.note("test %s", node)
}

func (f *fences) Fence(_ context.Context, node string, o control.FenceOptions) (control.FenceRecord, error) {
	return control.FenceRecord{Node: node, Boot: "b2", By: "w", Phase: control.FenceConfirmed, Text: "the plug is off"}, f.note("fence %s by %q", node, o.By)
}

func (f *fences) Unfence(_ context.Context, node string) (control.UnfenceResult, error) {
	return control.UnfenceResult{Attempts: []control.FenceAttempt{{Device: "scsi", Text: "on exited 0"}}, Was: f.was}, f.note("unfence %s", node)
}

func (f *fences) FenceHistory(context.Context) (control.FenceHistory, error) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	return control.FenceHistory{Node: "n1",
		Recorded: []control.FenceRecord{{Node: "n2", Boot: "b2", By: "n1", Phase: control.FenceConfirmed, Text: "the plug is off"}},
		Attempts: []control.FenceAttempt{
			{Node: "n2", Device: "ipmi", Level: 1, Try: 1, Action: "off", Begun: at, Ended: at.Add(20 * time.Second), Failure: "no answer in time"},
			{Node: "n2", Device: "plug", Level: 2, Try: 1, Action: "off", Begun: at.Add(20 * time.Second), Ended: at.Add(21500 * time.Millisecond), Text: "the plug is off"},
		}}, f.note("history")
}

func newFences() *fences {
	return &fences{fake: fake{status: control.Status{Node: "n1", Nodes: []control.Node{{Name: "n1"}, {Name: "n2"}}}}}
}

func TestFence_CommandsReachTheNodeAsTyped(t *testing.T) {
	f := newFences()
	f.works = true
	vars := serveAs(t, f)
	for _, tc := range []struct {
		line, call, out string
		was             *control.FenceRecord
	}{
		{"fence n2 --yes", `fence n2 by ""`, "n2 is off, as w proved: the plug is off\n", nil},
		{"fence n2 --by w -y", `fence n2 by "w"`, "n2 is off, as w proved: the plug is off\n", nil},
		{"fence test", "test n2", "n1 can turn n2 off, as far as can be told without firing\n  ok       ipmi: the device answers: monitor exits 0\n", nil},
		{"unfence n2", "unfence n2", "scsi: on exited 0\nthe ledger records nothing about n2\n", nil},
		{"unfence n2", "unfence n2", "scsi: on exited 0\nthe ledger forgot the fence of n2, which was failed\n", &control.FenceRecord{Phase: control.FenceFailed}},
		{"fence history --node n1", "history", `n2  confirmed, by n1, boot b2: the plug is off

fired by n1
  2026-05-04 03:02:01  off n2  level 1, ipmi, try 1  20s   failed: no answer in time
  2026-05-04 03:02:21  off n2  level 2, plug, try 1  1.5s  the plug is off
`, nil},
	} {
		f.call, f.was = "", tc.was
		code, out, errs := cli(t.Context(), vars, strings.Fields(tc.line)...)
		if code != exitOK || f.call != tc.call || out != tc.out || errs != "" {
			t.Errorf("%s: exit %d, call %q, printed\n%q, want\n%q, %q", tc.line, code, f.call, out, tc.out, errs)
		}
	}
}

func TestFence_AsksBeforeItFires(t *testing.T) {
	f := newFences()
	code, _, errs := cli(t.Context(), serveAs(t, f), "fence", "n2")
	if code != exitRefused || f.call != "" || !strings.Contains(errs, "n2 will be turned off") {
		t.Errorf("exit %d, call %q, said %q", code, f.call, errs)
	}
}

func TestFenceTest_ThatFailsIsExitCode6(t *testing.T) {
	f := newFences()
	vars := serveAs(t, f)
	code, out, _ := cli(t.Context(), vars, "fence", "test", "n2")
	if code != exitDifference || !strings.Contains(out, "n1 can NOT turn n2 off") || !strings.Contains(out, "fault    no level works") {
		t.Errorf("exit %d, printed %q", code, out)
	}
	code, out, _ = cli(t.Context(), vars, "fence", "test", "n2", "--json")
	if code != exitDifference || !strings.Contains(out, `"works": false`) {
		t.Errorf("exit %d, printed %q", code, out)
	}
}

func TestFence_WhatTheNodeRefusesIsToldWithTheExitCode(t *testing.T) {
	f := newFences()
	vars := serveAs(t, f)
	for _, tc := range []struct {
		err  error
		code int
	}{
		{control.Errorf(control.CodeFailed, "it is not proven that n2 is off"), exitFailed},
		{control.Errorf(control.CodeRefused, "a node does not turn itself off"), exitRefused},
		{control.Errorf(control.CodeOutcomeUnknown, "w has not said yet"), exitUnknown},
	} {
		f.err = tc.err
		if code, out, errs := cli(t.Context(), vars, "fence", "n2", "-y"); code != tc.code || out != "" || !strings.Contains(errs, tc.err.Error()) {
			t.Errorf("%v: exit %d, %q, %q", tc.err, code, out, errs)
		}
	}
}
