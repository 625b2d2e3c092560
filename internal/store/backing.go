package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openBacking opens the file or device at path for reading and writing and locks it against other
// replicas; a block device also against mounts and other exclusive users. It returns its length in
// bytes. Errors: ErrBackingMissing, ErrBackingKind, ErrReadOnly, ErrLocked, ErrDirectUnsupported.
func openBacking(path string, direct bool) (f sysFile, block bool, length int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %w", ErrBackingMissing, err)
		}
		return -1, false, 0, fmt.Errorf("backing %s: %w", path, err)
	}
	flags := unix.O_RDWR
	if direct {
		flags |= unix.O_DIRECT
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		block = true
		flags |= unix.O_EXCL // for a block device: not while it is mounted or part of another one
	case unix.S_IFREG:
	default:
		return -1, false, 0, fmt.Errorf("backing %s: %w", path, ErrBackingKind)
	}
	f, err = openFile(path, flags, 0)
	if err == nil {
		length, err = f.prepareBacking(block)
		if err != nil {
			f.close()
		}
	}
	switch {
	case err == nil:
		return f, block, length, nil
	case errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%w: %w", ErrLocked, err)
	case errors.Is(err, unix.EINVAL) && direct:
		err = fmt.Errorf("%w: %w", ErrDirectUnsupported, err)
	}
	return -1, false, 0, fmt.Errorf("backing %s: %w", path, err)
}

// prepareBacking locks f and returns its length. The kind is looked at again: the name may stand for
// another file by now.
func (f sysFile) prepareBacking(block bool) (length int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f), &st); err != nil {
		return 0, err
	}
	if kind := st.Mode & unix.S_IFMT; block != (kind == unix.S_IFBLK) || !block && kind != unix.S_IFREG {
		return 0, ErrBackingKind
	}
	if err := restart(func() error { return unix.Flock(int(f), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return 0, err
	}
	if !block {
		return st.Size, nil
	}
	var readOnly int32
	if err := ioctl(int(f), unix.BLKROGET, unsafe.Pointer(&readOnly)); err != nil {
		return 0, err
	}
	if readOnly != 0 {
		return 0, unix.EROFS
	}
	err = ioctl(int(f), unix.BLKGETSIZE64, unsafe.Pointer(&length))
	return length, err
}

// alignments returns the units of memory and of offsets for direct I/O on f, in bytes.
func alignments(fd int, block bool) (mem uintptr, off int64, err error) {
	mem, off = diskBlock, diskBlock // what every disk of today can do, when the kernel does not say
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		mem, off = uintptr(st.Dio_mem_align), int64(st.Dio_offset_align)
	} else if block {
		var sector int32
		if err := ioctl(fd, unix.BLKSSZGET, unsafe.Pointer(&sector)); err != nil {
			return 0, 0, err
		}
		off = int64(sector)
	}
	power := func(n int64) bool { return n > 0 && n <= diskBlock && n&(n-1) == 0 }
	if !power(off) || !power(int64(mem)) {
		return 0, 0, fmt.Errorf("%w: unit of %d bytes, memory of %d", ErrDirectUnsupported, off, mem)
	}
	return mem, max(off, 512), nil
}

// identify fills in what recognises the open file or device, but for Path and Made.
func (b *Backing) identify(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("identify backing: %w", err)
	}
	b.Block = st.Mode&unix.S_IFMT == unix.S_IFBLK
	if b.Block {
		b.Dev = st.Rdev
		b.Serial = deviceSerial(st.Rdev)
		return nil
	}
	b.Dev, b.Inode, b.MTime = st.Dev, st.Ino, st.Mtim.Nano()
	var sx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &sx); err == nil && sx.Mask&unix.STATX_BTIME != 0 {
		b.Born = sx.Btime.Sec*1e9 + int64(sx.Btime.Nsec)
	}
	return nil
}

// deviceSerial returns a name of the device that stays the same across boots, or "".
func deviceSerial(rdev uint64) string {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
	read := func(name string) string {
		text, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	part := ""
	if n := read("partition"); n != "" {
		part = "/partition " + n
		dir += "/.." // the link leads to the partition's directory inside its disk's
	}
	for _, name := range []string{"dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial", "loop/backing_file"} {
		if text := read(name); text != "" {
			return name + " " + text + part
		}
	}
	return ""
}

// differs tells why now is not what b was, or nil. Numbers of devices change from boot to boot, so
// they are compared within one boot only; an inode number is used again after a file was removed,
// so the file's birth is compared as well. after tells whether nothing may have been written since
// b.MTime.
func (b Backing) differs(now Backing, sameBoot, after bool) error {
	replaced := func(what string, was, is any) error {
		return fmt.Errorf("%w: %s was %v, is %v", ErrBackingReplaced, what, was, is)
	}
	switch {
	case b.Block != now.Block:
		return replaced("block device", b.Block, now.Block)
	case sameBoot && b.Dev != now.Dev:
		return replaced("device number", b.Dev, now.Dev)
	case b.Inode != now.Inode:
		return replaced("inode", b.Inode, now.Inode)
	case b.Born != 0 && now.Born != 0 && b.Born != now.Born:
		return replaced("birth", b.Born, now.Born)
	case b.Serial != "" && now.Serial != "" && b.Serial != now.Serial:
		return replaced("serial", b.Serial, now.Serial)
	case after && !b.Block && b.MTime != now.MTime:
		return fmt.Errorf("%w: modified at %d ns, stopped at %d ns", ErrBackingChanged, now.MTime, b.MTime)
	}
	return nil
}
