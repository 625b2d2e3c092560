package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/linkcheck"
	"github.com/lockstep-ha/lockstep/quorum"
)

// kernelWith makes a tree that looks like /sys and /proc.
func kernelWith(t *testing.T, files map[string]string, links map[string]string) kernelView {
	t.Helper()
	root := t.TempDir()
	put := func(path string, make func(string) error) {
		at := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), make(at)); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range files {
		put(path, func(at string) error { return os.WriteFile(at, []byte(text), 0o600) })
	}
	for path, to := range links {
		put(path, func(at string) error { return os.Symlink(filepath.Join(root, to), at) })
	}
	return kernelView{sys: filepath.Join(root, "sys"), proc: filepath.Join(root, "proc")}
}

func TestDevice_IsResolvedToTheDisksBelow(t *testing.T) {
	k := kernelWith(t, map[string]string{
		"sys/block/sda/queue/write_cache":     "write back\n",
		"sys/block/sda/sda1/partition":        "1\n",
		"sys/block/sdb/queue/write_cache":     "write through\n",
		"sys/block/dm-0/queue/write_cache":    "write back\n",
		"sys/block/nvme0n1/queue/write_cache": "perhaps\n",
	}, map[string]string{
		"sys/dev/block/8:1":          "sys/block/sda/sda1",
		"sys/dev/block/8:16":         "sys/block/sdb",
		"sys/dev/block/253:0":        "sys/block/dm-0",
		"sys/dev/block/259:0":        "sys/block/nvme0n1",
		"sys/block/dm-0/slaves/sda1": "sys/block/sda/sda1",
		"sys/block/dm-0/slaves/sdb":  "sys/block/sdb",
	})
	for number, want := range map[string]control.Disk{
		"8:1":   {Device: "sda1", Disks: []string{"sda"}, WriteCache: control.CacheVolatile},
		"8:16":  {Device: "sdb", Disks: []string{"sdb"}, WriteCache: control.CacheNone},
		"253:0": {Device: "dm-0", Disks: []string{"sda", "sdb"}, WriteCache: control.CacheVolatile},
		"259:0": {Device: "nvme0n1", Disks: []string{"nvme0n1"}},
		"1:1":   {},
	} {
		var d control.Disk
		k.device(&d, number)
		if d.Device != want.Device || !slices.Equal(d.Disks, want.Disks) || d.WriteCache != want.WriteCache {
			t.Errorf("%s: %+v", number, d)
		}
		if (d.WriteCache == "") != (d.Unknown != "") {
			t.Errorf("%s: what is not known is not said: %+v", number, d)
		}
	}
}

func TestDiskOf_MeasuresThisMachine(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r0.img")
	if err := errors.Join(os.WriteFile(path, make([]byte, 64<<10), 0o600), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	d := thisKernel.diskOf(path)
	if d.FileSystem == "" || d.TotalBytes <= 0 || d.FreeBytes <= 0 || !d.Sparse || d.MissBytes < 900<<10 || d.MissBytes > 1<<20 {
		t.Errorf("%+v", d)
	}
	if d.Device == "" && d.Unknown == "" {
		t.Errorf("neither a device nor why not: %+v", d)
	}
	if later := thisKernel.diskOf(filepath.Join(dir, "later.img")); later.TotalBytes != d.TotalBytes || later.Sparse {
		t.Errorf("a file that is not made yet: %+v", later)
	}
	if none := thisKernel.diskOf(filepath.Join(dir, "no", "such.img")); none.Unknown == "" {
		t.Errorf("nothing at all: %+v", none)
	}
}

func TestVirtual_IsToldByTheProcessor(t *testing.T) {
	for text, want := range map[string]string{
		"processor\t: 0\nflags\t\t: fpu hypervisor lahf\n": control.VirtualYes,
		"processor\t: 0\nflags\t\t: fpu lahf\n":            control.VirtualNo,
		"processor\t: 0\nFeatures\t: fp asimd\n":           "", // not told on this one
	} {
		if got := kernelWith(t, map[string]string{"proc/cpuinfo": text}, nil).virtual(); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	if got := kernelWith(t, map[string]string{"sys/hypervisor/type": "xen\n"}, nil).virtual(); got != control.VirtualYes {
		t.Errorf("xen: %q", got)
	}
}

func TestBondMembers_CountsTheLinksOfABond(t *testing.T) {
	k := kernelWith(t, map[string]string{
		"sys/class/net/bond0/bonding/slaves": "eth0 eth1\n", "sys/class/net/eth0/uevent": "INTERFACE=eth0\n",
		"sys/class/net/team0/uevent": "DEVTYPE=team\n", "sys/class/net/team0/lower_eth2": "", "sys/class/net/team0/lower_eth3": "", "sys/class/net/team0/lower_eth4": "",
		"sys/class/net/bond0.7/lower_bond0": "",
	}, nil)
	for name, want := range map[string]int{"bond0": 2, "team0": 3, "bond0.7": 2, "eth0": 0, "gone": 0} {
		if got := k.bondMembers(name); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestPresets_AreThoseOfTheNodeFile(t *testing.T) {
	for _, want := range presets() {
		path := filepath.Join(t.TempDir(), "node.toml")
		file := config.DefaultNode()
		file.Name, file.Cluster, file.Key, file.DataDir = "n1", "c", config.NewKey(), t.TempDir()
		file.Nodes = []config.Peer{{Name: "n1", Addr: file.Listen, Gossip: file.GossipListen}}
		var lines []string
		for line := range strings.Lines(string(file.Encode())) {
			key, _, _ := strings.Cut(line, " ")
			if !slices.Contains([]string{"timing", "beacon_interval", "lease", "peer_timeout", "drop_grace", "drift_margin"}, key) {
				lines = append(lines, line)
			}
		}
		text := fmt.Sprintf("timing = %q\n%s", want.Preset, strings.Join(lines, ""))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		loaded, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := timingOf(loaded); got != want {
			t.Errorf("%s: %+v, the node file has %+v", want.Preset, want, got)
		}
		loaded.Lease++
		if got := timingOf(loaded); got.Preset != "" {
			t.Errorf("a lease of its own is called %q", got.Preset)
		}
	}
}

// echoDial connects to an echo in this process.
func echoDial(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, node, service string) (net.Conn, error) {
		if node != "n2" || service != linkcheck.Service {
			return nil, errors.New("nobody there")
		}
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); linkcheck.Serve(context.Background(), far) }()
		t.Cleanup(func() { near.Close(); <-done })
		return near, nil
	}
}

func TestFacts_TellOfReplicasPeersAndFences(t *testing.T) {
	c := promoted(t)
	n1 := c.nodes["n1"]
	n1.exam.dial, n1.exam.canFence = echoDial(t), func(node string) bool { return node == "w" }
	f, err := n1.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.Node != "n1" || f.Boot != "boot" || f.Kernel == "" || f.Timing.Preset != "lan" || !slices.Equal(f.Fences, []string{"w"}) {
		t.Errorf("%+v", f)
	}
	if len(f.Replicas) != 1 || !f.Replicas[0].Open || f.Replicas[0].DiskState != control.DiskUpToDate || f.Replicas[0].Data.Path != "/n1/r0" {
		t.Errorf("replicas %+v", f.Replicas)
	}
	if len(f.Peers) != 2 || f.Peers[0].Node != "n2" || f.Peers[0].Problem != "" || f.Peers[0].ClockAhead.Abs() > time.Second || f.Peers[1].Problem == "" {
		t.Errorf("peers %+v", f.Peers)
	}
}

func TestLinkCheck_NamesWhomItCannotReach(t *testing.T) {
	c := promoted(t)
	n1 := c.nodes["n1"]
	n1.exam.dial = echoDial(t)
	opts := control.LinkOptions{Peer: "n2", Count: 20, Interval: time.Millisecond, Timeout: 30 * time.Second}
	rep, err := n1.LinkCheck(t.Context(), opts, func(control.LinkReport) error { return nil })
	if err != nil || rep.Answered != 20 || rep.Addr != "n2:1" || rep.Timing.Preset != "lan" || rep.Verdict == "" {
		t.Errorf("%+v, %v", rep, err)
	}
	for peer, want := range map[string]error{"n1": control.ErrUsage, "n9": control.ErrNotFound, "w": control.ErrUnreachable} {
		opts.Peer = peer
		if _, err := n1.LinkCheck(t.Context(), opts, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", peer, err)
		}
	}
}

func TestDrill_ATokenIsGoodOnceAndNotForLong(t *testing.T) {
	var o drillOrders
	now := time.Now()
	if err := o.use("", now); !errors.Is(err, control.ErrRefused) {
		t.Errorf("no token: %v", err)
	}
	old := o.arm(now)
	token := o.arm(now)
	if err := o.use(old, now); !errors.Is(err, control.ErrRefused) {
		t.Errorf("an older token: %v", err)
	}
	if err := o.use(token, now.Add(control.ArmedFor)); err != nil {
		t.Error(err)
	}
	if err := o.use(token, now); !errors.Is(err, control.ErrRefused) {
		t.Errorf("used twice: %v", err)
	}
	token = o.arm(now)
	if err := o.use(token, now.Add(control.ArmedFor+1)); !errors.Is(err, control.ErrRefused) {
		t.Errorf("too late: %v", err)
	}
}

func TestDrill_RefusesWhatItShouldNotDo(t *testing.T) {
	t.Setenv("INVOCATION_ID", "")
	t.Setenv("NOTIFY_SOCKET", "")
	n1 := promoted(t).nodes["n1"]
	armed, err := n1.Drill(t.Context(), control.DrillOrder{Op: control.DrillArm})
	if err != nil || armed.Token == "" {
		t.Fatal(armed, err)
	}
	for _, tc := range []struct {
		order control.DrillOrder
		want  error
	}{
		{control.DrillOrder{Op: "explode"}, control.ErrUsage},
		{control.DrillOrder{Op: control.DrillExit, Token: armed.Token}, control.ErrRefused}, // nobody would start it again
		{control.DrillOrder{Op: control.DrillStill, Token: armed.Token}, control.ErrUsage},
		{control.DrillOrder{Op: control.DrillStill, Token: armed.Token, For: control.MaxStill + 1}, control.ErrUsage},
		{control.DrillOrder{Op: control.DrillStill, Token: "guess", For: time.Second}, control.ErrRefused},
	} {
		if _, err := n1.Drill(t.Context(), tc.order); !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc.order, err)
		}
	}
}

func TestDrillClean_RemovesTheFilesOfAScratchResourceThatIsGone_AndNoOther(t *testing.T) {
	n1 := promoted(t).nodes["n1"]
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, f := range []string{"drill-aaaaaaaa.img", "drill-aaaaaaaa.img.meta", "r0.img"} {
		if err := os.WriteFile(at(f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clean := func(resource string, paths ...string) error {
		_, err := n1.Drill(t.Context(), control.DrillOrder{Op: control.DrillClean, Resource: resource, Paths: paths})
		return err
	}
	for _, tc := range []struct{ resource, path string }{
		{"r0", at("r0.img")}, {"drill-aaaaaaaa", at("r0.img")}, {"drill-aaaaaaaa", "drill-aaaaaaaa.img"}, {"drill-bbbbbbbb", at("drill-aaaaaaaa.img")},
	} {
		if err := clean(tc.resource, tc.path); !errors.Is(err, control.ErrUsage) {
			t.Errorf("%s %s: %v", tc.resource, tc.path, err)
		}
	}
	if err := clean("drill-aaaaaaaa", at("drill-aaaaaaaa.img"), at("drill-aaaaaaaa.img.meta"), filepath.Join(dir, "gone", "drill-aaaaaaaa.img")); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "r0.img" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestDrillClean_RefusedWhileTheResourceIsThere(t *testing.T) {
	c := newFakeCluster(t, "n1", "n2", "w")
	req := createRequest("drill-aaaaaaaa", "n1", "n2")
	if err := c.nodes["n1"].CreateResource(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err := c.nodes["n1"].Drill(t.Context(), control.DrillOrder{Op: control.DrillClean, Resource: "drill-aaaaaaaa", Paths: []string{"/n1/drill-aaaaaaaa.img"}})
	if !errors.Is(err, control.ErrBusy) {
		t.Errorf("%v", err)
	}
	eventually(t, c.nodes["n1"], "no resource", func(st *quorum.State) bool { return st.Find("drill-aaaaaaaa") != nil })
}

// stillEnv has this test binary stand still instead of testing.
const stillEnv = "LOCKSTEP_TEST_STILL"

// A process that stands still must do nothing meanwhile, and must go on by itself.
func TestStandStill_TheWholeProcessStandsStillAndGoesOn(t *testing.T) {
	if os.Getenv(stillEnv) != "" {
		begun, done, widest := make(chan struct{}), make(chan struct{}), make(chan time.Duration)
		go func() {
			last, gap := time.Now(), time.Duration(0)
			close(begun)
			for {
				select {
				case <-done: // perhaps before the tick that ends the gap
					widest <- max(gap, time.Since(last))
					return
				case <-time.After(time.Millisecond):
					now := time.Now()
					last, gap = now, max(gap, now.Sub(last))
				}
			}
		}()
		<-begun
		err := standStill(time.Second)
		close(done)
		fmt.Printf("stood still for %d ms, %v\n", (<-widest).Milliseconds(), err)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestStandStill_TheWholeProcessStandsStillAndGoesOn$")
	cmd.Env = append(os.Environ(), stillEnv+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var ms int64
	if _, err := fmt.Sscanf(string(out), "stood still for %d ms, <nil>", &ms); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if ms < 900 {
		t.Errorf("it stood still for %d ms, not for a second", ms)
	}
}

func TestKillSelf_IsNoOrdinaryEnd(t *testing.T) {
	if os.Getenv(stillEnv) != "" {
		t.Fatal(killSelf())
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillSelf_IsNoOrdinaryEnd$")
	cmd.Env = append(os.Environ(), stillEnv+"=1")
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
		t.Errorf("%v", err)
	}
}
