package services

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestSwitchover_ServicesMoveInOrder_AndTheNetworkIsTold(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	r.answered()
	next := r.announcements()
	begun := time.Now()
	r.MustCLI("n1", "switchover", "r0", "--to", "n2")
	moved := time.Since(begun)
	took := r.answered()
	t.Logf("the switchover took %v, with all that follows; the client was answered %v after it", moved, took)
	if got, want := next().String(), r.mac("n2").String(); got != want {
		t.Errorf("the first gratuitous ARP comes from %s, not from n2, %s", got, want)
	}
	r.runs("n2")
	if r.holds("n1") || !r.holds("n2") {
		t.Errorf("n1 has the address: %t, n2: %t", r.holds("n1"), r.holds("n2"))
	}
	if got, want := r.calls(), []string{"start n1", "stop n1", "start n2"}; !slices.Equal(got, want) {
		t.Errorf("the hook was called with %q, want %q", got, want)
	}
	r.MustCLI("n2", "demote", "r0")
	if r.holds("n2") {
		t.Error("after a demote, n2 has the address")
	}
	if got, want := r.calls(), []string{"start n1", "stop n1", "start n2", "stop n2"}; !slices.Equal(got, want) {
		t.Errorf("the hook was called with %q, want %q", got, want)
	}
}

func TestPrimaryKilled_ServicesFollow_AndWhatItLeftIsStoppedAtItsRestart(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	r.answered()
	begun := time.Now()
	r.Kill("n1")
	r.WaitPrimary("n2")
	promoted := time.Since(begun)
	r.runs("n2")
	t.Logf("n2 was primary after %v, and its services ran after %v", promoted, time.Since(begun))
	if got, want := r.calls(), []string{"start n1", "start n2"}; !slices.Equal(got, want) {
		t.Errorf("the hook was called with %q, want %q", got, want)
	}
	r.Start("n1")
	r.drops("n1")
	proc.Eventually(t, "n1 to stop what it left", func() error {
		if got := r.calls(); !slices.Contains(got, "stop n1") {
			return fmt.Errorf("the hook was called with %q", got)
		}
		return nil
	})
	r.answered()
	if !r.holds("n2") {
		t.Error("n2 has lost the address")
	}
}

func TestPrimaryStopped_ItsServicesAreStoppedBeforeItGivesUpTheRole(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	r.Signal("n1", syscall.SIGTERM)
	r.WaitPrimary("n2")
	r.runs("n2")
	if got, want := r.calls(), []string{"start n1", "stop n1", "start n2"}; !slices.Equal(got, want) {
		t.Errorf("the hook was called with %q, want %q", got, want)
	}
	if r.holds("n1") {
		t.Error("n1 has the address")
	}
	r.answered()
}

// The daemon of the old primary lives on and reaches nobody: it has to drop the address by itself.
func TestPrimaryIsolated_DropsTheAddress_AndTheOtherTakesIt(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	begun := time.Now()
	if err := r.Lab.Isolate("n1", lab.BothWays); err != nil {
		t.Fatal(err)
	}
	r.drops("n1")
	dropped := time.Since(begun)
	r.WaitPrimary("n2")
	r.runs("n2")
	t.Logf("n1 dropped the address after %v; n2 held it after %v", dropped, time.Since(begun))
	r.answered()
	if err := r.Lab.Heal(); err != nil {
		t.Fatal(err)
	}
	proc.Eventually(t, "n1 to stop its hook", func() error {
		if got := r.calls(); !slices.Contains(got, "stop n1") {
			return fmt.Errorf("the hook was called with %q", got)
		}
		return nil
	})
}

func TestSecondaryKilled_NothingIsStopped(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	r.Kill("n2")
	r.Eventually("n1", "n2 to leave the set", func(s control.Resource) error {
		if len(s.InSync) != 1 {
			return errors.New("it has not")
		}
		return nil
	})
	r.answered()
	if got := r.calls(); !slices.Equal(got, []string{"start n1"}) {
		t.Errorf("the hook was called with %q", got)
	}
	for _, line := range strings.Split(r.MustCLI("n1", "events"), "\n") {
		if strings.Contains(line, "vip") && strings.Contains(line, "stopping") {
			t.Errorf("the address was dropped: %s", line)
		}
	}
}

func TestStartFails_TheNextNodeTries_UntilCleared(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.tell("start", "n1", "fail")
	r.MustCLI("n1", "resource", "set", "r0", "--vip", r.vip.String(), "--exec", r.hook)
	r.WaitPrimary("n2")
	r.runs("n2")
	if r.holds("n1") {
		t.Error("n1 has the address")
	}
	st := r.Status("n2")
	if n1, _ := cluster.Replica(st, "n1"); !strings.Contains(n1.ServicesFailed, "told to fail") {
		t.Errorf("status of n1: %+v", n1)
	}
	if !slices.ContainsFunc(st.Advice, func(a string) bool { return strings.Contains(a, "lockstep resource clear r0") }) {
		t.Errorf("advice: %q", st.Advice)
	}
	// It is mended, and an operator says so.
	r.tell("start", "n1", "")
	r.MustCLI("n1", "resource", "clear", "r0")
	r.MustCLI("n2", "switchover", "r0", "--to", "n1")
	r.runs("n1")
	r.answered()
}

// failed returns when the services are stopped on the primary, whoever that is, because they failed on both nodes.
func (r *rig) failed() (primary string) {
	r.t.Helper()
	proc.Eventually(r.t, "the services to have failed everywhere", func() error {
		primary = r.primary()
		s, err := r.TryStatus(primary, "r0")
		if err != nil {
			return err
		}
		for _, n := range r.DataNodes() {
			if p, _ := cluster.Replica(s, n); p.ServicesFailed == "" {
				return fmt.Errorf("not on %s: %+v", n, s.Services)
			}
		}
		if s.Services == nil || s.Services.Halted == "" {
			return fmt.Errorf("%s: %+v", s.Role, s.Services)
		}
		return nil
	})
	return primary
}

func TestFailedEverywhere_AreTriedAgainWhenClearedOrChanged(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, n := range []string{"n1", "n2"} {
		r.tell("start", n, "fail")
	}
	r.MustCLI("n1", "resource", "set", "r0", "--vip", r.vip.String(), "--exec", r.hook)
	r.failed()
	for range 2 {
		r.MustCLI("n1", "resource", "clear", "r0")
		r.failed()
	}
	for _, n := range []string{"n1", "n2"} {
		r.tell("start", n, "")
	}
	r.MustCLI("n1", "resource", "clear", "r0") // as soon as the failure is known: it is not undone by that
	r.runs(r.primary())
	r.answered()

	for _, n := range []string{"n1", "n2"} {
		r.tell("start", n, "fail")
	}
	r.MustCLI("n1", "resource", "set", "r0", "--no-services")
	r.MustCLI("n1", "resource", "set", "r0", "--exec", r.hook)
	r.failed()
	// It is mended by having other services: nobody has to clear what is no more.
	r.MustCLI("n1", "resource", "set", "r0", "--vip", r.vip.String())
	r.runs(r.primary())
	r.answered()
}

func (r *rig) primary() (name string) {
	r.t.Helper()
	proc.Eventually(r.t, "a primary", func() error {
		for _, n := range r.DataNodes() {
			if s, err := r.TryStatus(n, "r0"); err == nil && s.Role == control.RolePrimary {
				name = n
				return nil
			}
		}
		return errors.New("there is none")
	})
	return name
}

// A typing error must not turn off one node after the other.
func TestProgramThatIsNotThere_IsRefused_AndWhereItCannotBeSeen_NothingIsStuck(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	for option, want := range map[string]string{
		"--exec=/no/such/hook": "no such file", "--ocf=heartbeat:NoSuchAgent": "no such file", "--vip=192.0.2.1/24": "name the interface",
	} {
		res := r.CLI("n1", "resource", "set", "r0", option)
		if res.Code == 0 || !strings.Contains(res.Stderr, "n1 cannot start this: ") || !strings.Contains(res.Stderr, want) {
			t.Errorf("%s", res)
		}
	}
	r.answered() // by what was there before
	if got := r.calls(); !slices.Equal(got, []string{"start n1"}) {
		t.Errorf("the hook was called with %q", got)
	}

	r.MustCLI("w", "resource", "set", "r0", "--exec", "/no/such/hook", "--ocf", "heartbeat:NoSuchAgent") // the witness knows no better
	proc.Eventually(t, "the services to fail on both nodes", func() error {
		st := r.Status("n1")
		for _, n := range r.DataNodes() {
			if p, _ := cluster.Replica(st, n); !strings.Contains(p.ServicesFailed, "no such file") {
				return fmt.Errorf("%s: %q", n, p.ServicesFailed)
			}
		}
		return nil
	})
	for _, n := range r.DataNodes() {
		if st := r.Status(n); st.Services != nil && st.Services.Stuck != "" {
			t.Errorf("%s: %s", n, st.Services.Stuck)
		}
	}
	if !slices.Contains(r.calls(), "stop n1") {
		t.Error("what was there before was not stopped")
	}
}

func TestMonitorFails_RestartsThere(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.up("n1")
	r.tell("monitor", "n1", "fail")
	proc.Eventually(t, "a restart", func() error {
		if got := r.calls(); len(got) < 3 {
			return fmt.Errorf("the hook was called with %q", got)
		}
		return nil
	})
	r.tell("monitor", "n1", "")
	r.runs("n1")
	if got := r.calls(); got[1] != "stop n1" || got[2] != "start n1" {
		t.Errorf("the hook was called with %q", got)
	}
}

// A stop that hangs keeps the role where it is, and the watchdog hungry. The watchdog is that of a service of
// systemd, whose socket the test holds.
func TestStopHangs_TheRoleIsKept_AndTheWatchdogIsNotPetted(t *testing.T) {
	t.Parallel()
	dir := cluster.ShmDir(t)
	addr := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	notify, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	wrapper := filepath.Join(dir, "node")
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in */n1/*) export NOTIFY_SOCKET=%s WATCHDOG_USEC=1000000 ;; esac\nexec %s node \"$@\"\n", addr.Name, cluster.Binary(t))
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, wrapper)
	r.up("n1")
	pets := func(within time.Duration) bool {
		notify.SetReadDeadline(time.Now().Add(within))
		b := make([]byte, 4096)
		for {
			n, err := notify.Read(b)
			if err != nil {
				return false
			}
			if string(b[:n]) == "WATCHDOG=1" {
				return true
			}
		}
	}
	if !pets(20 * time.Second) {
		t.Fatal("the watchdog is never petted")
	}
	r.tell("stop", "n1", "hang")
	res := r.CLI("n1", "demote", "r0")
	if res.Code == 0 || !strings.Contains(res.Stderr, "keeps the role of the primary") {
		t.Errorf("demote: exit %d, %s", res.Code, res.Stderr)
	}
	st := r.Status("n1")
	if st.Role != control.RolePrimary || st.Services == nil || st.Services.Stuck == "" {
		t.Errorf("n1 is %s, services %+v", st.Role, st.Services)
	}
	// What was sent before is read first; then there is silence for longer than the timeout.
	proc.Eventually(t, "the watchdog to be left alone", func() error {
		if pets(1500 * time.Millisecond) {
			return errors.New("it is petted")
		}
		return nil
	})
	r.tell("stop", "n1", "")
	r.runs("n1") // stopped at last, and started again, since the role was kept
	if !pets(20 * time.Second) {
		t.Error("the watchdog is not petted although nothing is stuck")
	}
}

func TestAgents_OfTheDistribution(t *testing.T) {
	t.Parallel()
	r := start(t)
	const agents = "/usr/lib/ocf/resource.d/heartbeat/"
	for _, a := range []string{"Dummy", "IPaddr2"} {
		if _, err := os.Stat(agents + a); err != nil {
			need.Skip(t, "needs the agent %s (package resource-agents)", a)
		}
	}
	state := filepath.Join(r.state, "dummy")
	r.MustCLI("n1", "resource", "set", "r0",
		"--ocf", "heartbeat:IPaddr2,ip="+r.vip.Addr().String()+",cidr_netmask=24,nic=eth0",
		"--ocf", "heartbeat:Dummy,state="+state+",monitor-interval=200ms")
	r.runs("n1")
	r.answered()
	r.MustCLI("n1", "switchover", "r0", "--to", "n2")
	r.runs("n2")
	if r.holds("n1") || !r.holds("n2") {
		t.Errorf("n1 has the address: %t, n2: %t", r.holds("n1"), r.holds("n2"))
	}
	r.answered()
	r.MustCLI("n2", "resource", "set", "r0", "--no-services")
	r.drops("n2")
	proc.Eventually(t, "the agents to stop", func() error {
		if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the state of Dummy is there: %v", err)
		}
		return nil
	})
}

// All nodes of a lab see the same mounts, so that one device stands for the kernel's on each of them: what the
// old primary did not unmount, the new one would find mounted.
func TestMount_ComesBeforeTheAddress_AndMovesWithTheRole(t *testing.T) {
	t.Parallel()
	r := start(t)
	need.Tool(t, "mkfs.ext4", "e2fsprogs")
	need.Tool(t, "losetup", "mount")
	need.Device(t, "/dev/loop-control")
	image := proc.SparseFile(t, 16*cluster.MiB)
	proc.Run(t, "mkfs.ext4", "-q", "-F", image)
	loop := strings.TrimSpace(proc.Run(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { proc.Run(t, "losetup", "-d", loop) })
	dir := filepath.Join(r.state, "mnt")
	t.Cleanup(func() { proc.Try(t, "umount", dir) })
	r.up("n1", "--mount", dir+",device="+loop+",opt=noatime")
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("by n1"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.MustCLI("n1", "switchover", "r0", "--to", "n2")
	r.runs("n2")
	if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "by n1" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	var order []string
	for _, v := range r.Status("n2").Services.List {
		kind, _, _ := strings.Cut(v.Name, " ")
		order = append(order, kind)
	}
	if want := []string{"mount", "vip", "exec"}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	for node, want := range map[string][]string{"n1": {"running", "stopping", "stopped"}, "n2": {"starting", "running"}} {
		events := r.MustCLI(node, "events")
		for _, state := range want {
			if !strings.Contains(events, "mount "+dir+" is "+state) {
				t.Errorf("%s never says that the mount is %s:\n%s", node, state, events)
			}
		}
	}
	r.MustCLI("n2", "demote", "r0")
	if _, err := os.Stat(filepath.Join(dir, "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a demote the file system is mounted: %v", err)
	}
}
