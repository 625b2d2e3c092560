package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// flags are the options that the kernel takes as flags; false clears.
var flags = map[string]struct {
	bit uintptr
	on  bool
}{
	"ro": {unix.MS_RDONLY, true}, "rw": {unix.MS_RDONLY, false},
	"nosuid": {unix.MS_NOSUID, true}, "suid": {unix.MS_NOSUID, false},
	"nodev": {unix.MS_NODEV, true}, "dev": {unix.MS_NODEV, false},
	"noexec": {unix.MS_NOEXEC, true}, "exec": {unix.MS_NOEXEC, false},
	"sync": {unix.MS_SYNCHRONOUS, true}, "async": {unix.MS_SYNCHRONOUS, false},
	"dirsync": {unix.MS_DIRSYNC, true},
	"noatime": {unix.MS_NOATIME, true}, "atime": {unix.MS_NOATIME, false},
	"nodiratime": {unix.MS_NODIRATIME, true}, "diratime": {unix.MS_NODIRATIME, false},
	"relatime": {unix.MS_RELATIME, true}, "norelatime": {unix.MS_RELATIME, false},
	"strictatime": {unix.MS_STRICTATIME, true},
	"lazytime":    {unix.MS_LAZYTIME, true}, "nolazytime": {unix.MS_LAZYTIME, false},
}

// split turns mount options into the flags of the system call and the rest, which is for the file system.
func split(options []string) (bits uintptr, data string) {
	var rest []string
	for _, o := range options {
		f, known := flags[o]
		switch {
		case o == "defaults" || o == "":
		case known && f.on:
			bits |= f.bit
		case known:
			bits &^= f.bit
		default:
			rest = append(rest, o)
		}
	}
	return bits, strings.Join(rest, ",")
}
