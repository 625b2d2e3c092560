package fencing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAgentOff_IsProvenByOffAndThenStatusAlone(t *testing.T) {
	usual := xmlOf(usualActions, []string{"port"})
	for _, tc := range []struct {
		name, meta, cases string
		want              error // nil: proven
	}{
		{"off and status agree", usual, "off) exit 0;; status) exit 2;;", nil},
		{"status says on", usual, "off) exit 0;; status) exit 0;;", ErrUnproven},
		{"status does not know", usual, "off) exit 0;; status) exit 1;;", ErrUnproven},
		{"off fails and status says off", usual, "off) exit 1;; status) exit 2;;", ErrUnproven},
		{"off exits as status would", usual, "off) exit 2;; status) exit 2;;", ErrUnproven},
		{"arguments are wrong for both", usual, "*) exit 2;;", ErrUnproven},
		{"off is killed", usual, "off) kill -9 $$;; status) exit 2;;", ErrUnproven},
		{"status is killed", usual, "off) exit 0;; status) kill -TERM $$;;", ErrUnproven},
		{"no status at all", xmlOf([]string{"off", "monitor"}, nil), "off) exit 0;; status) exit 2;;", ErrBroken},
		{"no off at all", xmlOf([]string{"status", "monitor"}, nil), "off) exit 0;; status) exit 2;;", ErrBroken},
		{"metadata is no XML", "Usage: fence_x", "off) exit 0;; status) exit 2;;", ErrBroken},
		{"metadata is another XML", "<html/>", "off) exit 0;; status) exit 2;;", ErrBroken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, dir := script(t, tc.meta, tc.cases)
			ans, err := agentOf(t, path, nil).Off(t.Context(), n2)
			if !errors.Is(err, tc.want) || (tc.want == nil) != (ans.Power == PowerOff) {
				t.Fatalf("%+v, %v; want %v", ans, err, tc.want)
			}
			if errors.Is(tc.want, ErrBroken) && exists(dir+"/told.off") {
				t.Error("it fired, although it could not prove anything")
			}
		})
	}
}

func TestAgentOff_MissingProgramIsBroken(t *testing.T) {
	for _, program := range []string{"fence_that_does_not_exist", "/nonexistent/fence_x"} {
		if _, err := agentOf(t, program, nil).Off(t.Context(), n2); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", program, err)
		}
	}
}

func TestAgent_IsToldTheTargetAsItsMetadataWantsIt(t *testing.T) {
	for _, tc := range []struct {
		name       string
		parameters []string
		change     func(*DeviceConfig)
		want       string
	}{
		{"port goes before plug", []string{"plug", "port deprecated=\"1\""}, nil, "action=off\nnodename=n2\nport=n2\n"},
		{"plug", []string{"plug"}, nil, "action=off\nnodename=n2\nplug=n2\n"},
		{"nodename alone", []string{"ip"}, nil, "action=off\nnodename=n2\n"},
		{"a plug of its own", []string{"port"},
			func(d *DeviceConfig) { d.Plugs = []Plug{{"n1", "3"}, {"n2", "4"}} }, "action=off\nnodename=n2\nport=4\n"},
		{"the operator's plug for all", []string{"port"},
			func(d *DeviceConfig) { d.Options = []Option{{"plug", "x y=z"}, {"ip", "::1"}} },
			"action=off\nnodename=n2\nplug=x y=z\nip=::1\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, dir := script(t, xmlOf(usualActions, tc.parameters), "off) exit 0;; status) exit 2;;")
			if _, err := agentOf(t, path, tc.change).Off(t.Context(), n2); err != nil {
				t.Fatal(err)
			}
			if got := read(t, dir+"/told.off"); got != tc.want {
				t.Errorf("it was told %q, want %q", got, tc.want)
			}
			status := strings.Replace(tc.want, "action=off", "action=status", 1)
			if got := read(t, dir+"/told.status"); got != status {
				t.Errorf("status was told %q, want %q: a proof needs the same arguments", got, status)
			}
		})
	}
}

func TestAgent_MetadataIsReadOnceAndAFailureIsNotRemembered(t *testing.T) {
	path, dir := script(t, "not yet", "off) exit 0;; status) exit 2;;")
	dev := agentOf(t, path, nil)
	if _, err := dev.Off(t.Context(), n2); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	write(t, dir, "meta.xml", xmlOf(usualActions, nil), 0o644)
	for range 3 {
		if _, err := dev.Off(t.Context(), n2); err != nil {
			t.Fatal(err)
		}
	}
	if runs := strings.Count(read(t, dir+"/metadata.runs"), "x"); runs != 2 {
		t.Errorf("metadata was asked for %d times, want 2", runs)
	}
}

func TestAgent_LineBreakInAValueIsRefused(t *testing.T) {
	path, dir := script(t, xmlOf(usualActions, []string{"port"}), "*) exit 0;;")
	dev := agentOf(t, path, nil)
	for _, node := range []string{"n2\naction=on", "n2\r", "n2\x00"} {
		target := n2
		target.Node = node
		if _, err := dev.Off(t.Context(), target); !errors.Is(err, ErrBroken) {
			t.Errorf("node %q: %v", node, err)
		}
	}
	pw := write(t, dir, "pw", "one\ntwo\n", 0o600)
	dev = agentOf(t, path, func(d *DeviceConfig) { d.PasswordFile = pw })
	if _, err := dev.Off(t.Context(), n2); !errors.Is(err, ErrBroken) {
		t.Errorf("password of two lines: %v", err)
	}
	if exists(dir + "/told.off") {
		t.Error("it ran")
	}
}

func TestAgent_PasswordIsPassedOnAndNeverKept(t *testing.T) {
	const secret = "hunter2-very-secret"
	path, dir := script(t, xmlOf(usualActions, []string{"port"}),
		`off) echo "login with `+secret+` and the other"; echo "`+secret+`" >&2; exit 1;;`)
	t.Setenv("TEST_FENCE_PASSWORD", secret)
	file := write(t, dir, "pw", secret+"\n", 0o600)
	for name, change := range map[string]func(*DeviceConfig){
		"option":      func(d *DeviceConfig) { d.Options = []Option{{"password", secret}} },
		"file":        func(d *DeviceConfig) { d.PasswordFile = file },
		"environment": func(d *DeviceConfig) { d.PasswordEnv = "TEST_FENCE_PASSWORD" },
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(dir + "/told.off")
			ans, err := agentOf(t, path, change).Off(t.Context(), n2)
			if err == nil || !strings.Contains(read(t, dir+"/told.off"), "password="+secret+"\n") {
				t.Fatalf("%v, and it was told %q", err, read(t, dir+"/told.off"))
			}
			if all := fmt.Sprintf("%v %+v", err, ans); strings.Contains(all, secret) || !strings.Contains(all, "login with (hidden) and the other") {
				t.Errorf("kept: %s", all)
			}
		})
	}
}

func TestPassword_FileMustBePrivateAndHoldOne(t *testing.T) {
	dir := t.TempDir()
	for i, tc := range []struct {
		mode os.FileMode
		text string
		ok   bool
	}{{0o600, "x", true}, {0o400, "x\n", true}, {0o640, "x", false}, {0o604, "x", false}, {0o600, "", false}, {0o600, "\n", false}} {
		p := password{file: write(t, dir, fmt.Sprint(i), tc.text, tc.mode)}
		got, set, err := p.read()
		if (err == nil) != tc.ok || !set || tc.ok && got != "x" || err != nil && !errors.Is(err, ErrBroken) {
			t.Errorf("mode %o, text %q: %q, %v", tc.mode, tc.text, got, err)
		}
	}
	for name, p := range map[string]password{"directory": {file: dir}, "missing": {file: dir + "/none"}, "unset": {env: "TEST_FENCE_UNSET"}} {
		if _, _, err := p.read(); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOption_SecretIsNotPrinted(t *testing.T) {
	for name, secret := range map[string]bool{
		"password": true, "passwd": true, "snmp_priv_passwd": true, "community": true, "secret_key": true, "token": true,
		"ip": false, "password_script": false, "passwd_file": false, "port": false, "power_timeout": false,
	} {
		o := Option{Name: name, Value: "value"}
		text, _ := o.MarshalText()
		for _, s := range []string{fmt.Sprintf("%v", o), fmt.Sprintf("%+v", []Option{o}), fmt.Sprintf("%#v", o), string(text)} {
			if strings.Contains(s, "value") == secret {
				t.Errorf("%s prints as %s", name, s)
			}
		}
	}
}

func TestAgentStatus_DoesNotHideThatTwoHasTwoMeanings(t *testing.T) {
	for code, want := range map[int]Power{0: PowerOn, 2: PowerOff, 1: PowerUnknown, 7: PowerUnknown} {
		path, _ := script(t, xmlOf(usualActions, nil), fmt.Sprintf("status) exit %d;;", code))
		ans, err := agentOf(t, path, nil).Status(t.Context(), n2)
		if ans.Power != want || (err == nil) != (want != PowerUnknown) {
			t.Errorf("exit %d: %v, %v", code, ans.Power, err)
		}
		if want == PowerOff && !strings.Contains(ans.Text, "arguments are wrong") {
			t.Errorf("exit 2: %q", ans.Text)
		}
	}
}

func TestAgentCheck_SaysWhatWouldNotWorkAndFiresNothing(t *testing.T) {
	const healthy = "monitor) exit 0;; status) exit 0;; list) echo n2,alias; echo n3; exit 0;;"
	meta := xmlOf(usualActions, []string{"port", "ip required=\"1\"", "old deprecated=\"1\" required=\"1\""})
	ip := Option{"ip", "::1"}
	for _, tc := range []struct {
		name, meta, cases string
		change            func(*DeviceConfig)
		severity          Severity
		text              string
	}{
		{"healthy", meta, healthy, nil, Good, "status says that n2 is on"},
		{"plug is listed", meta, healthy, nil, Good, `list names the plug "n2"`},
		{"alias is listed", meta, healthy, func(d *DeviceConfig) { d.Plugs = []Plug{{"n2", "alias"}} }, Good, `list names the plug "alias"`},
		{"plug is not listed", meta, healthy, func(d *DeviceConfig) { d.Plugs = []Plug{{"n2", "7"}} }, Fault, `does not name the plug "7"; it names ["n2" "n3"]`},
		{"one of two plugs", meta, healthy, func(d *DeviceConfig) { d.Plugs = []Plug{{"n2", "n3,9"}} }, Fault, `does not name the plug "9"`},
		{"list fails", meta, "monitor) exit 0;; status) exit 0;; list) exit 3;;", nil, Warning, "list exited 3"},
		{"monitor fails", meta, "monitor) echo cannot log in; exit 1;;", nil, Fault, "monitor exited 1: cannot log in"},
		{"status says off", meta, "monitor) exit 0;; status) exit 2;; list) echo n2; exit 0;;", nil, Fault, "status exits 2"},
		{"status fails", meta, "monitor) exit 0;; status) exit 1;; list) echo n2; exit 0;;", nil, Fault, "status exited 1"},
		{"unknown option", meta, healthy, func(d *DeviceConfig) { d.Options = append(d.Options, Option{"prot", "1"}) }, Warning, "does not know the option prot"},
		{"required option", meta, healthy, func(d *DeviceConfig) { d.Options = nil }, Fault, "needs ip"},
		{"no status", xmlOf([]string{"off", "monitor"}, []string{"ip"}), healthy, nil, Fault, "can prove nothing"},
		{"fabric", xmlOf([]string{"on automatic=\"1\" on_target=\"1\"", "off", "status", "monitor"}, []string{"ip"}), healthy, nil, Good, "leaves its power alone"},
		{"password file", meta, healthy, func(d *DeviceConfig) { d.PasswordFile = "/nonexistent" }, Fault, "/nonexistent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, dir := script(t, tc.meta, tc.cases)
			found := agentOf(t, path, func(d *DeviceConfig) {
				d.Options = []Option{ip}
				if tc.change != nil {
					tc.change(d)
				}
			}).Check(t.Context(), n2)
			if !slices.ContainsFunc(found, func(f Finding) bool {
				return f.Device == "dev" && f.Severity == tc.severity && strings.Contains(f.Text, tc.text)
			}) {
				t.Errorf("found %v; want %v: %s", found, tc.severity, tc.text)
			}
			if tc.severity != Fault && slices.ContainsFunc(found, func(f Finding) bool { return f.Severity == Fault }) {
				t.Errorf("found a fault: %v", found)
			}
			for _, action := range []string{"off", "on", "reboot"} {
				if exists(dir + "/told." + action) {
					t.Errorf("it ran %s", action)
				}
			}
		})
	}
}

func TestAgentCheck_MissingProgramNamesThePackage(t *testing.T) {
	found := agentOf(t, "fence_that_does_not_exist", nil).Check(t.Context(), n2)
	if len(found) != 1 || found[0].Severity != Fault || !strings.Contains(found[0].Text, "apt-get install fence-agents") {
		t.Errorf("%v", found)
	}
}

func TestAgentNeedsOn_IsWhatTheMetadataOrTheOperatorSays(t *testing.T) {
	for _, tc := range []struct {
		on               string
		unfence          bool
		needed, onTarget bool
	}{
		{"on", false, false, false},
		{"on automatic=\"0\"", false, false, false},
		{"on automatic=\"1\"", false, true, false},
		{"on automatic=\"true\" on_target=\"1\"", false, true, true},
		{"on", true, true, false},
		{"off", false, false, false},
	} {
		path, _ := script(t, xmlOf([]string{tc.on}, nil), "")
		dev := agentOf(t, path, func(d *DeviceConfig) { d.Unfence = tc.unfence })
		needed, onTarget, err := dev.NeedsOn(t.Context())
		if needed != tc.needed || onTarget != tc.onTarget || err != nil {
			t.Errorf("%s, unfence %v: %v, %v, %v", tc.on, tc.unfence, needed, onTarget, err)
		}
	}
}

func TestAgent_WaitingForSomebodyElsesMetadataEndsWithTheContext(t *testing.T) {
	path, _ := script(t, xmlOf(usualActions, nil), "")
	dev := agentOf(t, path, nil).(*agent)
	dev.reading <- struct{}{} // somebody reads it, and takes long
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := dev.Off(ctx, n2); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte(xmlOf(usualActions, []string{"port", "plug obsoletes=\"port\" required=\"1\""})))
	f.Add([]byte("<resource-agent/>"))
	f.Add([]byte("<?xml version=\"1.0\" encoding=\"latin1\"?><resource-agent><actions><action name=\"off\"/></actions></resource-agent>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMetadata(b)
		if (m == nil) == (err == nil) {
			t.Fatalf("%v, %v", m, err)
		}
		if m != nil && len(m.actions) == 0 {
			t.Fatal("no action, and no error")
		}
	})
}
