package mount

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is one line of /proc/self/mountinfo.
type entry struct {
	dev      uint64 // of its files; btrfs makes one up
	source   string // path of the device, as it was given
	dir      string
	readOnly bool // the file system, not only this mount of it
}

// table returns what is mounted, in the order in which it was.
func table() ([]entry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e, err := parseEntry(lines.Text())
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, lines.Err()
}

// parseEntry reads "36 35 98:0 /root /dir rw,noatime master:1 - ext4 /dev/x rw,errors=continue".
func parseEntry(line string) (entry, error) {
	front, back, ok := strings.Cut(line, " - ")
	a, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(a) < 6 || len(b) < 2 {
		return entry{}, fmt.Errorf("mountinfo: cannot read %q", line)
	}
	major, minor, ok := strings.Cut(a[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return entry{}, fmt.Errorf("mountinfo: cannot read the device of %q", line)
	}
	e := entry{dev: unix.Mkdev(uint32(ma), uint32(mi)), source: unescape(b[1]), dir: unescape(a[4])}
	if len(b) > 2 {
		e.readOnly = strings.HasPrefix(b[2]+",", "ro,")
	}
	return e, nil
}

// of reports whether e is mounted from the device dev.
func (e *entry) of(dev uint64) bool {
	var st unix.Stat_t
	return e.dev == dev || strings.HasPrefix(e.source, "/") && unix.Stat(e.source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == dev
}

// unescape undoes the octal escapes of blanks and backslashes.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
