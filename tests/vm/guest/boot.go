package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// modulesFile lists the kernel modules to load at boot, one a line, each after those that it needs: a path and,
// after spaces, its parameters. With a dot and a name behind it is what that module needs, and itself. The rig
// writes them.
const modulesFile = "/etc/modules"

// problemsFile hands what went wrong to the agent.
const problemsFile = "/run/problems"

// systemScript, where there is one, becomes process 1 once modules are loaded, and makes another system process 1 in
// turn. The agent is that system's to start.
const systemScript = "/bin/system"

// boot is process 1. It returns never: a kernel whose process 1 ends panics, which is what should
// happen when there is no agent to talk to.
func boot() {
	var problems []string
	note := func(what string, err error) {
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", what, err))
		}
	}
	for _, m := range [][3]string{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
		{"tmpfs", "/run", ""}, {"tmpfs", "/tmp", ""}, {"tmpfs", "/dev/shm", ""},
	} {
		note("make "+m[1], os.MkdirAll(m[1], 0o755))
		err := unix.Mount(m[0], m[1], m[0], 0, m[2])
		if !errors.Is(err, unix.EBUSY) { // a kernel may have mounted /dev by itself
			note("mount "+m[1], err)
		}
	}
	os.Setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
	os.Setenv("HOME", "/")
	note("name the host", unix.Sethostname([]byte("guest")))
	note("load modules", loadModules(modulesFile))
	note("loopback", exec.Command("ip", "link", "set", "lo", "up").Run())
	note("write problems", os.WriteFile(problemsFile, []byte(strings.Join(problems, "\n")), 0o600))
	if _, err := os.Stat(systemScript); err == nil {
		err := syscall.Exec("/bin/sh", []string{"sh", systemScript}, os.Environ())
		fmt.Println("guest:", systemScript, err)
		os.Exit(1)
	}
	agent, err := os.StartProcess("/proc/self/exe", []string{"guest", "agent"}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		fmt.Println("guest: no agent:", err, problems)
		os.Exit(1)
	}
	// Everybody's orphans end here. The agent waits for its own children, so this is a process apart.
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, 0, nil)
		if pid == agent.Pid {
			fmt.Println("guest: the agent ended:", st)
			os.Exit(1)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			fmt.Println("guest: wait:", err)
			os.Exit(1)
		}
	}
}

// load loads a module that the boot left out.
func load(args []string) error {
	if len(args) != 1 {
		return errors.New("load MODULE")
	}
	return loadModules(modulesFile + "." + args[0])
}

// loadModules loads what a file lists, and goes on after one that cannot be loaded.
func loadModules(list string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	for sc := bufio.NewScanner(f); sc.Scan(); {
		path, params, _ := strings.Cut(sc.Text(), " ")
		if err := loadModule(path, params); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func loadModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), params, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
