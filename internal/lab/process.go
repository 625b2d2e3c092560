package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/config"
)

// errGone means that a process has ended.
var errGone = errors.New("the process has ended")

// process is a running process that cannot be mistaken for another.
type process struct{ fd int }

// openProcess returns the process pid if it is the one that started at start; else errGone.
func openProcess(pid int, start uint64) (process, error) {
	if pid <= 1 {
		return process{}, errGone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return process{}, errGone
	}
	if err != nil {
		return process{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	// The descriptor holds on to whichever process has the id now; its start time tells which.
	if got, err := startTime(pid); err != nil || got != start {
		unix.Close(fd)
		return process{}, errGone
	}
	return process{fd}, nil
}

func (p process) close() { unix.Close(p.fd) }

func (p process) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return err
}

// wait returns nil when the process has ended, or the error of ctx.
func (p process) wait(ctx context.Context) error {
	for {
		// The kernel tells when the process ends; the timeout is for looking at ctx.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 50)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// startTime returns the start time of a process that has not ended, in clock ticks since boot
// (field 22 of /proc/PID/stat, see proc(5)).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(b)
}

// parseStat reads the start time out of /proc/PID/stat; a zombie is errGone.
func parseStat(b []byte) (uint64, error) {
	f, err := statFields(b)
	if err != nil {
		return 0, err
	}
	if state := string(f[0]); state == "Z" || state == "X" {
		return 0, errGone
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// statFields returns the fields of /proc/PID/stat from the third, the state, on; at least 20.
func statFields(b []byte) ([][]byte, error) {
	// The second field is the program's name in parentheses and may itself hold any byte.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return nil, errors.New("/proc/PID/stat does not parse")
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 {
		return nil, errors.New("/proc/PID/stat does not parse")
	}
	return f, nil
}

// stateStopped is the state of a process that a signal stopped.
const stateStopped = "T"

// processState returns the state of a process, one letter (see proc(5)).
func processState(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	f, err := statFields(b)
	if err != nil {
		return "", err
	}
	return string(f[0]), nil
}

// bootID names the present boot of this machine.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// spawn starts command in a session of its own with its output appended to log, in the network
// namespace ns or, where that is empty, in this process's; boots tells its boot from others of the
// machine's one. The caller waits for it.
func spawn(command []string, log, ns string, boots int) (*exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	// A node's fence agent may be what runs here: then this environment has a number of its own.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, config.LabBootEnv+"=") })
	if boots > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", config.LabBootEnv, boots))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if ns == "" {
		err = cmd.Start()
	} else {
		err = inNS(ns, cmd.Start) // a process begins in the namespace of the thread that made it
	}
	if err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	return cmd, nil
}

// ParseSignal reads a signal by name (KILL, SIGKILL, kill) or number.
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("%d is no signal", n)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%q is no signal; write for example KILL, TERM, STOP, CONT or a number", s)
}
