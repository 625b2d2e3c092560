package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// agent runs the fence agent with the given lines.
func agent(t *testing.T, lines ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = FenceAgent(t.Context(), strings.NewReader(strings.Join(lines, "\n")+"\n"), &o, &e)
	return code, o.String(), e.String()
}

// asleep is a lab whose one node is a process that does nothing.
func asleep(t *testing.T) *Lab {
	t.Helper()
	dir := t.TempDir()
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(State{Dir: dir, Resource: "r0", Command: []string{"/bin/sleep"}, BootID: boot, Nodes: []Node{
		{Name: "n1", Config: "3600", Log: filepath.Join(dir, "log")}, {Name: "n2", Config: "3600", Log: filepath.Join(dir, "log")},
	}}, nil)
	cmd, err := spawn([]string{"/bin/sleep", "3600"}, l.state.Nodes[0].Log, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	l.state.Nodes[0].PID, l.state.Nodes[0].StartTime = cmd.Process.Pid, start
	if err := writeState(&l.state); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFenceAgent_OffKillsAndStatusTellsTheTruth(t *testing.T) {
	l := asleep(t)
	dir := "dir=" + l.state.Dir
	status := func(node string) int { code, _, _ := agent(t, "action=status", dir, "port="+node); return code }
	if status("n1") != fenceDone || status("n2") != fenceOff {
		t.Fatalf("before: n1 exits %d, n2 exits %d", status("n1"), status("n2"))
	}
	if code, out, _ := agent(t, "action=monitor", "# a comment", dir); code != fenceDone || out != "" {
		t.Errorf("monitor exits %d: %s", code, out)
	}
	if code, out, _ := agent(t, "action=list", dir); code != fenceDone || out != "n1,n1\nn2,n2\n" {
		t.Errorf("list exits %d: %s", code, out)
	}
	for range 2 { // off is off
		if code, out, errs := agent(t, "action=off", "nodename=n1", "port=n1", dir); code != fenceDone || !strings.Contains(out, "Powered OFF") {
			t.Fatalf("off exits %d: %s%s", code, out, errs)
		}
		if status("n1") != fenceOff {
			t.Fatal("off succeeded and the process runs")
		}
	}
}

func TestFenceAgent_WhatItCannotDoIsNeverASuccess(t *testing.T) {
	l := asleep(t)
	dir := "dir=" + l.state.Dir
	for name, lines := range map[string][]string{
		"no lab":         {"action=off", "port=n1", "dir=/nonexistent"},
		"no directory":   {"action=off", "port=n1"},
		"no node":        {"action=off", dir},
		"unknown node":   {"action=off", "port=n9", dir},
		"unknown status": {"action=status", "port=n9", dir},
		"no action":      {"port=n1", dir},
		"reboot":         {"action=reboot", "port=n1", dir},
		"nothing at all": {},
	} {
		t.Run(name, func(t *testing.T) {
			if code, out, errs := agent(t, lines...); code != fenceBad || out != "" || errs == "" {
				t.Errorf("exits %d: %q %q", code, out, errs)
			}
		})
	}
	if on, err := l.Running("n1"); err != nil || !on {
		t.Errorf("n1 was hit: %v", err)
	}
}

func TestFenceAgent_NodeThatEndsAtItsStartIsNotOn(t *testing.T) {
	l := asleep(t)
	l.state.Command = []string{"/bin/false"}
	if err := writeState(&l.state); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := agent(t, "action=on", "port=n2", "dir="+l.state.Dir); code != fenceBad || out != "" || !strings.Contains(errs, "ended by itself") {
		t.Errorf("exits %d: %q %q", code, out, errs)
	}
}

func TestAddFence_GivesAFileThatLoads(t *testing.T) {
	l := newLab(State{Dir: "/lab", Command: []string{"/it's/lockstep"}}, nil)
	file := config.DefaultNode()
	file.Name, file.Cluster, file.Key = "n1", "lab", config.NewKey()
	for i, n := range []string{"w", "n1", "n2"} {
		l.state.Nodes = append(l.state.Nodes, Node{Name: n})
		file.Nodes = append(file.Nodes, config.Peer{Name: n, Addr: fmt.Sprintf("127.0.0.1:%d", 2*i+1), Gossip: fmt.Sprintf("127.0.0.1:%d", 2*i+2)})
	}
	l.addFence(&file)
	file.Resolve("/")
	path := filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(path, file.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Fencing.Nodes) != 3 || got.Fencing.Nodes[2].Node != "w" || got.Fences[0].Agent != "/lab/fence-agent" {
		t.Errorf("%+v, %+v", got.Fencing, got.Fences)
	}
	l.state.Dir = t.TempDir()
	if err := l.writeFence(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(l.state.Dir, fenceScript))
	if err != nil || !strings.Contains(string(text), `exec '/it'\''s/lockstep' lab fence-agent`) {
		t.Errorf("%s, %v", text, err)
	}
}
