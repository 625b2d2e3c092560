package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/tests/vm/talk"
)

// link is the agent's end of the port.
type link struct {
	mu  sync.Mutex
	enc *json.Encoder
	bad error // the first error of a send; nobody is there any more
}

func (l *link) send(r talk.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad == nil {
		l.bad = l.enc.Encode(r)
	}
}

// agent runs commands until the port ends, which it never does while the machine is on.
func agent() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	l := &link{enc: json.NewEncoder(port)}
	l.send(talk.Reply{Hello: hello()})
	var mu sync.Mutex
	running := map[talk.ID]*exec.Cmd{}
	for dec := json.NewDecoder(port); ; {
		var req talk.Request
		if err := dec.Decode(&req); err != nil {
			return fmt.Errorf("port: %w", err)
		}
		if req.Kill {
			mu.Lock()
			if c := running[req.ID]; c != nil {
				syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			}
			mu.Unlock()
			continue
		}
		cmd := exec.Command("/bin/sh", "-c", req.Script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Stdout = sender(func(p []byte) { l.send(talk.Reply{ID: req.ID, Out: p}) })
		cmd.Stderr = sender(func(p []byte) { l.send(talk.Reply{ID: req.ID, Err: p}) })
		if err := cmd.Start(); err != nil {
			l.send(talk.Reply{ID: req.ID, End: &talk.End{Code: 127, Why: err.Error()}})
			continue
		}
		mu.Lock()
		running[req.ID] = cmd
		mu.Unlock()
		go func() {
			err := cmd.Wait()
			mu.Lock()
			delete(running, req.ID)
			mu.Unlock()
			l.send(talk.Reply{ID: req.ID, End: ended(err)})
		}()
	}
}

// sender is a writer that passes on what is written.
type sender func(p []byte)

func (s sender) Write(p []byte) (int, error) {
	s(p)
	return len(p), nil
}

func ended(err error) *talk.End {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &talk.End{}
	case !errors.As(err, &exit):
		return &talk.End{Code: 127, Why: err.Error()}
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &talk.End{Code: 128 + int(ws.Signal())}
	}
	return &talk.End{Code: exit.ExitCode()}
}

// openPort finds the port by its name.
func openPort() (io.ReadWriter, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err == nil && strings.TrimSpace(string(b)) == talk.Port {
			dev := filepath.Join("/dev", filepath.Base(filepath.Dir(n)))
			return os.OpenFile(dev, os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio port is called %s; there are %v", talk.Port, names)
}

func hello() *talk.Hello {
	h := &talk.Hello{}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		h.BootID = strings.TrimSpace(string(b))
	}
	b, err := os.ReadFile(problemsFile)
	if err != nil {
		b = []byte(err.Error())
	}
	if len(b) > 0 {
		h.Problems = strings.Split(string(b), "\n")
	}
	return h
}
