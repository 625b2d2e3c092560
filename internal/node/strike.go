package node

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// killSelf ends this process at once, as a crash would: nothing is closed, nobody is told.
func killSelf() error { return unix.Kill(os.Getpid(), unix.SIGKILL) }

// sigevent is what the kernel knows by that name, on 64-bit machines: 64 bytes.
type sigevent struct {
	value  uint64
	signo  int32
	notify int32 // 0: send signo
	_      [48]byte
}

// standStill stops this process as a whole for d: no thread of it runs, and its connections stay. The
// timer that wakes it is the kernel's, which sends SIGCONT whatever becomes of this process, so it
// cannot be left standing.
func standStill(d time.Duration) error {
	ev := sigevent{signo: int32(unix.SIGCONT)}
	var timer int32
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&timer)))
	if errno != 0 {
		return fmt.Errorf("timer that wakes this process: %w", errno)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if _, _, errno = unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("set the timer that wakes this process: %w", errno)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGSTOP); err != nil {
		return err
	}
	// Another thread may take the signal a moment after this one goes on. The timer must not be
	// deleted before it has fired, or nobody would wake this process.
	time.Sleep(d)
	unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(timer), 0, 0)
	return nil
}
