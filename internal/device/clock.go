package device

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BootTime is CLOCK_BOOTTIME: the time since the host was started, including the time it was
// suspended. Leases are measured with it (rule 4), which is why time.Now's monotonic reading,
// that stands still during a suspend, will not do.
func BootTime() time.Duration {
	var ts unix.Timespec
	// Raw: the call never blocks, and the scheduler need not hear of it.
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME,
		uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		panic(fmt.Sprintf("device: clock_gettime(CLOCK_BOOTTIME): %v", errno))
	}
	return time.Duration(ts.Nano())
}

// randomID returns an unpredictable number that is not zero.
func randomID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails: it ends the process instead
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}
