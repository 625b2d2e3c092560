package attach

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func notifyTerm(c chan<- os.Signal) { signal.Notify(c, syscall.SIGTERM) }

func sessionOf(pid int) (int, error) { return unix.Getsid(pid) }
