package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CloneMode says what Clone does where the filesystem cannot share blocks between files.
type CloneMode uint8

const (
	ShareOnly CloneMode = iota // refuse with ErrNoReflink: a copy takes time and space
	MayCopy                    // copy the bytes
)

// Clone makes a copy of a backing, whole and durable when it returns: an operator who gives up the
// data of a diverged replica can go back to it. Nothing may be at the path to; after an error nothing
// is. shared tells that both share their blocks until one is written, which takes no time and next to
// no space. Where the filesystem cannot do that, mode decides.
//
// The backing may be open in a Store, as that of a diverged replica is; no lock is taken. The caller
// makes sure that nothing is written to it meanwhile, or the copy is of no single moment.
// Errors: ErrBackingMissing, ErrBackingKind, ErrNoReflink, os.ErrExist, ENOSPC, that of ctx.
func Clone(ctx context.Context, from, to string, mode CloneMode) (shared bool, err error) {
	src, err := openSource(from)
	if err != nil {
		return false, fmt.Errorf("backing %s: %w", from, err)
	}
	defer src.close()
	shared, err = cloneTo(ctx, src, to, mode)
	if err != nil {
		return false, fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return shared, nil
}

// openSource opens a backing for reading.
func openSource(path string) (sysFile, error) {
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return -1, fmt.Errorf("%w: %w", ErrBackingMissing, err)
	case err != nil:
		return -1, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFBLK:
		return -1, ErrBackingKind // before it is opened: to open a pipe waits for a writer
	}
	return openFile(path, unix.O_RDONLY, 0)
}

// cloneTo fills a file under another name and then links it to its own, so that what has the name is
// whole. A crash leaves at most the other name, which begins with a dot.
func cloneTo(ctx context.Context, src sysFile, to string, mode CloneMode) (shared bool, err error) {
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = os.ErrExist // said before the work, not after
		}
		return false, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	dst := sysFile(tmp.Fd())
	shared, err = share(src, dst)
	switch {
	case err != nil || shared:
	case mode == MayCopy:
		err = copyData(ctx, src, dst)
	default:
		err = ErrNoReflink
	}
	if err == nil {
		err = dst.sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Link(tmp.Name(), to)
	}
	if err == nil {
		err = syncDir(to)
		if err != nil {
			os.Remove(to)
		}
	}
	return shared && err == nil, err
}

// share makes dst share the blocks of src; false when that cannot be done here.
func share(src, dst sysFile) (bool, error) {
	err := restart(func() error { return unix.IoctlFileClone(int(dst), int(src)) })
	switch {
	case err == nil:
		return true, nil
	case unsupported(err) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL):
		return false, nil // other filesystem, block device, file with attributes that exclude it
	}
	return false, err
}

// copyData copies src to the empty file dst. Where src has holes or zeros, dst has holes.
func copyData(ctx context.Context, src, dst sysFile) error {
	size, err := src.seek(0, unix.SEEK_END)
	if err != nil {
		return err
	}
	if err := dst.truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		data, end, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, src, dst, data, end); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// copyChunk is what is read, and skipped if it is zeros, at once, bytes.
const copyChunk = 256 << 10

// copyRange copies the bytes from off up to end.
func copyRange(ctx context.Context, src, dst sysFile, off, end int64) error {
	b := make([]byte, copyChunk)
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		b = b[:min(copyChunk, end-off)]
		if err := readFull(src, b, off); err != nil {
			return err
		}
		if !isZero(b) {
			if err := writeFull(dst, b, off, false); err != nil {
				return err
			}
		}
		off += int64(len(b))
	}
	return nil
}
