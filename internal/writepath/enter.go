package writepath

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options say what a process wants. The zero value wants nothing.
type Options struct {
	IOFlusher bool // allocations never wait for write-back
	Lock      bool // memory stays where it is
	Spare     bool // the OOM killer takes somebody else
}

// All wants everything.
func All() Options { return Options{IOFlusher: true, Lock: true, Spare: true} }

// Lack is something that is wanted and is not so.
type Lack struct {
	What string // a sentence without its end
	Next string // what to do about it
	Err  error  // of the kernel; nil: it was not asked
}

// leastScore is the oom_score_adj of what is never killed.
const leastScore = -1000

// Enter does what o wants and returns what the host did not allow. It is called once, early: memory that
// is locked later may have been taken away before.
func Enter(o Options) []Lack {
	var lacks []Lack
	if o.Spare {
		if score, err := spare(); score > leastScore {
			lacks = append(lacks, lackSpare(score, err))
		}
	}
	if o.Lock {
		if err := lockMemory(); err != nil {
			lacks = append(lacks, lackLock(err))
		}
	}
	if o.IOFlusher { // last: it is the one that other threads must not be made without
		if err := setIOFlusher(); err != nil {
			lacks = append(lacks, lackIOFlusher(err))
		}
	}
	return lacks
}

func lackIOFlusher(err error) Lack {
	l := Lack{
		What: "its memory allocations may wait for write-back to the devices that it serves itself: PR_SET_IO_FLUSHER is not set",
		Next: "give it CAP_SYS_RESOURCE: run it as root, and let no container take that away", Err: err,
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		l.Next = "use a kernel of version 5.6 or newer"
	case errors.Is(err, unix.ENOTSUP):
		l.Next = "use a build without cgo"
	}
	return l
}

func lackLock(err error) Lack {
	return Lack{
		What: "its memory may be taken away when memory is short: it is not locked",
		Next: "set LimitMEMLOCK=infinity in its unit, or give it CAP_IPC_LOCK", Err: err,
	}
}

func lackSpare(score int, err error) Lack {
	return Lack{
		What: fmt.Sprintf("the OOM killer may choose it: oom_score_adj is %d, not %d", score, leastScore),
		Next: "set OOMScoreAdjust=-1000 in its unit, or give it CAP_SYS_RESOURCE", Err: err,
	}
}

// setIOFlusher sets the flag on every thread, and on all that they will make.
func setIOFlusher() error {
	// One thread is asked first: AllThreadsSyscall ends the process when threads are answered differently,
	// and whether it may is the same for all of them.
	runtime.LockOSThread()
	err := ioFlusher(true)
	runtime.UnlockOSThread()
	if err != nil {
		return err
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0); errno != 0 {
		return errno // ENOTSUP: cgo; one thread has it then, which is nothing to rely on
	}
	s, err := Look()
	if err == nil && !s.IOFlusher {
		err = errors.New("a thread is without it although all were told")
	}
	return err
}

// ioFlusher sets or clears the flag of the calling thread.
func ioFlusher(on bool) error {
	var arg uintptr
	if on {
		arg = 1
	}
	return unix.Prctl(unix.PR_SET_IO_FLUSHER, arg, 0, 0, 0)
}

// lockMemory locks what is there and what will be, and reads the program in.
func lockMemory() error {
	if err := unlimitLocks(); err != nil {
		return err
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return err
	}
	return readIn("/proc/self")
}

// unlimitLocks returns nil if this process may lock any amount of memory.
func unlimitLocks() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return err
	}
	if lim.Cur == unix.RLIM_INFINITY {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err == nil {
		return nil
	}
	// The capability lifts the limit, but only that of the machine: a container may have one of its own,
	// which looks the same and lifts nothing.
	own, err := ownUsers("/proc/self")
	if err == nil && !own && hasCapability(unix.CAP_IPC_LOCK) {
		return nil
	}
	return fmt.Errorf("RLIMIT_MEMLOCK is %d bytes: %w", lim.Cur, unix.EPERM)
}

// hasCapability reports whether this process has a capability in effect.
func hasCapability(number int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}

// spare lowers the score as far as is allowed and returns what it is then, with the error of the least one.
func spare() (score int, err error) {
	score, err = ownScore()
	if err != nil || score == leastScore {
		return score, err
	}
	if err = setScore(leastScore); err == nil {
		return leastScore, nil
	}
	// Without the capability the lowest that was ever allowed is the limit, and the kernel does not tell it.
	sort.Search(score-leastScore, func(i int) bool {
		if setScore(leastScore+i) != nil {
			return false
		}
		score = leastScore + i
		return true
	})
	return score, err
}

const scoreFile = "oom_score_adj"

func ownScore() (int, error) { return readInt("/proc/self/" + scoreFile) }

func setScore(score int) error {
	return os.WriteFile("/proc/self/"+scoreFile, strconv.AppendInt(nil, int64(score), 10), 0)
}
