package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nsDir is where iproute2 keeps namespaces that have a name, so "ip netns exec" finds those of a lab.
const nsDir = "/run/netns"

// threadNS is the network namespace of the calling thread. A namespace belongs to a thread, not to
// the process, so everything below locks its goroutine to one.
const threadNS = "/proc/thread-self/ns/net"

func nsPath(ns string) string { return filepath.Join(nsDir, ns) }

// nsExists reports whether there is a namespace of that name. A plain file, which is what a reboot
// leaves where /run is on a disk, is none.
func nsExists(ns string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(nsPath(ns), &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for namespace %s: %w", ns, err)
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

// makeNS makes a namespace with nothing in it but a loopback interface that is up. Links that come
// into it have no IPv6: nothing of a lab speaks it, and a cut would have to know its addresses, too.
func makeNS(ns string) error {
	if err := os.MkdirAll(nsDir, 0o755); err != nil {
		return fmt.Errorf("make namespace %s: %w", ns, err)
	}
	f, err := os.OpenFile(nsPath(ns), os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("make namespace %s: %w", ns, err)
	}
	f.Close()
	err = elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		if err := unix.Mount(threadNS, nsPath(ns), "", unix.MS_BIND, ""); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		err = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // a kernel without IPv6
		}
		return errors.Join(err, h.LinkSetUp(lo))
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make namespace %s: %w", ns, err), removeNS(ns))
	}
	return nil
}

// removeNS takes the name of a namespace away, if it has one. The namespace ends with its last
// process.
func removeNS(ns string) error {
	err := unix.Unmount(nsPath(ns), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: a plain file
		return fmt.Errorf("remove namespace %s: %w", ns, err)
	}
	if err := os.Remove(nsPath(ns)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", ns, err)
	}
	return nil
}

// inNS runs fn on a thread that is in the namespace ns.
func inNS(ns string, fn func() error) error {
	f, err := os.Open(nsPath(ns))
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", ns, err)
	}
	defer f.Close()
	return elsewhere(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns, err)
		}
		return nil
	}, fn)
}

// elsewhere runs leave, which takes the thread to another namespace, then fn, and goes back. Where
// that fails or fn does not return, the thread stays locked to the goroutine and ends with it, so
// that no other goroutine ever runs in a namespace that it did not choose.
func elsewhere(leave, fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open(threadNS)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find the present namespace: %w", err)
	}
	defer home.Close()
	if err := leave(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("go back to the former namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// routesOf opens the links, addresses and neighbours of a namespace. The caller closes it.
func routesOf(ns string) (*netlink.Handle, error) {
	f, err := os.Open(nsPath(ns))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", ns, err)
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", ns, err)
	}
	return h, nil
}

// processesIn lists the processes in a namespace by id, lowest first.
func processesIn(ns string) ([]int, error) {
	want, err := os.Stat(nsPath(ns))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that cannot be looked at has ended.
		if got, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && sameInode(got, want) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func sameInode(a, b os.FileInfo) bool {
	x, xok := a.Sys().(*syscall.Stat_t)
	y, yok := b.Sys().(*syscall.Stat_t)
	return xok && yok && x.Dev == y.Dev && x.Ino == y.Ino
}
