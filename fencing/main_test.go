package fencing

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain fails the run if a test leaves a process or a goroutine of this package behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if err := leftovers(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func leftovers() error {
	var status unix.WaitStatus
	if pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		return fmt.Errorf("a child process is left: pid %d, %v", pid, err)
	}
	buf := make([]byte, 1<<20)
	for begun := time.Now(); ; runtime.Gosched() { // one may be about to return
		buf = buf[:runtime.Stack(buf[:cap(buf)], true)]
		n := bytes.Count(buf, []byte("lockstep/fencing.")) - bytes.Count(buf, []byte("lockstep/fencing.leftovers")) -
			bytes.Count(buf, []byte("lockstep/fencing.TestMain"))
		if n <= 0 {
			return nil
		}
		if time.Since(begun) > 10*time.Second {
			return fmt.Errorf("goroutines are left:\n%s", buf)
		}
	}
}

// patience bounds what must end; it is no claim about speed.
const patience = 20 * time.Second

// awaitGone fails the test unless the process whose pid stands in a file ends.
func awaitGone(t testing.TB, pidFile string) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, pidFile)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(patience/time.Millisecond)); n != 1 {
		unix.Kill(pid, unix.SIGKILL)
		t.Errorf("process %d of %s lives on (%v)", pid, filepath.Base(pidFile), err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// write makes a file with a mode and returns its path.
func write(t testing.TB, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

// xmlOf returns agent metadata with these actions and parameters; an entry may hold attributes.
func xmlOf(actions, parameters []string) string {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" ?>\n<resource-agent name=\"fence_x\"><parameters>\n")
	entry := func(kind, what string) {
		name, attrs, _ := strings.Cut(what, " ")
		fmt.Fprintf(&b, "<%s name=\"%s\" %s/>\n", kind, name, attrs)
	}
	for _, p := range parameters {
		entry("parameter", p)
	}
	b.WriteString("</parameters><actions>\n")
	for _, a := range actions {
		entry("action", a)
	}
	b.WriteString("</actions></resource-agent>\n")
	return b.String()
}

var usualActions = []string{"on", "off", "reboot", "status", "list", "monitor", "metadata"}

// script is an agent that keeps what it was told in DIR/told.ACTION and then does what cases says, the
// body of a shell case over $action; "metadata" prints meta.
func script(t testing.TB, meta, cases string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "meta.xml", meta, 0o644)
	text := `#!/bin/sh
dir=` + dir + `
told=$(cat)
action=$(printf '%s\n' "$told" | sed -n 's/^action=//p')
printf '%s\n' "$told" >>"$dir/told.$action"
case $action in
metadata) echo x >>"$dir/metadata.runs"; cat "$dir/meta.xml"; exit 0 ;;
` + cases + `
esac
exit 1
`
	return write(t, dir, "fence_x", text, 0o755), dir
}

var n2 = Target{Node: "n2", Boot: "boot-2", Resource: "r0", Reason: "it is silent"}

// agentOf returns a device that runs an agent with a time limit that no test waits for.
func agentOf(t testing.TB, path string, change func(*DeviceConfig)) Device {
	t.Helper()
	d := DeviceConfig{Name: "dev", Agent: path, Timeout: patience}
	if change != nil {
		change(&d)
	}
	if err := d.validate(); err != nil {
		t.Fatal(err)
	}
	return d.build(10)
}
