package config

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

const fenced = small + `
[[node]]
name = "n2"
addr = "127.0.0.1:8780"
gossip = "127.0.0.1:8781"

[fence.ipmi-n2]
agent = "fence_ipmilan"
password_file = "ipmi.pw"
options = { ip = "10.0.0.2", lanplus = true, power_timeout = 20 }

[fence."pdu.a"]
agent = "/opt/fence_apc"
timeout = "5s"
retries = 0
unfence = true
[fence."pdu.a".options]
community = "hunter2"
[fence."pdu.a".plugs]
n2 = "4"
n1 = "3"

[fence.own]
exec = "off.sh"
password_env = "PW"

[fence.dog]
watchdog = true

[fencing]
limit = "40s"
nodes.n2 = [["ipmi-n2"], ["pdu.a", "own"], ["dog"]]
nodes.n1 = [["dog"]]

[watchdog]
device = "/dev/watchdog"
timeout = "15s"
`

// fencedNode is what the text means.
func fencedNode() Node {
	n := DefaultNode()
	n.Fences = []Fence{
		{Name: "dog", Watchdog: true, Timeout: 20 * time.Second, Retries: 1},
		{Name: "ipmi-n2", Agent: "fence_ipmilan", PasswordFile: "/etc/lockstep/ipmi.pw", Timeout: 20 * time.Second, Retries: 1,
			Options: []FenceOption{{"ip", "10.0.0.2"}, {"lanplus", "true"}, {"power_timeout", "20"}}},
		{Name: "own", Exec: "/etc/lockstep/off.sh", PasswordEnv: "PW", Timeout: 20 * time.Second, Retries: 1},
		{Name: "pdu.a", Agent: "/opt/fence_apc", Timeout: 5 * time.Second, Unfence: true,
			Options: []FenceOption{{"community", "hunter2"}}, Plugs: []FencePlug{{"n1", "3"}, {"n2", "4"}}},
	}
	n.Fencing = Fencing{Limit: 40 * time.Second, Nodes: []FenceNode{
		{Node: "n1", Levels: [][]string{{"dog"}}},
		{Node: "n2", Levels: [][]string{{"ipmi-n2"}, {"pdu.a", "own"}, {"dog"}}},
	}}
	n.Watchdog = Watchdog{Device: "/dev/watchdog", Timeout: 15 * time.Second}
	return n
}

func TestFencing_IsReadAndEncodesToItself(t *testing.T) {
	n, err := parse("node.toml", "/etc/lockstep", []byte(fenced)).finish()
	if err != nil {
		t.Fatal(err)
	}
	want := fencedNode()
	if !reflect.DeepEqual(n.Fences, want.Fences) || !reflect.DeepEqual(n.Fencing, want.Fencing) || n.Watchdog != want.Watchdog {
		t.Errorf("got  %+v %+v %+v\nwant %+v %+v %+v", n.Fences, n.Fencing, n.Watchdog, want.Fences, want.Fencing, want.Watchdog)
	}
	again, err := parse("node.toml", "/elsewhere", n.Encode()).finish()
	if err != nil || !reflect.DeepEqual(again, n) {
		t.Errorf("%v\n%s", err, n.Encode())
	}
	if string(again.Encode()) != string(n.Encode()) {
		t.Error("it encodes to another text the second time")
	}
}

func TestFencing_DefaultsAreNone(t *testing.T) {
	n, err := parse("node.toml", "/", []byte(small)).finish()
	if err != nil {
		t.Fatal(err)
	}
	if n.Fences != nil || n.Fencing.Nodes != nil || n.Fencing.Limit != 50*time.Second || n.Watchdog != (Watchdog{}) {
		t.Errorf("%+v", n)
	}
	if text := string(n.Encode()); strings.Contains(text, "fenc") || strings.Contains(text, "watchdog") {
		t.Errorf("encoded:\n%s", text)
	}
	if n.Watchdog.RealTimeout() != 10*time.Second || fencedNode().Watchdog.RealTimeout() != 15*time.Second {
		t.Error("real timeout")
	}
}

func TestFencing_ReportsEveryFaultAtOnceAndNoSecret(t *testing.T) {
	text, err := os.ReadFile("testdata/fencing_faults.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = parse("fencing_faults.toml", "/etc/lockstep", text).finish()
	if err == nil {
		t.Fatal("accepted")
	}
	golden := "testdata/fencing_faults.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, rerr := os.ReadFile(golden)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err.Error()+"\n" != string(want) {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a password is shown")
	}
}

func TestFencing_SectionsThatAreNoneAreFaults(t *testing.T) {
	for text, want := range map[string]string{
		"fence = 1\n" + small:                                        "fence is a table",
		"fence = { a = 1 }\n" + small:                                "fence.a is no section",
		"fencing = [1]\n" + small:                                    "fencing is a table",
		"watchdog = \"/dev/watchdog\"\n" + small:                     "watchdog is a table",
		small + "[fence.a]\noptions = 1":                             "fence.a.options is a table",
		small + "[fencing]\nnodes = 1":                               "fencing.nodes is a table",
		small + "[fencing]\nnodes.n1 = [[1]]":                        "1 is no name of a device",
		small + "[watchdog]\ndevice = \"systemd\"\ntimeout = \"5s\"": "WatchdogSec=",
		small + "[watchdog]\ndevice = \"/dev/w\"\ntimeout = \"1s\"":  "watchdog.timeout is 1s",
		small + "[fenc.a]\nx = 1":                                    `did you mean "fence"`,
		small + "[fence.\"a b\"]\nwatchdog = true":                   `"a b"`,
	} {
		if _, err := parse("f", "/", []byte(text)).finish(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v; want %q", text, err, want)
		}
	}
}

func TestFencing_APasswordIsNeverShownAndWantsAPrivateFile(t *testing.T) {
	if _, err := Load(write(t, "node.toml", fenced, 0o644)); err == nil || !strings.Contains(err.Error(), "community: the file holds a password") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("mode 0644: %v", err)
	}
	n, err := Load(write(t, "node.toml", fenced, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v", n), fmt.Sprintf("%+v", n), fmt.Sprintf("%#v", n), string(encoded)} {
		if strings.Contains(s, "hunter2") || !strings.Contains(s, "10.0.0.2") {
			t.Error(s)
		}
	}
	for _, line := range []string{
		`password = "hunter2`, `"password" = "hunter2`, `options = { ip = "::1", snmp_priv_passwd = "hunter2" `, `password "hunter2"`, `secret = hunter2`,
	} {
		_, err := parse("f", "/", []byte(small+"[fence.a]\n"+line+"\n")).finish()
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
