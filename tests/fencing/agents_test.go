package fencing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/fencing"
	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
)

// TestMain fails the run if an agent outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) && code == 0 {
		fmt.Fprintf(os.Stderr, "a child process is left: pid %d, %v\n", pid, err)
		code = 1
	}
	os.Exit(code)
}

const nodeFile = `
name = "n1"
cluster = "c1"
data_dir = "/tmp"
key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
[[node]]
name = "n1"
addr = "127.0.0.1:7780"
gossip = "127.0.0.1:7781"
[[node]]
name = "n2"
addr = "127.0.0.1:8780"
gossip = "127.0.0.1:8781"
`

// load makes the Fencer of n1 from the sections of a node file.
func load(t testing.TB, sections string) *fencing.Fencer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(path, []byte(nodeFile+sections), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	// The limit of the file is for an outage; a machine full of tests gets more time.
	cfg := fencing.Config{Node: n.Name, Limit: 10 * n.Fencing.Limit, Margin: n.DriftMargin}
	for _, f := range n.Fences {
		d := fencing.DeviceConfig{Name: f.Name, Agent: f.Agent, Exec: f.Exec, Watchdog: f.Watchdog,
			PasswordFile: f.PasswordFile, PasswordEnv: f.PasswordEnv, Timeout: f.Timeout, Retries: f.Retries, Unfence: f.Unfence}
		for _, o := range f.Options {
			d.Options = append(d.Options, fencing.Option(o))
		}
		for _, p := range f.Plugs {
			d.Plugs = append(d.Plugs, fencing.Plug(p))
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	for _, x := range n.Fencing.Nodes {
		cfg.Nodes = append(cfg.Nodes, fencing.NodeConfig(x))
	}
	f, err := fencing.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// machine makes the file that is a machine to fence_dummy.
func machine(t testing.TB, power string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "power")
	if err := os.WriteFile(path, []byte(power), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func powerOf(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dummy is the section of a fence_dummy.
func dummy(name, options string) string {
	return fmt.Sprintf("[fence.%s]\nagent = \"fence_dummy\"\ntimeout = \"2m\"\nretries = 0\noptions = { %s }\n", name, options)
}

var target = fencing.Target{Node: "n2", Boot: "boot-2", Resource: "r0", Reason: "it is silent"}

// found fails the test unless a finding of that severity has the text.
func found(t testing.TB, r fencing.Report, s fencing.Severity, text string) {
	t.Helper()
	if !slices.ContainsFunc(r.Findings, func(f fencing.Finding) bool { return f.Severity == s && strings.Contains(f.Text, text) }) {
		t.Errorf("no %v with %q among %v", s, text, r.Findings)
	}
}

func TestDummy_IsTestedFencedAndLetBack(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	a, b := machine(t, "on"), machine(t, "on")
	f := load(t, dummy("a", `status_file = "`+a+`"`)+dummy("b", `status_file = "`+b+`"`)+
		"[fencing]\nnodes.n2 = [[\"a\", \"b\"]]\n[fence.a.plugs]\nn2 = \"1\"\n")
	r := f.Test(t.Context(), target)
	if !r.Works || powerOf(t, a) != "on" || powerOf(t, b) != "on" {
		t.Fatalf("%+v; a is %s", r, powerOf(t, a))
	}
	found(t, r, fencing.Good, "monitor exits 0")
	found(t, r, fencing.Good, "status says that n2 is on")

	res := f.Fence(t.Context(), fencing.Request{Target: target})
	if res.Proof == nil || res.Proof.Node != "n2" || res.Proof.Boot != "boot-2" || len(res.Attempts) != 2 {
		t.Fatalf("%+v", res)
	}
	if powerOf(t, a) != "off" || powerOf(t, b) != "off" {
		t.Errorf("a is %s, b is %s", powerOf(t, a), powerOf(t, b))
	}
	if out := f.History()[0].Output; !strings.Contains(out, "Success: Powered OFF") || !strings.Contains(out, "Status: OFF") {
		t.Errorf("history has %q", out)
	}
	if r := f.Test(t.Context(), target); r.Works {
		t.Errorf("a node that is off passes: %v", r.Findings)
	}
	if attempts, err := f.Unfence(t.Context(), target); err != nil || len(attempts) != 0 || powerOf(t, a) != "off" {
		t.Errorf("unfence of a device that needs none: %v, %v", attempts, err)
	}
	f = load(t, "[fence.a]\nagent = \"fence_dummy\"\nunfence = true\noptions = { status_file = \""+a+"\" }\n[fencing]\nnodes.n2 = [[\"a\"]]\n")
	if _, err := f.Unfence(t.Context(), target); err != nil || powerOf(t, a) != "on" {
		t.Errorf("unfence: %v, a is %s", err, powerOf(t, a))
	}
}

func TestDummy_ThatFailsProvesNothingAndTheNextLevelIsTried(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	a := machine(t, "on")
	f := load(t, dummy("fails", `type = "fail", power_timeout = 1`)+dummy("works", `status_file = "`+a+`"`)+"[fencing]\nnodes.n1 = [[\"works\"]]\nnodes.n2 = [[\"fails\"]]\n")
	res := f.Fence(t.Context(), fencing.Request{Target: target})
	if res.Proof != nil || !errors.Is(res.Err, fencing.ErrUnproven) || errors.Is(res.Err, fencing.ErrTimeout) {
		t.Errorf("%+v", res)
	}
	f = load(t, dummy("fails", `type = "fail", power_timeout = 1`)+dummy("works", `status_file = "`+a+`"`)+"[fencing]\nnodes.n2 = [[\"fails\"], [\"works\"]]\n")
	res = f.Fence(t.Context(), fencing.Request{Target: target})
	if res.Proof == nil || !strings.HasPrefix(res.Proof.Text, "works: ") || powerOf(t, a) != "off" {
		t.Errorf("%+v", res)
	}
}

func TestDummy_ThatHangsIsKilledAndHasTurnedNothingOff(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	a := machine(t, "on")
	f := load(t, "[fence.a]\nagent = \"fence_dummy\"\ntimeout = \"5s\"\nretries = 0\noptions = { delay = 3600, status_file = \""+a+"\" }\n[fencing]\nnodes.n2 = [[\"a\"]]\n")
	begun := time.Now()
	res := f.Fence(t.Context(), fencing.Request{Target: target})
	if res.Proof != nil || !errors.Is(res.Err, fencing.ErrTimeout) || powerOf(t, a) != "on" {
		t.Errorf("%+v; a is %s", res, powerOf(t, a))
	}
	if time.Since(begun) > time.Hour {
		t.Error("it was waited for")
	}
}

// A dummy whose file is not there says "off", as a device with the wrong plug may. Its off then
// succeeds; only a test beforehand tells.
func TestDummy_ThatSaysOffOfARunningNodeIsFoundByTheTest(t *testing.T) {
	need.Tool(t, "fence_dummy", "fence-agents")
	f := load(t, dummy("a", `status_file = "`+filepath.Join(t.TempDir(), "none")+`"`)+"[fencing]\nnodes.n2 = [[\"a\"]]\n")
	r := f.Test(t.Context(), target)
	if r.Works {
		t.Errorf("%v", r.Findings)
	}
	found(t, r, fencing.Fault, "status exits 2")
}

// What real agents say about themselves is understood, and what cannot be a proof is refused before it is
// relied upon.
func TestAgents_AreJudgedByTheirMetadata(t *testing.T) {
	for _, tc := range []struct {
		agent, options string
		severity       fencing.Severity
		text           string
	}{
		{"fence_kdump", "", fencing.Fault, "advertises no status"},
		{"fence_heuristics_ping", "", fencing.Fault, "advertises no status"},
		{"fence_scsi", "", fencing.Good, "leaves its power alone"},
		{"fence_apc", "", fencing.Fault, "needs ip"},
		{"fence_ipmilan", `nosuch = 1, ip = "127.0.0.1"`, fencing.Warning, "does not know the option nosuch"},
	} {
		t.Run(tc.agent, func(t *testing.T) {
			need.Tool(t, tc.agent, "fence-agents")
			f := load(t, fmt.Sprintf("[fence.a]\nagent = %q\noptions = { %s }\n[fencing]\nnodes.n2 = [[\"a\"]]\n", tc.agent, tc.options))
			r := f.Test(t.Context(), target)
			found(t, r, tc.severity, tc.text)
			if r.Works {
				t.Errorf("it works: %v", r.Findings)
			}
		})
	}
}

func TestAgents_WithWrongArgumentsProveNothing(t *testing.T) {
	for _, agent := range []string{"fence_ipmilan", "fence_apc", "fence_kdump"} {
		need.Tool(t, agent, "fence-agents")
		f := load(t, fmt.Sprintf("[fence.a]\nagent = %q\nretries = 0\n[fencing]\nnodes.n2 = [[\"a\"]]\n", agent))
		if res := f.Fence(t.Context(), fencing.Request{Target: target}); res.Proof != nil || res.Err == nil {
			t.Errorf("%s: %+v", agent, res)
		}
	}
}
