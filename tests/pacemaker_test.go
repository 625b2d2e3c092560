package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// Exit codes of resource agents.
const (
	ocfSuccess      = 0
	ocfGeneric      = 1
	ocfUnsupported  = 3
	ocfInstalled    = 5
	ocfConfigured   = 6
	ocfNotRunning   = 7
	ocfPromoted     = 8
	ocfFailPromoted = 9
)

// agent runs ocf:lockstep:device as Pacemaker does on the nodes of a lab, each of which has a directory for
// what would be a host's own.
type agent struct {
	t    *testing.T
	c    *cluster.Cluster
	path string
	dir  string
}

// newAgent makes a cluster in which Pacemaker decides: failover is manual and nobody is primary.
func newAgent(t *testing.T) *agent {
	t.Helper()
	need.Tool(t, "ocf-tester", "resource-agents")
	a := &agent{t: t, dir: t.TempDir(), path: filepath.Join(installed(t), "usr/lib/ocf/resource.d/lockstep/device")}
	a.c = cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	for _, n := range []string{"n1", "n2", "w"} {
		must(t, os.MkdirAll(filepath.Join(a.dir, n, "bin"), 0o755))
		a.scores(n)
	}
	return a
}

// manual leaves the decision to Pacemaker.
func (a *agent) manual() {
	a.t.Helper()
	a.c.MustCLI("n1", "resource", "set", "r0", "--failover", "manual")
	a.c.MustCLI("n1", "demote", "r0")
}

// scores puts a crm_attribute in place that notes what it is told, and answers whether fencing is on.
func (a *agent) scores(node string) {
	a.t.Helper()
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%[1]s/told\ncase \"$*\" in *stonith-enabled*) cat %[1]s/stonith ;; esac\n", filepath.Join(a.dir, node))
	must(a.t, os.WriteFile(filepath.Join(a.dir, node, "bin/crm_attribute"), []byte(script), 0o755))
	a.stonith(node, "true")
}

func (a *agent) stonith(node, value string) {
	a.t.Helper()
	must(a.t, os.WriteFile(filepath.Join(a.dir, node, "stonith"), []byte(value+"\n"), 0o644))
}

// told returns what Pacemaker was told on a node since the last call, the last line alone.
func (a *agent) told(node string) string {
	a.t.Helper()
	path := filepath.Join(a.dir, node, "told")
	text, _ := os.ReadFile(path)
	os.Remove(path)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// env is what Pacemaker gives an agent.
func (a *agent) env(node string, more ...string) []string {
	return append(append(os.Environ(),
		"HA_SBIN_DIR="+filepath.Join(a.dir, node, "bin"), "OCF_RESKEY_crm_feature_set=3.17.4",
		"OCF_ROOT=/usr/lib/ocf", "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1",
		"OCF_RESOURCE_INSTANCE=r0-device", "OCF_RESOURCE_TYPE=device", "OCF_RESOURCE_PROVIDER=lockstep",
		"HA_RSCTMP="+filepath.Join(a.dir, node), "HA_LOGFACILITY=none", "HA_logfile=/dev/null",
		"OCF_RESKEY_CRM_meta_timeout=20000", "OCF_RESKEY_CRM_meta_interval=10000",
		"OCF_RESKEY_resource=r0", "OCF_RESKEY_socket="+a.c.Node(node).ControlSocket), more...)
}

// try runs an action on a node and returns its exit code and what it said.
func (a *agent) try(node, action string, more ...string) (int, string) {
	a.t.Helper()
	cmd := exec.CommandContext(a.t.Context(), a.path, action)
	cmd.Env = append(a.env(node, more...), "__OCF_ACTION="+action)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		a.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// want runs an action that has to end with a code, and returns what it said.
func (a *agent) want(code int, node, action string, more ...string) string {
	a.t.Helper()
	got, out := a.try(node, action, more...)
	if got != code {
		a.t.Fatalf("%s on %s: exit %d, want %d\n%s", action, node, got, code, out)
	}
	return out
}

func TestOCF_ConformsToTheAgentAPI(t *testing.T) {
	need.Root(t, "ocf-tester runs the agent as nobody, too")
	need.Tool(t, "xmllint", "libxml2-utils")
	a := newAgent(t)
	a.manual()
	os.Chmod(filepath.Dir(cluster.Binary(t)), 0o755)
	for dir := filepath.Dir(a.path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // nobody has to get there
	}
	tester := need.Tool(t, "ocf-tester", "resource-agents")
	cmd := exec.CommandContext(t.Context(), tester, "-n", "r0-device", "-o", "resource=r0", "-o", "socket="+a.c.Node("n1").ControlSocket, a.path)
	cmd.Env = a.env("n1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "passed all tests") {
		t.Errorf("ocf-tester: %v", err)
	}
	meta := filepath.Join(t.TempDir(), "meta.xml")
	must(t, os.WriteFile(meta, []byte(a.want(ocfSuccess, "n1", "meta-data")), 0o644))
	if out, err := proc.Try(t, "xmllint", "--nonet", "--noout", "--relaxng", "/usr/share/resource-agents/metadata.rng", meta); err != nil {
		t.Errorf("meta-data: %v\n%s", err, out)
	}
	a.want(ocfUnsupported, "n1", "dance")
}

func TestOCF_ScriptIsPlainShell(t *testing.T) {
	need.Tool(t, "shellcheck", "shellcheck")
	path := filepath.Join(installed(t), "usr/lib/ocf/resource.d/lockstep/device")
	if out, err := proc.Try(t, "shellcheck", "--shell=sh", "--severity=style", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestOCF_RefusesAResourceForWhichTheClusterDecides(t *testing.T) {
	a := newAgent(t)
	for _, action := range []string{"validate-all", "start", "promote"} {
		if out := a.want(ocfConfigured, "n2", action); !strings.Contains(out, "lockstep resource set r0 --failover manual") {
			t.Errorf("%s does not say what to type:\n%s", action, out)
		}
	}
	a.want(ocfPromoted, "n1", "monitor") // it is primary, whoever decided that
	a.want(ocfNotRunning, "n2", "monitor")
	a.manual()
	a.want(ocfSuccess, "n2", "validate-all")
	a.want(ocfConfigured, "n2", "validate-all", "OCF_RESKEY_resource=../r0")
	a.want(ocfConfigured, "n2", "validate-all", "OCF_RESKEY_resource=")
	a.want(ocfInstalled, "n2", "monitor", "OCF_RESKEY_program=/does/not/exist")
	a.want(ocfGeneric, "n2", "validate-all", "OCF_RESKEY_resource=r1")
	a.want(ocfNotRunning, "n2", "monitor", "OCF_RESKEY_resource=r1")
	a.want(ocfInstalled, "w", "start") // a witness holds no replica
}

func TestOCF_StartPromoteDemoteStop_TellTheTruth(t *testing.T) {
	a := newAgent(t)
	a.manual()
	for _, n := range []string{"n1", "n2"} {
		a.want(ocfNotRunning, n, "monitor")
		a.want(ocfSuccess, n, "start")
		a.want(ocfSuccess, n, "start")
		a.want(ocfSuccess, n, "monitor")
		if told := a.told(n); !strings.Contains(told, "-v 1000") {
			t.Errorf("score of %s: %q", n, told)
		}
	}
	a.want(ocfSuccess, "n1", "promote")
	a.want(ocfSuccess, "n1", "promote")
	a.want(ocfPromoted, "n1", "monitor")
	if told := a.told("n1"); !strings.Contains(told, "-v 10000") {
		t.Errorf("score of the primary: %q", told)
	}
	must(t, dial(t, a.c.URI("n1")).WriteAt(make([]byte, 4096), 0))

	// While one is primary, neither promoting nor demoting another one touches it.
	a.want(ocfGeneric, "n2", "promote", "OCF_RESKEY_trust_fencing=true")
	a.want(ocfSuccess, "n2", "demote")
	a.want(ocfPromoted, "n1", "monitor")
	a.want(ocfSuccess, "n2", "notify")

	a.want(ocfSuccess, "n1", "demote")
	a.want(ocfSuccess, "n1", "monitor")
	a.want(ocfSuccess, "n2", "promote")
	a.want(ocfSuccess, "n1", "monitor")
	a.want(ocfPromoted, "n2", "monitor")
	a.want(ocfSuccess, "n2", "stop") // without a demote before
	a.want(ocfNotRunning, "n2", "monitor")
	if told := a.told("n2"); !strings.Contains(told, "-D") {
		t.Errorf("score after the stop: %q", told)
	}
	a.want(ocfSuccess, "n2", "stop")
	if r := a.c.Status("n1"); r.Primary != "" {
		t.Errorf("%s is primary after all were demoted", r.Primary)
	}
	a.c.MustCLI("n2", "promote", "r0")
	a.want(ocfPromoted, "n2", "monitor") // by hand, and seen none the less
}

func TestOCF_PrimaryKilled_TakenOverOnlyOnTheWordOfPacemaker(t *testing.T) {
	a := newAgent(t)
	a.manual()
	a.want(ocfSuccess, "n1", "start")
	a.want(ocfSuccess, "n2", "start")
	a.want(ocfSuccess, "n1", "promote")
	client := dial(t, a.c.URI("n1"))
	block := []byte(strings.Repeat("lockstep", 512))
	must(t, client.WriteAt(block, 8192))
	a.c.Kill("n1")
	a.want(ocfGeneric, "n1", "monitor") // it was started and is not there
	a.want(ocfNotRunning, "n1", "demote")
	a.want(ocfSuccess, "n1", "stop") // no daemon, no primary
	a.want(ocfNotRunning, "n1", "monitor")

	if out := a.want(ocfGeneric, "n2", "promote"); !strings.Contains(out, "confirm-peer-down") {
		t.Errorf("promoted without a word:\n%s", out)
	}
	a.stonith("n2", "false")
	a.want(ocfGeneric, "n2", "promote", "OCF_RESKEY_trust_fencing=true")
	a.stonith("n2", "true")
	a.want(ocfSuccess, "n2", "promote", "OCF_RESKEY_trust_fencing=true")
	a.want(ocfPromoted, "n2", "monitor")
	got := make([]byte, len(block))
	if err := dial(t, a.c.URI("n2")).ReadAt(got, 8192); err != nil || string(got) != string(block) {
		t.Errorf("what was acknowledged is not there: %v", err)
	}

	a.c.Start("n1")
	a.want(ocfSuccess, "n1", "start")
	a.c.WaitInSync("n2")
	a.told("n1")
	a.want(ocfSuccess, "n1", "monitor")
	if told := a.told("n1"); !strings.Contains(told, "-v 1000") {
		t.Errorf("score of n1, which is in sync again: %q", told)
	}
}

func TestOCF_ReplicaThatLacksWrites_HasNoScore(t *testing.T) {
	a := newAgent(t)
	a.manual()
	a.want(ocfSuccess, "n1", "start")
	a.want(ocfSuccess, "n2", "start")
	a.want(ocfSuccess, "n1", "promote")
	a.c.MustCLI("n1", "disconnect", "r0", "--peer", "n2")
	must(t, dial(t, a.c.URI("n1")).WriteAt(make([]byte, 4096), 0))
	a.c.WaitAlone("n1", "n2")
	proc.Eventually(t, "the score of n2 to be taken away", func() error {
		a.want(ocfSuccess, "n2", "monitor")
		if told := a.told("n2"); !strings.Contains(told, "-D") {
			return fmt.Errorf("Pacemaker was told: %q", told)
		}
		return nil
	})
}

// A daemon that stands still may be primary. Nobody may say that it was stopped, so Pacemaker fences.
func TestOCF_DaemonThatStandsStill_IsNotStopped(t *testing.T) {
	a := newAgent(t)
	a.manual()
	a.want(ocfSuccess, "n1", "start")
	a.want(ocfSuccess, "n1", "promote")
	a.c.Signal("n1", syscall.SIGSTOP)
	const hurry = "OCF_RESKEY_CRM_meta_timeout=3000"
	a.want(ocfGeneric, "n1", "monitor", hurry)
	a.want(ocfGeneric, "n1", "stop", hurry)
	a.want(ocfGeneric, "n1", "demote", hurry)
	a.c.Signal("n1", syscall.SIGCONT)
	proc.Eventually(t, "n1 to be stopped once it goes on", func() error {
		if code, out := a.try("n1", "stop"); code != ocfSuccess {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
	a.want(ocfNotRunning, "n1", "monitor")
}

// A primary that cannot serve is one that failed: neither well nor a secondary.
func TestOCF_PrimaryThatIsFrozen_HasFailed(t *testing.T) {
	a := newAgent(t)
	a.manual()
	a.want(ocfSuccess, "n1", "start")
	a.want(ocfSuccess, "n1", "promote")
	a.c.Kill("n2")
	a.c.Kill("w")
	a.c.Eventually("n1", "n1 frozen", func(r control.Resource) error {
		if r.IO.State != control.IOFrozen {
			return fmt.Errorf("io is %s", r.IO.State)
		}
		return nil
	})
	a.want(ocfFailPromoted, "n1", "monitor", "OCF_RESKEY_CRM_meta_timeout=3000")
}
