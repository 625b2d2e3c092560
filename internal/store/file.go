package store

import (
	"errors"
	"io"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// file is an open backing or metadata file. The tests put faults between the store and the system
// here. Each method is one system call, restarted only after a signal; errors are plain errnos.
type file interface {
	pread(p []byte, off int64) (int, error)
	pwrite(p []byte, off int64, dsync bool) (int, error) // dsync: RWF_DSYNC
	datasync() error                                     // fdatasync
	sync() error                                         // fsync: times, too
	fallocate(mode uint32, off, n int64) error
	zeroOut(off, n int64) error // BLKZEROOUT
	seek(off int64, whence int) (int64, error)
	truncate(size int64) error
	fd() int
	close() error
}

// sysFile is a file descriptor. os.File would add a poller that regular files do not use, and has no
// call for RWF_DSYNC; what it gives against use after close, Store.enter gives too.
type sysFile int

func openFile(path string, flags int, perm uint32) (sysFile, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
		if err != unix.EINTR {
			return sysFile(fd), err
		}
	}
}

func (f sysFile) fd() int { return int(f) }

func (f sysFile) close() error { return unix.Close(int(f)) }

func (f sysFile) pread(p []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(int(f), p, off)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (f sysFile) pwrite(p []byte, off int64, dsync bool) (n int, err error) {
	for {
		if dsync {
			n, err = unix.Pwritev2(int(f), [][]byte{p}, off, unix.RWF_DSYNC)
		} else {
			n, err = unix.Pwrite(int(f), p, off)
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (f sysFile) datasync() error { return restart(func() error { return unix.Fdatasync(int(f)) }) }

func (f sysFile) sync() error { return restart(func() error { return unix.Fsync(int(f)) }) }

func (f sysFile) truncate(size int64) error {
	return restart(func() error { return unix.Ftruncate(int(f), size) })
}

func (f sysFile) fallocate(mode uint32, off, n int64) error {
	return restart(func() error { return unix.Fallocate(int(f), mode, off, n) })
}

func (f sysFile) zeroOut(off, n int64) error {
	return restart(func() error {
		arg := [2]uint64{uint64(off), uint64(n)}
		return ioctl(int(f), unix.BLKZEROOUT, unsafe.Pointer(&arg))
	})
}

func (f sysFile) seek(off int64, whence int) (int64, error) {
	return unix.Seek(int(f), off, whence)
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}

// restart calls f until it was not interrupted by a signal. An interrupted fsync has reported no
// error of the disk, so calling it again hides none.
func restart(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// readFull fills p. A file that ends before is io.ErrUnexpectedEOF.
func readFull(f file, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := f.pread(p, off)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// writeFull writes all of p: a short write is no error, and what follows it tells why it was short.
func writeFull(f file, p []byte, off int64, dsync bool) error {
	for len(p) > 0 {
		n, err := f.pwrite(p, off, dsync)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// unsupported reports whether err says that a file cannot do this at all, so that another way is
// tried.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTTY)
}

// fileDevice is a file as a MetaDevice.
type fileDevice struct {
	file
}

func (f fileDevice) ReadAt(p []byte, off int64) (int, error) {
	if err := readFull(f.file, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f fileDevice) WriteAt(p []byte, off int64) (int, error) {
	if err := writeFull(f.file, p, off, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f fileDevice) Sync() error { return f.datasync() }

func (f fileDevice) SeekData(off int64) (int64, error) {
	at, err := f.seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, io.EOF
	case err != nil:
		return off, nil // no such call here: the read that follows finds out about anything worse
	}
	return at, nil
}

func (f fileDevice) Size() (int64, error) { return f.seek(0, unix.SEEK_END) }

func (f fileDevice) Truncate(size int64) error { return f.truncate(size) }
