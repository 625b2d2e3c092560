package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// entry is one server to measure.
type entry struct {
	name  string
	start func(ctx context.Context, o options, dir, golden string) (*server, error)
}

var entries = []entry{
	{"lockstep", func(ctx context.Context, o options, dir, golden string) (*server, error) {
		s, err := startLockstep(ctx, o, dir)
		if err != nil {
			return nil, err
		}
		// The same allocated, random content as the others have.
		if out, err := exec.CommandContext(ctx, "nbdcopy", golden, s.uri).CombinedOutput(); err != nil {
			s.stop()
			return nil, fmt.Errorf("nbdcopy: %w: %s", err, out)
		}
		return s, nil
	}},
	{"quorum-nbdkit", startQuorum},
	{"nbdkit", startNbdkit},
	{"nbdkit-again", startNbdkit},
}

// server is an entry that runs.
type server struct {
	entry
	uri   string
	procs []*exec.Cmd
	down  func() // nil: nothing more to undo
	lab   labInfo
}

// stop ends every process of the server.
func (s *server) stop() {
	for _, p := range s.procs {
		p.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range s.procs {
		kill := time.AfterFunc(5*time.Second, func() { p.Process.Kill() })
		p.Wait()
		kill.Stop()
	}
	if s.down != nil {
		s.down()
	}
}

// spawn starts a process of the server; its complaints go to a log in dir.
func (s *server) spawn(dir, name string, args ...string) error {
	log, err := os.Create(filepath.Join(dir, fmt.Sprintf("log%d", len(s.procs))))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.procs = append(s.procs, cmd)
	return nil
}

// ready waits until an export answers.
func ready(ctx context.Context, uri string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := exec.CommandContext(ctx, "nbdinfo", "--size", uri).CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %s", uri, bytes.TrimSpace(out))
		case <-tick.C:
		}
	}
}

func startNbdkit(ctx context.Context, _ options, dir, golden string) (*server, error) {
	s := &server{}
	file, sock := filepath.Join(dir, "img"), filepath.Join(dir, "s")
	s.uri = "nbd+unix:///?socket=" + sock
	if err := copyFile(file, golden); err != nil {
		return nil, err
	}
	if err := s.spawn(dir, "nbdkit", "-f", "-U", sock, "file", file); err != nil {
		return nil, err
	}
	return s.whenReady(ctx, s.uri)
}

// whenReady returns s when all URIs answer, and stops it when they do not.
func (s *server) whenReady(ctx context.Context, uris ...string) (*server, error) {
	for _, uri := range uris {
		if err := ready(ctx, uri); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

// startQuorum is synchronous replication as QEMU does it: a file here and an nbdkit over TCP.
func startQuorum(ctx context.Context, _ options, dir, golden string) (*server, error) {
	s := &server{}
	local, remote, sock := filepath.Join(dir, "img1"), filepath.Join(dir, "img2"), filepath.Join(dir, "s")
	if err := errors.Join(copyFile(local, golden), copyFile(remote, golden)); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := s.spawn(dir, "nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "file", remote); err != nil {
		return nil, err
	}
	if _, err := s.whenReady(ctx, "nbd://127.0.0.1:"+port); err != nil {
		return nil, err
	}
	err = s.spawn(dir, "qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=f0,filename="+local+",discard=unmap,aio=threads",
		"--blockdev", "driver=nbd,node-name=r0,server.type=inet,server.host=127.0.0.1,server.port="+port,
		"--blockdev", "driver=quorum,node-name=q0,children.0=f0,children.1=r0,vote-threshold=2,read-pattern=fifo",
		"--nbd-server", "addr.type=unix,addr.path="+sock,
		"--export", "type=nbd,id=e0,node-name=q0,name=,writable=on")
	if err != nil {
		s.stop()
		return nil, err
	}
	s.uri = "nbd+unix:///?socket=" + sock
	return s.whenReady(ctx, s.uri)
}

// labInfo is what `lockstep lab info --json` tells, as far as it is used here.
type labInfo struct {
	Nodes []struct {
		Name       string `json:"name"`
		PID        int    `json:"pid"`
		Socket     string `json:"control_socket"`
		NBDUnixURI string `json:"nbd_unix_uri"`
	} `json:"nodes"`
}

// startLockstep starts two data nodes and a witness.
func startLockstep(ctx context.Context, o options, dir string) (*server, error) {
	s := &server{}
	lab := filepath.Join(dir, "lab")
	s.down = func() { exec.Command(o.lockstep, "lab", "down", "--dir", lab).Run() }
	if _, err := lockstep(ctx, o, "lab", "up", "--dir", lab, "--size", fmt.Sprintf("%dMiB", o.sizeMiB)); err != nil {
		s.down()
		return nil, err
	}
	if err := s.info(ctx, o, lab); err != nil {
		s.down()
		return nil, err
	}
	s.uri = s.lab.Nodes[0].NBDUnixURI
	return s, nil
}

// info asks for the present processes of the lab.
func (s *server) info(ctx context.Context, o options, lab string) error {
	out, err := lockstep(ctx, o, "lab", "info", "--json", "--dir", lab)
	if err == nil {
		err = json.Unmarshal(out, &s.lab)
	}
	if err == nil && len(s.lab.Nodes) < 2 {
		err = fmt.Errorf("lab info names %d nodes", len(s.lab.Nodes))
	}
	return err
}

// lockstep runs a command of the program and returns its output.
func lockstep(ctx context.Context, o options, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, o.lockstep, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("lockstep %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	return errors.Join(err, f.Close())
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
