package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// users returns the processes that use a file on the device dev, but for this one and init.
func users(dev uint64) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		if uses(filepath.Join("/proc", e.Name()), dev) {
			out = append(out, pid)
		}
	}
	return out
}

// uses reports whether the process at proc has a file on dev. One that cannot be looked at has ended.
func uses(proc string, dev uint64) bool {
	for _, name := range []string{"cwd", "root", "exe"} {
		if on(filepath.Join(proc, name), dev) {
			return true
		}
	}
	open, _ := os.ReadDir(filepath.Join(proc, "fd"))
	for _, f := range open {
		if on(filepath.Join(proc, "fd", f.Name()), dev) {
			return true
		}
	}
	return false
}

// on asks for the device number without making the file system look anything up: it may not answer.
func on(path string, dev uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == dev
}

// nameAll describes processes for an operator.
func nameAll(pids []int) string {
	var out []string
	for _, pid := range pids[:min(len(pids), 5)] {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		out = append(out, fmt.Sprintf("%s (%d)", strings.TrimSpace(string(name)), pid))
	}
	if more := len(pids) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}
