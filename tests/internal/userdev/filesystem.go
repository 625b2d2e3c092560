package userdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/nbd/attach"
)

// limit bounds each thing that is waited for.
const limit = 30 * time.Second

// Device is a relay at work in this process, on a Kernel of this package.
type Device struct {
	Kernel *Kernel
	ended  chan error // of the relay, once
	stop   context.CancelFunc
}

// Attach has a relay attach resource, whose servers are given as attach.ParseServer takes them, with its state and its
// socket in dir. It returns when the device can be used. It has to be given back with Wait or Stop.
func Attach(ctx context.Context, dir, resource string, servers []string, log io.Writer) (*Device, error) {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	d := &Device{Kernel: NewKernel(filepath.Join(dir, "device")), ended: make(chan error, 1), stop: stop}
	spec := attach.Spec{Resource: resource, Device: "/dev/nbd0", Connections: 1, Servers: servers, Deadline: time.Minute, Wait: limit, Dir: dir}
	env := attach.Env{Kernel: d.Kernel, Logger: slog.New(slog.NewTextHandler(log, nil))}
	ready := make(chan struct{})
	go func() { d.ended <- attach.Serve(run, spec, env, func(attach.Status) { close(ready) }) }()
	select {
	case <-ready:
		return d, nil
	case err := <-d.ended:
		stop()
		return nil, fmt.Errorf("attach: %w", err)
	case <-ctx.Done():
		stop()
		return nil, errors.Join(ctx.Err(), <-d.ended)
	}
}

// Wait waits for the end that a client's goodbye brings, and the attachment's with it.
func (d *Device) Wait() error {
	defer d.stop()
	select {
	case err := <-d.ended:
		return err
	case <-time.After(limit):
		return errors.New("the relay goes on, and nobody uses its device")
	}
}

// Stop ends the relay and leaves the attachment; for what has failed already.
func (d *Device) Stop() {
	d.stop()
	d.Kernel.gone()
}

// FileSystem is a new ext4 on a device.
type FileSystem struct {
	Dir    string // where it is mounted
	device *Device
	fuse   string
	loop   string
	server *exec.Cmd
	said   *os.File
}

// Missing returns what a FileSystem needs and this machine lacks; "" is nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, tool := range [][2]string{{"nbdfuse", "libnbd-bin"}, {"mkfs.ext4", "e2fsprogs"}, {"losetup", "mount"}, {"fusermount3", "fuse3"}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			return "needs " + tool[0] + ": apt-get install " + tool[1]
		}
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			return "needs " + dev
		}
	}
	return ""
}

// Mount makes an ext4 on d, and mounts it below dir. On an error nothing is left but d.
func Mount(ctx context.Context, dir string, d *Device) (fs *FileSystem, err error) {
	fs = &FileSystem{Dir: filepath.Join(dir, "mnt"), device: d, fuse: filepath.Join(dir, "fuse")}
	defer func() {
		if err != nil {
			err = errors.Join(err, fs.unmake())
			fs = nil
		}
	}()
	if err := errors.Join(os.MkdirAll(fs.Dir, 0o755), os.MkdirAll(fs.fuse, 0o755)); err != nil {
		return fs, err
	}
	if fs.said, err = os.Create(filepath.Join(dir, "nbdfuse.log")); err != nil {
		return fs, err
	}
	server := exec.Command("nbdfuse", fs.fuse, d.Kernel.URI())
	server.Stdout, server.Stderr = fs.said, fs.said
	if err := server.Start(); err != nil {
		return fs, err
	}
	fs.server = server
	file := filepath.Join(fs.fuse, "nbd")
	if err := poll(ctx, func() error { _, err := os.Stat(file); return err }); err != nil {
		said, _ := os.ReadFile(fs.said.Name())
		return fs, fmt.Errorf("nbdfuse: %w: %s", err, said)
	}
	// Direct: what a page cache between the file system and the device takes is not on any device yet.
	out, err := run("losetup", "-f", "--show", "--direct-io=on", "--sector-size="+strconv.Itoa(int(d.Kernel.block())), file)
	if err != nil {
		return fs, err
	}
	fs.loop = strings.TrimSpace(out)
	if _, err := run("mkfs.ext4", "-q", "-F", fs.loop); err != nil {
		return fs, err
	}
	_, err = run("mount", "-t", "ext4", fs.loop, fs.Dir)
	return fs, err
}

// Again unmounts the file system and mounts it anew: what is read then comes from the device.
func (fs *FileSystem) Again() error {
	if _, err := run("umount", fs.Dir); err != nil {
		return err
	}
	_, err := run("mount", "-t", "ext4", fs.loop, fs.Dir)
	return err
}

// Options are the mount's, as the kernel has them now.
func (fs *FileSystem) Options() (string, error) {
	out, err := run("findmnt", "-n", "-o", "OPTIONS", fs.Dir)
	return strings.TrimSpace(out), err
}

// Unmount undoes Mount, and the attachment.
func (fs *FileSystem) Unmount() error {
	if _, err := run("umount", fs.Dir); err != nil {
		return err
	}
	if err := fs.unmake(); err != nil {
		return err
	}
	return fs.device.Wait()
}

// unmake takes away what is below the mount.
func (fs *FileSystem) unmake() (err error) {
	if fs.loop != "" {
		_, err = run("losetup", "-d", fs.loop)
	}
	if fs.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		// The loop device lets go of the file a moment after losetup returns.
		err = errors.Join(err, poll(ctx, func() error { _, err := run("fusermount3", "-u", fs.fuse); return err }))
		if err != nil {
			fs.server.Process.Kill()
		}
		err = errors.Join(err, fs.server.Wait())
	}
	if fs.said != nil {
		fs.said.Close()
	}
	return err
}

// Kill ends what serves the file system, whose users get errors; for what has failed already.
func (fs *FileSystem) Kill() {
	fs.device.Stop()
	fs.server.Process.Kill()
	for _, argv := range [][]string{{"umount", "-l", fs.Dir}, {"losetup", "-d", fs.loop}, {"umount", "-l", fs.fuse}} {
		_, _ = run(argv[0], argv[1:]...) // as far as it goes
	}
	_ = fs.server.Wait()
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// poll returns when check returns nil, or its last error when ctx or the limit ends.
func poll(ctx context.Context, check func() error) error {
	over := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-over:
			return err
		case <-ctx.Done():
			return err
		}
	}
}
