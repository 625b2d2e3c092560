package writepath

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Start is cmd.Start for a program that is not in the write path: it inherits neither the flag nor the
// protection from the OOM killer. In a process that has neither it does nothing else.
//
// The score is set right after the start. A program that starts another one within those microseconds
// hands the old score on, which costs nothing but that this one is spared as long as it lives.
func Start(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() { done <- startUnflagged(cmd) }()
	if err := <-done; err != nil {
		return err
	}
	if score, err := ownScore(); err == nil && score < 0 {
		// Raising a score is always allowed, so what fails here is only that the program has ended.
		_ = os.WriteFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), scoreFile), []byte("0"), 0)
	}
	return nil
}

// startUnflagged starts cmd from a thread whose flag is taken away meanwhile. The runtime makes no thread
// from one that is locked to a goroutine, so nobody but the child inherits that.
func startUnflagged(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	flagged, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	if err != nil || flagged == 0 || ioFlusher(false) != nil {
		runtime.UnlockOSThread()
		return cmd.Start()
	}
	err = cmd.Start()
	if ioFlusher(true) == nil {
		runtime.UnlockOSThread()
	} // else the thread ends with this goroutine: nobody may go on without the flag
	return err
}
