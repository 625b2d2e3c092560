package mount

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDetect_KnowsFileSystemsByTheirMagic(t *testing.T) {
	image := func(offBytes int, magic string) []byte {
		b := make([]byte, 128<<10)
		copy(b[offBytes:], magic)
		return b
	}
	for want, b := range map[string][]byte{
		"ext4": image(0x438, "\x53\xef"), "xfs": image(0, "XFSB"), "btrfs": image(0x10040, "_BHRfS_M"), "f2fs": image(0x400, "\x10\x20\xf5\xf2"),
	} {
		if got, err := Detect(bytes.NewReader(b)); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	for _, b := range [][]byte{image(0, ""), {}, {'X'}} {
		if got, err := Detect(bytes.NewReader(b)); !errors.Is(err, errUnknown) {
			t.Errorf("of %d bytes without one: %q, %v", len(b), got, err)
		}
	}
}

func TestSplit_FlagsForTheKernel_TheRestForTheFileSystem(t *testing.T) {
	for _, tc := range []struct {
		options string
		bits    uintptr
		data    string
	}{
		{"", 0, ""},
		{"defaults", 0, ""},
		{"noatime,nodev,discard,errors=panic", unix.MS_NOATIME | unix.MS_NODEV, "discard,errors=panic"},
		{"ro,rw", 0, ""},
		{"rw,ro", unix.MS_RDONLY, ""},
	} {
		if bits, data := split(strings.Split(tc.options, ",")); bits != tc.bits || data != tc.data {
			t.Errorf("%q: %x %q, want %x %q", tc.options, bits, data, tc.bits, tc.data)
		}
	}
}

func TestParseEntry(t *testing.T) {
	e, err := parseEntry(`36 35 43:0 / /srv/my\040data rw,noatime shared:1 master:2 - ext4 /dev/nbd0 ro,errors=remount-ro`)
	want := entry{dev: unix.Mkdev(43, 0), source: "/dev/nbd0", dir: "/srv/my data", readOnly: true}
	if err != nil || e != want {
		t.Errorf("%+v, %v; want %+v", e, err, want)
	}
	for _, line := range []string{"", "1 2 3", "36 35 x:0 / /d rw - ext4 /dev/x rw", "36 35 43 / /d rw - ext4 /dev/x rw"} {
		if _, err := parseEntry(line); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, format string, a ...any) {
	t.Helper()
	if os.Getenv("LOCKSTEP_REQUIRE") == "all" {
		t.Fatalf("LOCKSTEP_REQUIRE=all: "+format, a...)
	}
	t.Skipf(format, a...)
}

func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// device returns a loop device, with an ext4 on it if fs.
func device(t *testing.T, fs bool) (loop, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "needs root, to mount a file system")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		lack(t, "needs loop devices: %v", err)
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		lack(t, "needs mkfs.ext4 (package e2fsprogs)")
	}
	file = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 16<<20); err != nil {
		t.Fatal(err)
	}
	if fs {
		sh(t, "mkfs.ext4", "-q", "-F", file)
	}
	loop = sh(t, "losetup", "-f", "--show", file)
	t.Cleanup(func() { sh(t, "losetup", "-d", loop) })
	return loop, file
}

func mountOn(t *testing.T, cfg Config) *Mount {
	t.Helper()
	cfg.Dir = filepath.Join(t.TempDir(), "mnt")
	m := New(cfg)
	t.Cleanup(func() { unmountBelow(cfg.Dir) })
	return m
}

func TestMount_ComesAndGoes(t *testing.T) {
	loop, _ := device(t, true)
	m := mountOn(t, Config{Device: loop, Options: []string{"noatime"}, Check: CheckForce})
	ctx := t.Context()
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop of what is not mounted: %v", err)
	}
	if err := m.Monitor(ctx); err == nil {
		t.Error("monitor of what is not mounted says that it is")
	}
	for range 2 {
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Monitor(ctx); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(m.cfg.Dir+"/f", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	// Something below it, too.
	if err := errors.Join(os.Mkdir(m.cfg.Dir+"/sub", 0o700), unix.Mount("tmpfs", m.cfg.Dir+"/sub", "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if at, err := m.mounted(); at != nil || err != nil {
		t.Errorf("after stop: %+v, %v", at, err)
	}
}

func TestMount_ReadOnlyFileSystem_IsAFailure(t *testing.T) {
	loop, _ := device(t, true)
	m := mountOn(t, Config{Device: loop})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(loop, m.cfg.Dir, "ext4", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := m.Monitor(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("monitor: %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMount_EmptyDevice_IsRefused_AndStaysEmpty(t *testing.T) {
	loop, file := device(t, false)
	m := mountOn(t, Config{Device: loop})
	if err := m.Start(t.Context()); !errors.Is(err, errUnknown) {
		t.Errorf("start: %v", err)
	}
	b, err := os.ReadFile(file)
	if err != nil || len(bytes.TrimLeft(b, "\x00")) != 0 {
		t.Errorf("something was written, %v", err)
	}
}

func TestMount_DamageThatPreeningLeaves_IsAnError(t *testing.T) {
	loop, file := device(t, true)
	// The root directory's inode is no directory any more: only a full repair mends that.
	sh(t, "debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", file)
	sh(t, "debugfs", "-w", "-R", "set_super_value state 2", file)
	m := mountOn(t, Config{Device: loop})
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "mend it by hand") {
		t.Errorf("start: %v", err)
	}
}

func TestMount_AnothersMount_IsNeitherTakenNorUnmounted(t *testing.T) {
	loop, _ := device(t, true)
	m := mountOn(t, Config{Device: loop})
	if err := errors.Join(os.Mkdir(m.cfg.Dir, 0o700), unix.Mount("tmpfs", m.cfg.Dir, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("start: %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if at, err := m.mounted(); at == nil || err != nil {
		t.Errorf("the other mount is gone, %v", err)
	}
}

// busy starts a process that works in dir and ignores SIGTERM if stubborn.
func busy(t *testing.T, dir string, stubborn bool) *exec.Cmd {
	t.Helper()
	script := "echo ready; exec sleep 1000"
	if stubborn {
		script = "trap '' TERM; echo ready; while :; do sleep 1000; done"
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func TestMount_InUse_EndsWhoUsesIt(t *testing.T) {
	loop, _ := device(t, true)
	for _, stubborn := range []bool{false, true} {
		m := mountOn(t, Config{Device: loop})
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		user := busy(t, m.cfg.Dir, stubborn)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		err := m.Stop(ctx)
		cancel()
		if err != nil {
			t.Fatalf("stubborn %v: %v", stubborn, err)
		}
		user.Wait() // returns: it was ended
	}
}

func TestMount_InUseByWhoIsSpared_FailsAndNamesThem(t *testing.T) {
	loop, _ := device(t, true)
	m := mountOn(t, Config{Device: loop, Spare: true})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	user := busy(t, m.cfg.Dir, false)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Stop(ctx); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "sleep (") {
		t.Errorf("stop: %v", err)
	}
	user.Process.Kill()
	if err := m.Stop(t.Context()); err != nil {
		t.Errorf("stop after its user has ended: %v", err)
	}
}
