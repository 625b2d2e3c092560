package rig

import (
	"bufio"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
)

// Module names a kernel module that the guest loads at boot, in the order in which they are named.
type Module struct {
	Name   string
	Params string // name=value, separated by spaces
	Later  bool   // not at boot, but by `guest load NAME`
}

// baseModules let the guest reach its disks and the test.
var baseModules = []Module{
	{Name: "virtio_pci"}, {Name: "virtio_console"}, {Name: "virtio_blk"}, {Name: "loop"}, {Name: "ext4"},
}

// Tool is a program of this machine that the guest gets, with its shared libraries.
type Tool struct{ Name, Package string }

// Contents says what a guest has beyond busybox, the guest program and lockstep itself.
type Contents struct {
	Modules []Module
	Tools   []Tool
	Files   map[string][]byte // path to content; a file below /bin or /sbin is executable
}

// Initramfs makes the file that a kernel unpacks at boot, in the test's own directory, and returns its path.
func Initramfs(t testing.TB, k Kernel, c Contents) string {
	t.Helper()
	busybox := need.Tool(t, "busybox", "busybox-static")
	if !static(busybox) {
		need.Skip(t, "needs a static busybox: apt-get install busybox-static")
	}
	var tools []string
	for _, tool := range c.Tools {
		tools = append(tools, need.Tool(t, tool.Name, tool.Package))
	}
	path := filepath.Join(t.TempDir(), "initramfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	a := archive{cpio: newCPIO(w), have: map[string]bool{}}
	a.add("/init", guestProgram(t))
	a.symlink("/bin/guest", "/init")
	a.add("/bin/lockstep", cluster.Binary(t))
	a.add("/bin/busybox", busybox)
	// Links made beforehand are faster than to have busybox make them at each boot.
	applets, err := run("", busybox, "--list")
	if err != nil {
		t.Fatalf("busybox --list: %v", err)
	}
	for _, name := range strings.Fields(applets) {
		if name != "busybox" {
			a.symlink("/bin/"+name, "busybox")
		}
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/etc", "/root"} {
		a.dir(dir)
	}
	a.symlink("/etc/mtab", "/proc/mounts") // umount and nbd-client look there
	a.tools(tools)
	a.modules(k, append(append([]Module(nil), baseModules...), c.Modules...))
	for name, content := range c.Files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "/bin/") || strings.HasPrefix(name, "/sbin/") {
			mode = 0o755
		}
		a.file(name, mode, content)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return path
}

// archive is a cpio that takes things from this machine.
type archive struct {
	*cpio
	have map[string]bool // paths of libraries and modules that are in it
}

// add copies a file of this machine.
func (a *archive) add(name, from string) {
	b, err := os.ReadFile(from)
	if err != nil {
		a.fail(err)
		return
	}
	a.file(name, 0o755, b)
}

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

var library = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// tools adds programs under /sbin, and their libraries where ldd finds them.
func (a *archive) tools(paths []string) {
	for _, p := range paths {
		a.add("/sbin/"+filepath.Base(p), p)
		if static(p) {
			continue
		}
		out, err := exec.Command("ldd", p).CombinedOutput()
		if err != nil {
			a.fail(fmt.Errorf("ldd %s: %w: %s", p, err, out))
			return
		}
		for _, m := range library.FindAllStringSubmatch(string(out), -1) {
			if lib := m[1]; !a.have[lib] {
				a.have[lib] = true
				a.add(lib, lib)
			}
		}
	}
}

// modules adds kernel modules and the lists that the guest loads them by: one for the boot, and one for each that is
// to be loaded later.
func (a *archive) modules(k Kernel, ms []Module) {
	var boot strings.Builder
	for _, m := range ms {
		files, err := k.Modules(m.Name)
		if err != nil {
			a.fail(err)
			return
		}
		var list strings.Builder
		for _, f := range files {
			name := "/lib/modules/" + filepath.Base(f)
			if !a.have[name] {
				a.have[name] = true
				a.add(name, f)
			}
			fmt.Fprint(&list, name)
			if moduleName(strings.TrimSuffix(filepath.Base(f), ".ko")) == moduleName(m.Name) {
				fmt.Fprint(&list, " "+m.Params)
			}
			fmt.Fprintln(&list)
		}
		if m.Later {
			a.file("/etc/modules."+m.Name, 0o644, []byte(list.String()))
		} else {
			boot.WriteString(list.String())
		}
	}
	a.file("/etc/modules", 0o644, []byte(boot.String()))
}

// static reports whether a program needs no loader. What is no ELF file, a script, needs what it names.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// guestProgram builds the guest's own program; the go command keeps the result for the next time.
func guestProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "github.com/lockstep-ha/lockstep/tests/vm/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}
