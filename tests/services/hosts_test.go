package services

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// hosts is a rig whose data nodes are closer to hosts: each has a mount table of its own, which outlives its daemon
// as that of a host does, and a block device. What is at dir is different on each of them.
type hosts struct {
	*rig
	dir     string // on a node: its device, its mounts, its sockets
	keepers map[string]*proc.Proc
}

// hostScript holds a mount table until it is killed. Others may have a file system mounted just now, which a copy
// of their table would keep in use.
const hostScript = `set -e
grep '^/dev/loop' /proc/self/mounts | cut -d ' ' -f 2 | xargs -r umount
mount --bind "$1" "$2"
echo ready
exec sleep infinity`

// nodeScript starts a node in the mount table of its host.
const nodeScript = `#!/bin/sh
for arg in "$@"; do
	case $arg in
	*/n1/*) exec nsenter --mount=/proc/%[1]d/ns/mnt -- %[3]s node "$@" ;;
	*/n2/*) exec nsenter --mount=/proc/%[2]d/ns/mnt -- %[3]s node "$@" ;;
	esac
done
exec %[3]s node "$@"
`

// needDevices skips the test where testdata/device.sh cannot work.
func needDevices(t testing.TB) {
	t.Helper()
	need.Root(t, "loop devices")
	need.Tool(t, "losetup", "mount")
	need.Tool(t, "nbdfuse", "libnbd-bin")
	need.Device(t, "/dev/fuse")
	need.Device(t, "/dev/loop-control")
}

func startHosts(t testing.TB, sizeBytes int64) *hosts {
	t.Helper()
	needDevices(t)
	for tool, pkg := range map[string]string{"unshare": "util-linux", "nsenter": "util-linux", "mkfs.ext4": "e2fsprogs"} {
		need.Tool(t, tool, pkg)
	}
	base := cluster.ShmDir(t) // a short path, for sockets
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &hosts{dir: filepath.Join(base, "host"), keepers: map[string]*proc.Proc{}}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n1", "n2"} {
		own := h.on(node, "")
		if err := os.Mkdir(own, 0o755); err != nil {
			t.Fatal(err)
		}
		k := proc.Start(t, "unshare", "--mount", "--propagation", "slave", "sh", "-c", hostScript, "sh", own, h.dir)
		proc.Eventually(t, "a mount table for "+node, func() error {
			if !strings.Contains(k.Output(), "ready") {
				return errors.New(k.Output())
			}
			return nil
		})
		h.keepers[node] = k
	}
	wrapper := filepath.Join(base, "node")
	script := fmt.Sprintf(nodeScript, h.pid("n1"), h.pid("n2"), cluster.Binary(t))
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h.rig = startSized(t, sizeBytes, wrapper)
	t.Cleanup(h.away)
	return h
}

// pid is a process in the mount table of a node.
func (h *hosts) pid(node string) int { return h.keepers[node].Cmd.Process.Pid }

// on is the path here of what is at dir/name on a node, and no mount there.
func (h *hosts) on(node, name string) string {
	return filepath.Join(filepath.Dir(h.dir), node, name)
}

// device is the option that has r0 as a block device at path on the primary.
func (h *hosts) device() (path string, options []string) {
	h.t.Helper()
	script, err := filepath.Abs("testdata/device.sh")
	if err != nil {
		h.t.Fatal(err)
	}
	uri := strings.Replace(h.URI("n1"), "/n1/", "/NODE/", 1)
	if strings.Replace(uri, "NODE", "n2", 1) != h.URI("n2") {
		h.t.Fatalf("the sockets are at %s and %s", h.URI("n1"), h.URI("n2"))
	}
	return filepath.Join(h.dir, "dev"), []string{
		"--exec", script + ",arg=" + h.dir + ",arg=" + uri + ",start-order=5,monitor-interval=1s,stop-timeout=20s",
	}
}

// run runs a program on a node, in its namespaces.
func (h *hosts) run(node string, argv ...string) string {
	h.t.Helper()
	out, err := h.try(node, argv...)
	if err != nil {
		h.t.Fatalf("on %s, %q: %v\n%s", node, argv, err, out)
	}
	return out
}

func (h *hosts) try(node string, argv ...string) (string, error) {
	h.t.Helper()
	all := append([]string{"--mount=/proc/" + fmt.Sprint(h.pid(node)) + "/ns/mnt", "--net=/run/netns/" + h.Node(node).Namespace, "--"}, argv...)
	return proc.Try(h.t, "nsenter", all...)
}

// idle returns when no service runs on node.
func (h *hosts) idle(node string) {
	h.t.Helper()
	h.Eventually(node, "services to be stopped", func(s control.Resource) error {
		if s.Services == nil {
			return nil
		}
		for _, v := range s.Services.List {
			if v.State != "stopped" {
				return fmt.Errorf("%s is %s %s", v.Name, v.State, v.Fault)
			}
		}
		return nil
	})
}

// away has the services stopped, so that no device is left, and kills what a failed test may have left behind.
func (h *hosts) away() {
	for _, node := range h.DataNodes() {
		if up, err := h.Lab.Running(node); err == nil && up && !h.t.Failed() {
			h.CLI(node, "resource", "set", "r0", "--no-services")
			h.idle(node)
		}
	}
	if h.t.Failed() {
		for node := range h.keepers {
			h.clear(node)
		}
	}
}

// clear ends what runs in the mount table of node, but for its daemon and its keeper.
func (h *hosts) clear(node string) {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", h.pid(node)))
	if err != nil {
		return
	}
	if dev, err := os.Readlink(h.on(node, "dev")); err == nil {
		defer proc.Try(h.t, "losetup", "-d", dev)
	}
	all, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, path := range all {
		var pid int
		if at, err := os.Readlink(path); err != nil || at != want {
			continue
		}
		if fmt.Sscanf(path, "/proc/%d/", &pid); pid != h.pid(node) && pid != h.Node(node).PID {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
