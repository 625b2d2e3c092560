package fencing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// armed is a declaration with which the watchdog of n2 is waited for in next to no time: what takes long
// is tested on a clock of its own.
var armed = &Armed{Boot: "boot-2", Timeout: 10 * time.Second, Lease: 300 * time.Millisecond}

// TestDevices_KeepTheContract holds every carrier to what Device promises.
func TestDevices_KeepTheContract(t *testing.T) {
	agentPath, _ := script(t, xmlOf(usualActions, []string{"port"}), "off) exit 0;; status) exit 2;; monitor) exit 0;;")
	hookPath := write(t, t.TempDir(), "hook", "#!/bin/sh\nexit 0\n", 0o755)
	for name, cfg := range map[string]DeviceConfig{
		"agent":    {Name: "agent", Agent: agentPath, Timeout: patience},
		"hook":     {Name: "hook", Exec: hookPath, Timeout: patience},
		"watchdog": {Name: "watchdog", Watchdog: true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := cfg.validate(); err != nil {
				t.Fatal(err)
			}
			dev := cfg.build(10)
			if dev.Name() != name {
				t.Errorf("its name is %q", dev.Name())
			}
			target := n2
			target.Armed = armed
			target.asked = time.Now().Add(-time.Hour) // long enough ago for every watchdog
			ans, err := dev.Off(t.Context(), target)
			if err != nil || ans.Power != PowerOff || ans.Text == "" {
				t.Errorf("off: %+v, %v", ans, err)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			target.asked = time.Time{}
			if ans, err := dev.Off(ended, target); !errors.Is(err, context.Canceled) || ans.Power == PowerOff {
				t.Errorf("off with a context that has ended: %+v, %v", ans, err)
			}
			if _, err := dev.Monitor(t.Context(), target); err != nil {
				t.Errorf("monitor: %v", err)
			}
			if needed, _, err := dev.NeedsOn(t.Context()); needed || err != nil {
				t.Errorf("needs on: %v, %v", needed, err)
			}
			if found := dev.Check(t.Context(), target); len(found) == 0 || found[0].Device != name || found[0].Text == "" {
				t.Errorf("check: %v", found)
			}
			if name == "agent" {
				return // its status and on are tested with the other agents
			}
			if _, err := dev.Status(t.Context(), target); !errors.Is(err, ErrUnsupported) {
				t.Errorf("status: %v", err)
			}
			if _, err := dev.On(t.Context(), target); !errors.Is(err, ErrUnsupported) {
				t.Errorf("on: %v", err)
			}
		})
	}
}

func TestHook_ExitZeroAloneIsProof(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		timeout    time.Duration
		want       error
	}{
		{"exits 0", "exit 0", patience, nil},
		{"exits 1", "echo no answer from the plug; exit 1", patience, ErrUnproven},
		{"exits 2", "exit 2", patience, ErrUnproven},
		{"is killed", "kill -9 $$", patience, ErrUnproven},
		{"hangs", "sleep 1000", short, ErrTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := write(t, t.TempDir(), "hook", "#!/bin/sh\n"+tc.text+"\n", 0o755)
			h := DeviceConfig{Name: "h", Exec: path, Timeout: tc.timeout}.build(10)
			ans, err := h.Off(t.Context(), n2)
			if !errors.Is(err, tc.want) || (tc.want == nil) != (ans.Power == PowerOff) {
				t.Errorf("%+v, %v", ans, err)
			}
		})
	}
	for name, path := range map[string]string{
		"missing": "/nonexistent/hook", "not executable": write(t, t.TempDir(), "hook", "#!/bin/sh\nexit 0\n", 0o644),
	} {
		if _, err := (DeviceConfig{Name: "h", Exec: path, Timeout: patience}).build(10).Off(t.Context(), n2); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHook_IsToldInItsEnvironment(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "hook", "#!/bin/sh\nenv | grep ^LOCKSTEP_ | sort >"+dir+"/env.$LOCKSTEP_ACTION\necho $LOCKSTEP_PASSWORD\n", 0o755)
	h := DeviceConfig{Name: "h", Exec: path, Timeout: patience, Plugs: []Plug{{"n2", "7"}}, Unfence: true,
		Options: []Option{{"snmp-port", "161"}}, PasswordFile: write(t, dir, "pw", "geheim\n", 0o600)}.build(10)
	ans, err := h.Off(t.Context(), n2)
	if err != nil || ans.Output != hidden {
		t.Errorf("%+v, %v", ans, err)
	}
	if _, err := h.On(t.Context(), n2); err != nil {
		t.Error(err)
	}
	for _, action := range []string{"off", "on"} {
		want := "LOCKSTEP_ACTION=" + action + "\nLOCKSTEP_BOOT_ID=boot-2\nLOCKSTEP_DEVICE=h\nLOCKSTEP_NODE=n2\n" +
			"LOCKSTEP_OPTION_SNMP_PORT=161\nLOCKSTEP_PASSWORD=geheim\nLOCKSTEP_PLUG=7\nLOCKSTEP_REASON=it is silent\nLOCKSTEP_RESOURCE=r0\n"
		if got := read(t, dir+"/env."+action); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
}

func TestHookCheck_AsksForMonitorAlone(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "hook", "#!/bin/sh\necho $LOCKSTEP_ACTION >>"+dir+"/actions\n[ ! -e "+dir+"/broken ]\n", 0o755)
	h := DeviceConfig{Name: "h", Exec: path, Timeout: patience}.build(10)
	if found := h.Check(t.Context(), n2); len(found) != 1 || found[0].Severity != Good {
		t.Errorf("%v", found)
	}
	if err := os.WriteFile(dir+"/broken", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if found := h.Check(t.Context(), n2); len(found) != 1 || found[0].Severity != Fault {
		t.Errorf("%v", found)
	}
	if got := read(t, dir+"/actions"); got != "monitor\nmonitor\n" {
		t.Errorf("it ran %q", got)
	}
}

func TestWatchdogOff_NeedsADeclarationOfThatBoot(t *testing.T) {
	dev := DeviceConfig{Name: "w", Watchdog: true}.build(10)
	for name, a := range map[string]*Armed{
		"none":         nil,
		"another boot": {Boot: "boot-1", Timeout: time.Second, Lease: time.Second},
		"no boot":      {Timeout: time.Second, Lease: time.Second},
		"no timeout":   {Boot: "boot-2", Lease: time.Second},
		"no lease":     {Boot: "boot-2", Timeout: time.Second},
		"negative":     {Boot: "boot-2", Timeout: -time.Second, Lease: time.Second},
		"absurd":       {Boot: "boot-2", Timeout: 1 << 62, Lease: time.Second},
	} {
		target := n2
		target.Armed, target.asked = a, time.Now().Add(-100*time.Hour)
		if ans, err := dev.Off(t.Context(), target); !errors.Is(err, ErrNotArmed) || ans.Power == PowerOff {
			t.Errorf("%s: %+v, %v", name, ans, err)
		}
		if found := dev.Check(t.Context(), target); len(found) != 1 || found[0].Severity != Fault {
			t.Errorf("%s: %v", name, found)
		}
	}
	target := Target{Node: "n2", Armed: &Armed{Timeout: time.Second, Lease: time.Second}}
	if _, err := dev.Off(t.Context(), target); !errors.Is(err, ErrNotArmed) {
		t.Errorf("a boot without a name matches one: %v", err)
	}
}

func TestWatchdogOff_WaitsLeaseTwoTimeoutsAndAMarginSinceItWasAskedFor(t *testing.T) {
	const wait = 23330 * time.Millisecond // (300 ms + 2 * 10 s) * 1.1 + 1 s
	for _, already := range []time.Duration{0, 5 * time.Second, time.Minute} {
		t.Run(fmt.Sprint(already), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := n2
				target.Armed, target.asked = armed, time.Now()
				time.Sleep(already) // on the clock of the bubble
				ans, err := DeviceConfig{Name: "w", Watchdog: true}.build(10).Off(t.Context(), target)
				if err != nil || ans.Power != PowerOff {
					t.Fatalf("%+v, %v", ans, err)
				}
				if got := time.Since(target.asked); got != max(wait, already) {
					t.Errorf("proven after %v, want %v", got, max(wait, already))
				}
			})
		})
	}
}

func TestWatchdogOff_CutShortIsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := n2
		target.Armed = armed
		ctx, cancel := context.WithTimeoutCause(t.Context(), 23329*time.Millisecond, ErrTimeout)
		defer cancel()
		ans, err := DeviceConfig{Name: "w", Watchdog: true}.build(10).Off(ctx, target)
		if !errors.Is(err, ErrTimeout) || ans.Power == PowerOff {
			t.Errorf("%+v, %v", ans, err)
		}
	})
}

func TestConfig_ReportsEveryFaultAtOnce(t *testing.T) {
	cfg := Config{Margin: 101,
		Devices: []DeviceConfig{
			{Name: "a"}, {Name: "a", Agent: "x", Exec: "/y"},
			{Name: "b", Agent: "bin/x"}, {Name: "c", Exec: "x"},
			{Name: "d", Watchdog: true, Unfence: true},
			{Name: "e", Agent: "x", Options: []Option{{"action", "on"}}},
			{Name: "f", Agent: "x", Options: []Option{{"ip", "1\n2"}}},
			{Name: "g", Agent: "x", Options: []Option{{"ip", "1"}, {"ip", "2"}}},
			{Name: "h", Agent: "x", Options: []Option{{"port", "1"}}, Plugs: []Plug{{"n2", "2"}}},
			{Name: "i", Agent: "x", Options: []Option{{"password", "p"}}, PasswordFile: "/p", PasswordEnv: "P"},
			{Name: "j", Agent: "x", Plugs: []Plug{{"n2", "2\n"}}, Retries: -1},
			{Name: "k", Agent: "x", Options: []Option{{"a=b", "1"}}},
		},
		Nodes: []NodeConfig{{Node: "n2", Levels: [][]string{{}, {"zz"}, {"b", "b"}}}, {Node: "n2"}},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"no node name", "margin 101", `"a" is there twice`, `"a": exactly one of agent, exec and watchdog is set, not 0`,
		`"a": exactly one of agent, exec and watchdog is set, not 2`, `"bin/x" is neither`, `exec "x" is not an absolute`,
		"a watchdog has no options", "option action is what", "option ip: its value has a line break", "option ip is there twice",
		"plugs are given, and", "both set", "among the options and elsewhere", `plug "2\n"`, "-1 retries", `'=' is not allowed`,
		"level 1 names no device", `device "zz", which is not there`, `device "b" twice`, `node "n2" is there twice`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in:\n%v", want, err)
		}
	}
	if _, nerr := New(cfg); nerr == nil || nerr.Error() != err.Error() {
		t.Errorf("New says %v", nerr)
	}
}
