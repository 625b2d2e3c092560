package node

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// kernelView is where the kernel shows what it knows: /sys and /proc, other directories in tests.
type kernelView struct{ sys, proc string }

var thisKernel = kernelView{sys: "/sys", proc: "/proc"}

// diskOf finds out where path lies. What cannot be found out is left empty, and Unknown says why: a
// wrong guess here would be worse than none.
func (k kernelView) diskOf(path string) control.Disk {
	d := control.Disk{Path: path}
	var st unix.Stat_t
	at := path
	err := unix.Stat(at, &st)
	if err == unix.ENOENT { // not made yet: it will lie where its directory does
		at = filepath.Dir(path)
		err = unix.Stat(at, &st)
	}
	if err != nil {
		d.Unknown = fmt.Sprintf("%s: %v", at, err)
		return d
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	} else {
		k.fileSystem(&d, at, &st)
	}
	if d.InMemory {
		d.Device, d.WriteCache = d.FileSystem, control.CacheNone
		return d
	}
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	if unix.Major(dev) == 0 { // btrfs, overlay: the file system has a number of its own
		source := k.sourceOf(number)
		var under unix.Stat_t
		if err := unix.Stat(source, &under); source == "" || err != nil || under.Mode&unix.S_IFMT != unix.S_IFBLK {
			d.Unknown = fmt.Sprintf("the %s file system does not tell on which device it lies", d.FileSystem)
			return d
		}
		number = fmt.Sprintf("%d:%d", unix.Major(under.Rdev), unix.Minor(under.Rdev))
	}
	k.device(&d, number)
	return d
}

// inMemory are file systems that a loss of power empties, by their magic numbers.
var inMemory = map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs"}

// fileSystem fills in what is known of the file system at a path, and of the file.
func (k kernelView) fileSystem(d *control.Disk, at string, st *unix.Stat_t) {
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		d.Unknown = fmt.Sprintf("%s: %v", at, err)
		return
	}
	d.FileSystem = inMemory[int64(fs.Type)]
	if d.InMemory = d.FileSystem != ""; !d.InMemory {
		d.FileSystem = k.typeOf(fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	}
	d.FreeBytes = int64(fs.Bavail) * fs.Bsize
	d.TotalBytes = int64(fs.Blocks) * fs.Bsize
	if at == d.Path && st.Mode&unix.S_IFMT == unix.S_IFREG {
		d.MissBytes = max(st.Size-st.Blocks*512, 0)
		d.Sparse = d.MissBytes > 0
	}
}

// mount is the line of mountinfo of a device number; nil: there is none.
func (k kernelView) mount(number string) []string {
	f, err := os.Open(filepath.Join(k.proc, "self/mountinfo"))
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 2 && w[2] == number {
			return w
		}
	}
	return nil
}

// afterDash returns a field of a mount behind the "-" that ends the optional ones: 0 is the type, 1 the
// source.
func afterDash(mount []string, field int) string {
	if i := slices.Index(mount, "-"); i >= 0 && i+1+field < len(mount) {
		return mount[i+1+field]
	}
	return ""
}

func (k kernelView) typeOf(number string) string   { return afterDash(k.mount(number), 0) }
func (k kernelView) sourceOf(number string) string { return afterDash(k.mount(number), 1) }

// device fills in what the kernel tells of a block device.
func (k kernelView) device(d *control.Disk, number string) {
	dir, err := filepath.EvalSymlinks(filepath.Join(k.sys, "dev/block", number))
	if err != nil {
		d.Unknown = fmt.Sprintf("the kernel shows no device %s: %v", number, err)
		return
	}
	d.Device = filepath.Base(dir)
	whole := wholeDisk(dir)
	d.Disks = k.disksBelow(whole, nil)
	slices.Sort(d.Disks)
	switch text, err := os.ReadFile(filepath.Join(whole, "queue/write_cache")); strings.TrimSpace(string(text)) {
	case "write back":
		d.WriteCache = control.CacheVolatile
	case "write through":
		d.WriteCache = control.CacheNone
	default:
		d.Unknown = fmt.Sprintf("the kernel does not tell of the write cache of %s: %v", d.Device, err)
	}
}

// wholeDisk returns the directory of the disk of which dir may be a partition.
func wholeDisk(dir string) string {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return filepath.Dir(dir)
	}
	return dir
}

// disksBelow adds the disks that a device consists of: itself, or those below a volume or an array.
func (k kernelView) disksBelow(dir string, out []string) []string {
	below, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil || len(below) == 0 {
		if name := filepath.Base(dir); !slices.Contains(out, name) {
			out = append(out, name)
		}
		return out
	}
	for _, b := range below {
		if at, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", b.Name())); err == nil {
			out = k.disksBelow(wholeDisk(at), out)
		}
	}
	return out
}

// virtual reports whether a hypervisor runs below this kernel, as far as it can be told.
func (k kernelView) virtual() string {
	if text, err := os.ReadFile(filepath.Join(k.sys, "hypervisor/type")); err == nil && len(text) > 0 {
		return control.VirtualYes
	}
	f, err := os.Open(filepath.Join(k.proc, "cpuinfo"))
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if key, value, ok := strings.Cut(sc.Text(), ":"); ok && strings.TrimSpace(key) == "flags" { // x86 alone
			if slices.Contains(strings.Fields(value), "hypervisor") {
				return control.VirtualYes
			}
			return control.VirtualNo
		}
	}
	return ""
}

// bondMembers counts the links that a bond or a team joins; 0: the interface is neither.
func (k kernelView) bondMembers(name string) int {
	dir := filepath.Join(k.sys, "class/net", name)
	if text, err := os.ReadFile(filepath.Join(dir, "bonding/slaves")); err == nil {
		return len(strings.Fields(string(text)))
	}
	lower, err := filepath.Glob(filepath.Join(dir, "lower_*"))
	if err != nil {
		return 0
	}
	if text, err := os.ReadFile(filepath.Join(dir, "uevent")); err == nil && strings.Contains(string(text), "DEVTYPE=team") {
		return len(lower)
	}
	best := 0
	for _, l := range lower { // a VLAN or a bridge on a bond
		best = max(best, k.bondMembers(strings.TrimPrefix(filepath.Base(l), "lower_")))
	}
	return best
}

// release returns the release of the kernel, "" if it is not told.
func (k kernelView) release() string {
	text, err := os.ReadFile(filepath.Join(k.proc, "sys/kernel/osrelease"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// supervisor returns who starts the daemon again when it ends, as the environment of a service tells;
// "" if nobody is known to.
func supervisor(getenv func(string) string) string {
	if getenv("INVOCATION_ID") != "" || getenv("NOTIFY_SOCKET") != "" {
		return "systemd"
	}
	return ""
}
