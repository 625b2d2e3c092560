package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// magics tell file systems apart, by the bytes at an offset.
var magics = []struct {
	fstype   string
	offBytes int64
	magic    []byte
}{
	{"xfs", 0, []byte("XFSB")},
	{"ext4", 0x438, []byte{0x53, 0xef}},
	{"btrfs", 0x10040, []byte("_BHRfS_M")},
	{"f2fs", 0x400, []byte{0x10, 0x20, 0xf5, 0xf2}},
}

// errUnknown says that there is no file system that is known.
var errUnknown = errors.New("there is no file system on it that is known; make one, or name its type")

// Detect returns the type of the file system on dev. The driver of ext4 mounts ext2 and ext3, too.
func Detect(dev io.ReaderAt) (string, error) {
	for _, m := range magics {
		got := make([]byte, len(m.magic))
		n, err := dev.ReadAt(got, m.offBytes)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("look for a file system: %w", err)
		}
		if n == len(got) && bytes.Equal(got, m.magic) {
			return m.fstype, nil
		}
	}
	return "", errUnknown
}
