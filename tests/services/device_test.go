package services

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// deviceScript calls testdata/device.sh.
type deviceScript struct {
	t    *testing.T
	dir  string
	nbd  string // socket of the server
	path string
}

func newDeviceScript(t *testing.T) *deviceScript {
	t.Helper()
	needDevices(t)
	need.Tool(t, "nbdkit", "nbdkit")
	path, err := filepath.Abs("testdata/device.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &deviceScript{t: t, dir: dir, nbd: filepath.Join(dir, "server"), path: path}
	t.Cleanup(func() { s.act("stop") })
	return s
}

// act has the script do something.
func (s *deviceScript) act(action string) (string, error) {
	s.t.Helper()
	return proc.Try(s.t, "env", "LOCKSTEP_NODE=server", s.path, action, s.dir, "nbd+unix:///?socket="+s.dir+"/NODE")
}

func (s *deviceScript) must(action string) {
	s.t.Helper()
	if out, err := s.act(action); err != nil {
		s.t.Fatalf("%s: %v\n%s", action, err, out)
	}
}

// gone fails the test if something is left of the device dev.
func (s *deviceScript) gone(dev string) {
	s.t.Helper()
	if b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file"); err == nil && strings.Contains(string(b), s.dir) {
		s.t.Errorf("%s is a device of %s", dev, b)
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(b), s.dir) {
		s.t.Errorf("mounted is %s, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(s.dir, "dev")); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("the link to the device: %v", err)
	}
	if out, err := s.act("monitor"); err == nil || !strings.Contains(out, "nbdfuse has ended") {
		s.t.Errorf("monitor: %v, %s", err, out)
	}
}

func TestDeviceScript_StartsAndStopsTwice_AndSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newDeviceScript(t)
	need.Tool(t, "shellcheck", "shellcheck")
	proc.Run(t, "shellcheck", "--shell=sh", "--severity=style", s.path)
	if out, err := s.act("start"); err == nil || !strings.Contains(out, "nbd_connect_uri") {
		t.Errorf("start without a server: %v, %s", err, out)
	}
	server := proc.Start(t, "nbdkit", "-f", "-U", s.nbd, "memory", "1M")
	server.WaitForSocket(t, s.nbd)
	for range 2 {
		s.must("start")
		s.must("monitor")
	}
	dev, err := os.Readlink(filepath.Join(s.dir, "dev"))
	if err != nil {
		t.Fatal(err)
	}
	server.Stop()
	if out, err := s.act("monitor"); err == nil || !strings.Contains(out, "Input/output error") {
		t.Errorf("monitor without a server: %v, %s", err, out)
	}
	for range 2 {
		s.must("stop")
		s.gone(dev)
	}
}

func TestDeviceScript_StopEndsWhatHangsOnItsServer(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(fmt.Sprint(sig), func(t *testing.T) {
			s := newDeviceScript(t)
			server := proc.Start(t, "nbdkit", "-f", "-U", s.nbd, "memory", "1M")
			server.WaitForSocket(t, s.nbd)
			s.must("start")
			dev, err := os.Readlink(filepath.Join(s.dir, "dev"))
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			read := exec.Command("dd", "if="+dev, "of=/dev/null", "bs=4096", "count=1", "iflag=direct")
			if err := read.Start(); err != nil {
				t.Fatal(err)
			}
			s.must("stop")
			if err := read.Wait(); err == nil {
				t.Error("somebody has read from a device whose server did not answer")
			}
			s.gone(dev)
			server.Cmd.Process.Signal(syscall.SIGKILL) // one that stands still would be waited for
		})
	}
}
