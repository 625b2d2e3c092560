package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Kernel is what a device asks of the kernel. Tests have one of their own.
type Kernel interface {
	// Check tells whether this process can attach anything at all.
	Check() error
	Connect(ConnectRequest) error
	Reconfigure(ReconfigureRequest) error
	Disconnect(index uint32) error
	// Backend returns the identifier of a device that is connected, "" for one that has none, and
	// whether it is connected.
	Backend(index uint32) (id string, connected bool, err error)
	// SetIOTimeout sets after how long the block layer looks at a request that is not answered.
	SetIOTimeout(index uint32, d time.Duration) error
	// LinkDead calls f for each connection of any device that the kernel gives up, until ctx ends.
	LinkDead(ctx context.Context, f func(index uint32)) error
}

// Why the kernel does not do it.
var (
	ErrNoModule   = errors.New("the kernel has no NBD driver loaded")
	ErrNotAllowed = errors.New("only root may attach and detach devices")
	ErrBusy       = errors.New("the device is in use")
	ErrNoDevice   = errors.New("there is no such device")
)

// LinuxKernel is the kernel that this program runs on.
type LinuxKernel struct{}

// sysBlock is where the kernel shows block devices.
const sysBlock = "/sys/block"

func sysPath(index uint32, parts ...string) string {
	return filepath.Join(append([]string{sysBlock, "nbd" + strconv.FormatUint(uint64(index), 10)}, parts...)...)
}

// dial connects to the driver. Each command gets a socket of its own: the answer to CONNECT comes before
// its acknowledgement, which would be read as that of the next command.
func dial() (*genetlink.Conn, genetlink.Family, error) {
	c, err := genetlink.Dial(nil)
	if err != nil {
		return nil, genetlink.Family{}, fmt.Errorf("netlink: %w", err)
	}
	f, err := c.GetFamily(nlFamily)
	if err != nil {
		c.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, f, ErrNoModule
		}
		return nil, f, fmt.Errorf("netlink: %w", err)
	}
	return c, f, nil
}

func command(cmd uint8, data []byte) ([]genetlink.Message, error) {
	c, f, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := genetlink.Message{Header: genetlink.Header{Command: cmd, Version: nlVersion}, Data: data}
	return c.Execute(m, f.ID, netlink.Request|netlink.Acknowledge)
}

// Check implements Kernel.
func (LinuxKernel) Check() error {
	c, _, err := dial()
	if err != nil {
		return err
	}
	c.Close()
	if os.Geteuid() != 0 {
		return ErrNotAllowed
	}
	return nil
}

// Connect implements Kernel.
func (LinuxKernel) Connect(q ConnectRequest) error {
	data, err := q.encode()
	if err != nil {
		return err
	}
	_, err = command(nlConnect, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("nbd%d: %w", q.Index, ErrBusy)
	case errors.Is(err, syscall.EPERM):
		return ErrNotAllowed
	case errors.Is(err, syscall.EINVAL) && !exists(sysPath(q.Index)):
		return fmt.Errorf("nbd%d: %w", q.Index, ErrNoDevice)
	}
	return fmt.Errorf("nbd%d: connect: %w", q.Index, err)
}

// Reconfigure implements Kernel.
func (LinuxKernel) Reconfigure(q ReconfigureRequest) error {
	data, err := q.encode()
	if err != nil {
		return err
	}
	if _, err = command(nlReconfigure, data); errors.Is(err, syscall.EPERM) {
		return ErrNotAllowed
	}
	if err != nil {
		return fmt.Errorf("nbd%d: reconfigure: %w", q.Index, err)
	}
	return nil
}

// Disconnect implements Kernel. A device that is not connected is as good.
func (LinuxKernel) Disconnect(index uint32) error {
	data, err := encodeIndex(index)
	if err != nil {
		return err
	}
	if _, err = command(nlDisconnect, data); errors.Is(err, syscall.EPERM) {
		return ErrNotAllowed
	}
	if err != nil && exists(sysPath(index, "pid")) {
		return fmt.Errorf("nbd%d: disconnect: %w", index, err)
	}
	return nil
}

// Backend implements Kernel. The driver shows pid and backend while a device is configured; STATUS would
// not tell a configured device from one that somebody has merely opened.
func (LinuxKernel) Backend(index uint32) (string, bool, error) {
	if !exists(sysPath(index, "pid")) {
		return "", false, nil
	}
	b, err := os.ReadFile(sysPath(index, "backend"))
	if errors.Is(err, os.ErrNotExist) {
		return "", exists(sysPath(index, "pid")), nil
	}
	if err != nil {
		return "", true, err
	}
	return strings.TrimSpace(string(b)), true, nil
}

// SetIOTimeout implements Kernel.
func (LinuxKernel) SetIOTimeout(index uint32, d time.Duration) error {
	return os.WriteFile(sysPath(index, "queue", "io_timeout"), strconv.AppendInt(nil, d.Milliseconds(), 10), 0o644)
}

// LinkDead implements Kernel.
func (LinuxKernel) LinkDead(ctx context.Context, f func(uint32)) error {
	c, family, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	joined := false
	for _, g := range family.Groups {
		if g.Name == nlGroup {
			if err := c.JoinGroup(g.ID); err != nil {
				return fmt.Errorf("netlink: %w", err)
			}
			joined = true
		}
	}
	if !joined {
		return errors.New("netlink: the NBD driver has no multicast group")
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		msgs, _, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			continue // some were lost; they are for the log alone
		case err != nil:
			return fmt.Errorf("netlink: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Command != nlLinkDead {
				continue
			}
			if index, err := decodeIndex(m.Data); err == nil {
				f(index)
			}
		}
	}
}

// Connected returns which devices the kernel says are in use, by STATUS.
func (LinuxKernel) Connected() (map[uint32]bool, error) {
	msgs, err := command(nlStatus, nil)
	if err != nil {
		return nil, err
	}
	out := map[uint32]bool{}
	for _, m := range msgs {
		st, err := decodeStatus(m.Data)
		if err != nil {
			return nil, err
		}
		for i, c := range st {
			out[i] = c
		}
	}
	return out, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
