package writepath

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// State is how a process stands, as the kernel tells.
type State struct {
	IOFlusher bool // of every thread
	Locked    bool
	Score     int // oom_score_adj
}

// Look asks the kernel how this process stands.
func Look() (State, error) { return lookAt("/proc/self") }

// Lacks returns what o wants and s has not.
func (s State) Lacks(o Options) []Lack {
	var lacks []Lack
	if o.IOFlusher && !s.IOFlusher {
		lacks = append(lacks, lackIOFlusher(nil))
	}
	if o.Lock && !s.Locked {
		lacks = append(lacks, lackLock(nil))
	}
	if o.Spare && s.Score > leastScore {
		lacks = append(lacks, lackSpare(s.Score, nil))
	}
	return lacks
}

func lookAt(dir string) (s State, err error) {
	if s.IOFlusher, err = allFlush(dir); err != nil {
		return s, err
	}
	if s.Locked, err = locked(dir); err != nil {
		return s, err
	}
	s.Score, err = readInt(filepath.Join(dir, scoreFile))
	return s, err
}

// Bits of the kernel's task flags, which is what PR_SET_IO_FLUSHER sets. They are not in a header for
// programs, but in each /proc/PID/task/TID/stat, and have not changed since there is the call.
const (
	pfMemallocNoIO  = 0x0008_0000
	pfLocalThrottle = 0x0010_0000 // PF_LESS_THROTTLE before 5.8
	pfIOFlusher     = pfMemallocNoIO | pfLocalThrottle
)

// allFlush reports whether each thread of the process in dir has the flag.
func allFlush(dir string) (bool, error) {
	tasks, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return false, err
	}
	for _, t := range tasks {
		text, err := os.ReadFile(filepath.Join(dir, "task", t.Name(), "stat"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return false, err
		}
		flags, err := taskFlags(text)
		if err != nil || flags&pfIOFlusher != pfIOFlusher {
			return false, err
		}
	}
	return true, nil
}

// taskFlags returns field 9 of a stat file (see proc(5)).
func taskFlags(stat []byte) (uint64, error) {
	// The second field is a name in parentheses and may itself hold any byte.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 7 {
		return 0, fmt.Errorf("the kernel's account of a thread does not parse: %q", stat)
	}
	return strconv.ParseUint(string(f[6]), 10, 64)
}

// locked reports whether the process in dir has locked memory.
func locked(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, "status"))
	if err != nil {
		return false, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if rest, ok := strings.CutPrefix(sc.Text(), "VmLck:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kb > 0, err
		}
	}
	return false, errors.Join(errors.New("the kernel does not tell how much memory is locked"), sc.Err())
}

// ownUsers reports whether the process in dir lives in a user namespace of its own.
func ownUsers(dir string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, "uid_map"))
	if err != nil {
		return false, err
	}
	return strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295", nil
}

// readIn has the pages of the running program read, so that they are locked: the code that has never run
// is that for failures.
func readIn(dir string) error {
	program, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "maps"))
	if err != nil {
		return err
	}
	for _, r := range mapped(string(text), program) {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_POPULATE_READ)
		if errno != 0 && errno != unix.EINVAL { // kernels before 5.14 read page by page, as they are used
			return fmt.Errorf("read the program in: %w", errno)
		}
	}
	return nil
}

// span is a range of addresses.
type span struct{ start, end uintptr }

// mapped returns the ranges in which a maps file shows a program.
func mapped(maps, program string) []span {
	var out []span
	for line := range strings.Lines(maps) {
		// 55d0c1a00000-55d0c1a5b000 r-xp 00001000 fd:01 1234   /usr/bin/lockstep
		f := strings.Fields(line)
		if len(f) < 6 || strings.Join(f[5:], " ") != program || !strings.HasPrefix(f[1], "r") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, errA := strconv.ParseUint(from, 16, 64)
		b, errB := strconv.ParseUint(to, 16, 64)
		if errA == nil && errB == nil && a < b {
			out = append(out, span{uintptr(a), uintptr(b)})
		}
	}
	return out
}

func readInt(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
