package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// netLab is a lab with namespaces as somebody has it who types commands.
type netLab struct {
	t   *testing.T
	dir string
}

func upNetLab(t *testing.T) netLab {
	t.Helper()
	need.Root(t, "to make network namespaces")
	l := netLab{t, cluster.ShmDir(t)}
	t.Cleanup(func() { l.run("down") })
	l.run("up", "--netns", "--size", "64MiB")
	return l
}

// args completes a lab command.
func (l netLab) args(verb string, args []string) []string {
	return append([]string{"lab", verb, "--dir", l.dir}, args...)
}

// run runs a lab command, which has to succeed.
func (l netLab) run(verb string, args ...string) string {
	l.t.Helper()
	return cluster.MustCLI(l.t, l.args(verb, args)...)
}

// status is lab status.
func (l netLab) status() lab.Status {
	l.t.Helper()
	var st lab.Status
	must(l.t, json.Unmarshal([]byte(l.run("status", "--json")), &st))
	return st
}

// node is a node's entry of lab status.
func (l netLab) node(name string) lab.NodeStatus {
	l.t.Helper()
	st := l.status()
	i := slices.IndexFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Name == name })
	if i < 0 {
		l.t.Fatalf("no %s in %+v", name, st)
	}
	return st.Nodes[i]
}

// socket is the control socket of a node.
func (l netLab) socket(node string) string { return l.dir + "/" + node + "/control.sock" }

// waitDropped returns when n1 serves without n2.
func (l netLab) waitDropped() {
	l.t.Helper()
	l.eventually("n1 to serve without n2", func(r control.Resource) error {
		if r.IO.State != control.IORunning || slices.Contains(r.InSync, "n2") {
			return fmt.Errorf("io %s, in sync %v", r.IO.State, r.InSync)
		}
		return nil
	})
}

// waitEqual returns when n1 and n2 are in sync, and fails the test unless they hold the same.
func (l netLab) waitEqual() {
	l.t.Helper()
	l.eventually("n2 to be in sync", func(r control.Resource) error {
		if r.IO.State != control.IORunning || !slices.Contains(r.InSync, "n2") {
			return fmt.Errorf("io %s, in sync %v", r.IO.State, r.InSync)
		}
		return nil
	})
	cluster.RequireSame(l.t, l.dir+"/n1/r0.img", l.dir+"/n2/r0.img")
}

// eventually polls what n1 says of r0.
func (l netLab) eventually(what string, check func(control.Resource) error) {
	l.t.Helper()
	c := control.NewClient(l.socket("n1"))
	proc.Eventually(l.t, what, func() error {
		st, err := c.Status(l.t.Context(), "r0")
		if err != nil {
			return err
		}
		if len(st.Resources) != 1 {
			return errors.New("n1 knows no r0")
		}
		return check(st.Resources[0])
	})
}

func TestLabNetns_CutReplicaIsDropped_AndEqualAgainAfterHeal(t *testing.T) {
	l := upNetLab(t)
	client := dial(t, "nbd+unix:///r0?socket="+l.dir+"/n1/nbd.sock")
	for i, fault := range []struct{ cmd, args, node string }{
		{"cut", "n1 n2", ""},
		{"cut", "n1 n2 --one-way", ""},
		{"cut", "n2 n1 --one-way", ""},
		{"link", "n2 down", "n2"},
		{"isolate", "n2", "n2"},
		{"isolate", "n2 --receive-only", "n2"},
	} {
		t.Run(fault.cmd+" "+fault.args, func(t *testing.T) {
			l := netLab{t, l.dir}
			from := int64(i) * cluster.MiB
			l.run(fault.cmd, strings.Fields(fault.args)...)
			// The writes wait until the ledger has dropped n2.
			must(t, fill(client, from, from+cluster.MiB))
			l.waitDropped()
			if fault.node == "" {
				l.run("heal", "n2", "n1")
			} else {
				l.run("heal", fault.node)
			}
			l.waitEqual()
			if st := l.status(); len(st.Lost) > 0 || l.node("n2").Link != lab.LinkUp {
				t.Errorf("after heal: %+v", st)
			}
		})
	}
}

func TestLabNetns_HostKilledAndStarted_IsEqualAgain(t *testing.T) {
	l := upNetLab(t)
	client := dial(t, "nbd+unix:///r0?socket="+l.dir+"/n1/nbd.sock")
	l.run("kill", "--host", "n2")
	if n := l.node("n2"); n.Process != lab.ProcessStopped || n.Link != lab.LinkOff {
		t.Errorf("n2 is %+v", n)
	}
	must(t, fill(client, 0, cluster.MiB))
	l.waitDropped()
	l.run("start", "n2")
	l.waitEqual()

	l.run("pause", "n2")
	if n := l.node("n2"); n.Process != lab.ProcessPaused {
		t.Errorf("n2 is %+v", n)
	}
	must(t, fill(client, cluster.MiB, 2*cluster.MiB))
	l.run("resume", "n2")
	l.run("pause", "n2", "50ms")
	l.waitEqual()
}

func TestLabNetns_ExecRunsInTheNetworkOfTheClient(t *testing.T) {
	l := upNetLab(t)
	res := cluster.CLI(t, l.args("exec", []string{"client", "--", "sh", "-c", "cat /proc/net/fib_trie; exit 7"})...)
	if res.Code != 7 || !strings.Contains(res.Stdout, l.node("client").Addr) {
		t.Errorf("%v", res)
	}
	info := need.Tool(t, "nbdinfo", "libnbd-bin")
	uri := fmt.Sprintf("nbd://%s/r0", l.node("n1").Addr)
	if out := l.run("exec", "client", "--", info, "--size", uri); strings.TrimSpace(out) != fmt.Sprint(64*cluster.MiB) {
		t.Errorf("size over the lab's network: %s", out)
	}
}

func TestLabNetns_OnTheLoopbackInterface_CommandsNameTheOption(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: cluster.MiB})
	l := netLab{t, c.Dir}
	for _, line := range []string{"cut n1 n2", "isolate n1", "link n1 down", "heal", "kill n1 --host", "exec n1 -- true"} {
		verb, args, _ := strings.Cut(line, " ")
		res := cluster.CLI(t, l.args(verb, strings.Fields(args))...)
		if res.Code != 1 || !strings.Contains(res.Stderr, "--netns") {
			t.Errorf("%v", res)
		}
	}
	if st := l.status(); st.Network != "loopback" || st.Nodes[0].Process != lab.ProcessRunning {
		t.Errorf("%+v", st)
	}
}

func TestLabNetns_DownLeavesNoNamespace(t *testing.T) {
	l := upNetLab(t)
	net := l.status().Network // 10.x.0.0/24
	prefix := "lockstep-" + strings.Split(net, ".")[1] + "-"
	had := namespaces(t, prefix)
	if len(had) != 5 { // three nodes, the client and the switch
		t.Errorf("namespaces: %v", had)
	}
	l.run("kill", "n1")
	l.run("cut", "n2", "w")
	l.run("down")
	if left := namespaces(t, prefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// namespaces lists the named network namespaces of a lab.
func namespaces(t *testing.T, prefix string) []string {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	must(t, err)
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, e.Name())
		}
	}
	return out
}
