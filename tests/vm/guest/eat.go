package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// eat takes memory until only so many MiB are available (args[0]), says so, and keeps it until it
// is killed. It is the process that the kernel kills first.
func eat(args []string) error {
	if len(args) != 1 {
		return errors.New("eat MIB-TO-LEAVE")
	}
	leave, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return err
	}
	const step = 1 << 20
	var kept [][]byte
	for {
		avail, err := availableMiB()
		if err != nil {
			return err
		}
		if avail <= leave {
			break
		}
		p, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("after %d MiB: %w", len(kept), err)
		}
		kept = append(kept, p)
	}
	fmt.Printf("took %d MiB\n", len(kept))
	unix.Pause() // until it is killed
	runtime.KeepAlive(kept)
	return nil
}

// availableMiB is the kernel's own estimate of what can be had without swapping.
func availableMiB() (int, error) {
	m, err := meminfo()
	return m["MemAvailable"] >> 10, err
}
