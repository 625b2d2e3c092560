package rig

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/need"
)

// Kernel is a Debian kernel that has been fetched and unpacked.
type Kernel struct {
	Version string // 6.1.0-56-amd64
	Image   string // path of vmlinux
	modules string // directory of the modules; see Modules
}

// kept are the parts of a kernel package that tests may want; all of it is 400 MB.
var kept = []string{
	"arch/x86/crypto/", "crypto/", "lib/", "drivers/virtio/", "drivers/block/", "drivers/char/", "drivers/md/",
	"drivers/watchdog/", "drivers/net/virtio_net.ko", "drivers/net/net_failover.ko", "net/core/", "net/netfilter/",
	"fs/ext4/", "fs/jbd2/", "fs/mbcache.ko", "fs/xfs/", "fs/overlayfs/", "fs/fscache/", "fs/netfs/", "fs/9p/", "net/9p/",
}

// unpackedName is the directory of what is kept: another list of parts is another directory.
func unpackedName() string {
	return fmt.Sprintf("kernel-%08x", crc32.ChecksumIEEE([]byte(strings.Join(kept, "\n"))))
}

// FindKernel returns the kernel that Debian would install on this machine. It downloads its package once, without
// installing it, and unpacks it below the cache directory. Where that cannot be done, the test is skipped.
func FindKernel(t testing.TB) Kernel {
	t.Helper()
	need.Tool(t, "apt-get", "apt")
	need.Tool(t, "dpkg-deb", "dpkg")
	need.Tool(t, "xz", "xz-utils")
	k, err := findKernel()
	if err != nil {
		need.Skip(t, "needs Debian's kernel package: %v", err)
	}
	return k
}

func findKernel() (Kernel, error) {
	dir, err := cacheDir()
	if err != nil {
		return Kernel{}, err
	}
	unlock, err := lock(filepath.Join(dir, "lock")) // other packages' tests may want it, too
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, err := unpacked(dir); err == nil {
		return k, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, err
	}
	pkg, err := kernelPackage()
	if err != nil {
		return Kernel{}, err
	}
	if err := fetch(dir, pkg); err != nil {
		return Kernel{}, err
	}
	return unpacked(dir)
}

// cacheDir is bin/vm of this tree, which git ignores; LOCKSTEP_VM_CACHE names another.
func cacheDir() (string, error) {
	dir := os.Getenv("LOCKSTEP_VM_CACHE")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "bin", "vm")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() {
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}

// unpacked returns the kernel that is there already.
func unpacked(dir string) (Kernel, error) {
	boot := filepath.Join(dir, unpackedName(), "boot")
	images, err := filepath.Glob(filepath.Join(boot, "vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	if len(images) != 1 {
		return Kernel{}, fmt.Errorf("%d kernels in %s: %w", len(images), dir, fs.ErrNotExist)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	modules := filepath.Join(dir, unpackedName(), "lib", "modules", version, "kernel")
	return Kernel{Version: version, Image: filepath.Join(boot, "vmlinux"), modules: modules}, nil
}

var imagePackage = regexp.MustCompile(`linux-image-[0-9][\w.+-]*-amd64`)

// kernelPackage asks apt which package linux-image-amd64 stands for at present.
func kernelPackage() (string, error) {
	out, err := run("", "apt-cache", "depends", "linux-image-amd64")
	pkg := imagePackage.FindString(out)
	if pkg == "" { // a machine whose package lists have never been fetched, or were removed
		if up, uerr := run("", "apt-get", "update"); uerr != nil {
			return "", fmt.Errorf("apt-get update: %w: %s", uerr, tail(up))
		}
		out, err = run("", "apt-cache", "depends", "linux-image-amd64")
		pkg = imagePackage.FindString(out)
	}
	if pkg == "" {
		return "", fmt.Errorf("apt knows no kernel as linux-image-amd64: %w: %s", err, tail(out))
	}
	return pkg, nil
}

// fetch downloads a kernel package and unpacks it below dir, in one step for whoever looks.
func fetch(dir, pkg string) error {
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out, err := run(tmp, "apt-get", "download", pkg)
	if err != nil { // the list may be older than the archive
		if _, uerr := run("", "apt-get", "update"); uerr == nil {
			out, err = run(tmp, "apt-get", "download", pkg)
		}
	}
	if err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", pkg, err, tail(out))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d files: %w", pkg, len(debs), err)
	}
	if err := unpack(debs[0], filepath.Join(tmp, "kernel")); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	if err := inflate(filepath.Join(tmp, "kernel")); err != nil {
		return fmt.Errorf("inflate the kernel of %s: %w", pkg, err)
	}
	return os.Rename(filepath.Join(tmp, "kernel"), filepath.Join(dir, unpackedName()))
}

// inflate writes boot/vmlinux, the kernel that vmlinuz would unpack by itself: five seconds, emulated, at every
// boot. QEMU starts it through the entry for virtual machines (PVH), which Debian's kernels have.
func inflate(dir string) error {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return errors.Join(err, fmt.Errorf("%d kernels in it", len(images)))
	}
	z, err := os.ReadFile(images[0])
	if err != nil {
		return err
	}
	// Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length.
	if len(z) < 0x250 || string(z[0x202:0x206]) != "HdrS" {
		return errors.New("vmlinuz has no boot header")
	}
	from := (int(z[0x1f1])+1)*512 + int(binary.LittleEndian.Uint32(z[0x248:]))
	length := int(binary.LittleEndian.Uint32(z[0x24c:])) - 4 // less the length of what comes out
	if from < 0 || length < 0 || from > len(z)-length {
		return errors.New("vmlinuz has its payload outside of itself")
	}
	payload := z[from : from+length]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")) {
		return fmt.Errorf("vmlinuz is packed in a way that is not known here: %x", payload[:min(6, len(payload))])
	}
	var out, errs bytes.Buffer
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xz: %w: %s", err, errs.String())
	}
	return os.WriteFile(filepath.Join(dir, "boot", "vmlinux"), out.Bytes(), 0o644)
}

// unpack writes the image and the wanted modules of a package below dir.
func unpack(deb, dir string) error {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = untar(tar.NewReader(out), dir)
	if err != nil {
		cmd.Process.Kill()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("dpkg-deb: %w: %s", werr, errs.String())
	}
	return err
}

func untar(tr *tar.Reader, dir string) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !wanted(h.Name) || !filepath.IsLocal(h.Name) {
			continue
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, tr)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// wanted takes a name in the package, such as ./lib/modules/6.1.0-56-amd64/kernel/fs/ext4/ext4.ko.
func wanted(name string) bool {
	name = strings.TrimPrefix(name, "./")
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return true
	}
	_, module, ok := strings.Cut(name, "/kernel/")
	if !ok {
		return false
	}
	for _, k := range kept {
		if strings.HasPrefix(module, k) {
			return true
		}
	}
	return false
}

// run runs a program and returns all it said.
func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func tail(s string) string { return s[max(0, len(s)-300):] }
