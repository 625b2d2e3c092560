package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/services/program"
)

// Check says how a file system is looked at before it is mounted.
type Check string

// The kinds of checks; "" is CheckPreen.
const (
	CheckNone  Check = "none"
	CheckPreen Check = "preen"
	CheckForce Check = "force-check"
)

// Config says what is mounted, where and how.
type Config struct {
	Device  string // path of a block device
	Dir     string // absolute; made if it is not there
	Type    string // of the file system; "": found out
	Options []string
	Check   Check
	// Spare: whoever uses the file system when it is to be unmounted is not ended.
	Spare bool
}

// pollBusy is how often unmounting is tried while somebody uses the file system.
const pollBusy = 100 * time.Millisecond

// Mount is one file system that comes and goes.
type Mount struct{ cfg Config }

// New returns a Mount of what cfg says.
func New(cfg Config) *Mount {
	cfg.Check = cmp.Or(cfg.Check, CheckPreen)
	return &Mount{cfg: cfg}
}

// Start checks and mounts, unless that device is mounted there.
func (m *Mount) Start(ctx context.Context) error {
	dev, err := m.device()
	if err != nil {
		return err
	}
	switch at, err := m.mounted(); {
	case err != nil:
		return err
	case at != nil && at.of(dev):
		return m.Monitor(ctx)
	case at != nil:
		return fmt.Errorf("%s is mounted on %s already", at.source, m.cfg.Dir)
	}
	fstype, err := m.fstype()
	if err != nil {
		return fmt.Errorf("%s: %w", m.cfg.Device, err)
	}
	if err := m.check(ctx, fstype); err != nil {
		return fmt.Errorf("check %s: %w", m.cfg.Device, err)
	}
	if err := os.MkdirAll(m.cfg.Dir, 0o755); err != nil {
		return err
	}
	bits, data := split(m.cfg.Options)
	if err := unix.Mount(m.cfg.Device, m.cfg.Dir, fstype, bits, data); err != nil {
		return fmt.Errorf("mount %s on %s as %s: %w", m.cfg.Device, m.cfg.Dir, fstype, err)
	}
	return nil
}

// Stop unmounts, unless nothing of that device is mounted there.
func (m *Mount) Stop(ctx context.Context) error {
	begun, signal := time.Now(), unix.SIGTERM
	asked := map[int]unix.Signal{}
	tick := time.NewTicker(pollBusy)
	defer tick.Stop()
	for {
		at, err := m.mounted()
		if err != nil || at == nil {
			return err
		}
		if dev, err := m.device(); err == nil && !at.of(dev) {
			return nil // somebody else's; of a device that is gone nobody can tell any more
		}
		err = unmountBelow(m.cfg.Dir)
		if err == nil {
			continue // what was mounted over it may have hidden another one
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", m.cfg.Dir, err)
		}
		pids := users(at.dev)
		if end, ok := ctx.Deadline(); ok && time.Since(begun) > end.Sub(begun)/2 {
			signal = unix.SIGKILL
		}
		if !m.cfg.Spare {
			for _, pid := range pids {
				if asked[pid] != signal {
					asked[pid] = signal
					unix.Kill(pid, signal) // one that has ended meanwhile is what is wanted
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w, used by: %s", m.cfg.Dir, err, cmp.Or(nameAll(pids), "nobody that can be seen"))
		}
	}
}

// Monitor returns nil if the device is mounted and as writable as it should be.
func (m *Mount) Monitor(context.Context) error {
	dev, err := m.device()
	if err != nil {
		return err
	}
	at, err := m.mounted()
	bits, _ := split(m.cfg.Options)
	switch {
	case err != nil:
		return err
	case at == nil:
		return fmt.Errorf("nothing is mounted on %s", m.cfg.Dir)
	case !at.of(dev):
		return fmt.Errorf("%s is mounted on %s, not %s", at.source, m.cfg.Dir, m.cfg.Device)
	case at.readOnly && bits&unix.MS_RDONLY == 0:
		return fmt.Errorf("the file system on %s has become read-only: it met an error; see the kernel's log", m.cfg.Dir)
	}
	return nil
}

// mounted returns what is mounted on the directory last, nil if nothing is.
func (m *Mount) mounted() (*entry, error) {
	all, err := table()
	if err != nil {
		return nil, err
	}
	var last *entry
	for i := range all {
		if all[i].dir == m.cfg.Dir {
			last = &all[i]
		}
	}
	return last, nil
}

// device returns the number of the device.
func (m *Mount) device() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(m.cfg.Device, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", m.cfg.Device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fmt.Errorf("%s is no block device", m.cfg.Device)
	}
	return st.Rdev, nil
}

func (m *Mount) fstype() (string, error) {
	if m.cfg.Type != "" {
		return m.cfg.Type, nil
	}
	f, err := os.Open(m.cfg.Device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return Detect(f)
}

// check has the file system's own program look at it.
func (m *Mount) check(ctx context.Context, fstype string) error {
	var c program.Command
	ext := strings.HasPrefix(fstype, "ext")
	switch force := m.cfg.Check == CheckForce; {
	case m.cfg.Check == CheckNone:
		return nil
	case ext && force:
		c = program.Command{Path: find("e2fsck"), Args: []string{"-p", "-f", m.cfg.Device}}
	case ext:
		c = program.Command{Path: find("e2fsck"), Args: []string{"-p", m.cfg.Device}}
	case fstype == "xfs" && force:
		c = program.Command{Path: find("xfs_repair"), Args: []string{"-n", m.cfg.Device}}
	case fstype == "btrfs" && force:
		c = program.Command{Path: find("btrfs"), Args: []string{"check", "--readonly", m.cfg.Device}}
	default:
		return nil // its journal or its structure does it at the mount
	}
	r, err := program.Run(ctx, c)
	switch {
	case err != nil:
		return err
	case r.Code == 0, ext && r.Code == 1: // 1: errors were corrected
		return nil
	}
	return fmt.Errorf("%s: exit %d: %s; mend it by hand, it is not done for you", strings.Join(append([]string{c.Path}, c.Args...), " "), r.Code, r.LastLine())
}

// find returns the path of a program that only root has in its path.
func find(name string) string {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if _, err := os.Stat(dir + "/" + name); err == nil {
			return dir + "/" + name
		}
	}
	return name
}

// unmountBelow unmounts dir and all that is mounted below it, last first.
func unmountBelow(dir string) error {
	all, err := table()
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(all) {
		if e.dir != dir && !strings.HasPrefix(e.dir, dir+"/") {
			continue
		}
		if err := unix.Unmount(e.dir, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is gone
			return err
		}
		if e.dir == dir {
			return nil
		}
	}
	return nil
}
