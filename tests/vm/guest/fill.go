package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// fill writes a file of so many MiB of known content and syncs nothing; -check compares instead. It says how little
// was free, and how much had to be written back, at the moment when that was worst.
func fill(args []string) error {
	f := flag.NewFlagSet("fill", flag.ContinueOnError)
	file := f.String("file", "", "")
	mib := f.Int("mib", 0, "")
	check := f.Bool("check", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	mode := os.O_CREATE | os.O_EXCL | os.O_WRONLY
	if *check {
		mode = os.O_RDONLY
	}
	to, err := os.OpenFile(*file, mode, 0o644)
	if err != nil {
		return err
	}
	defer to.Close()
	src := rand.NewChaCha8([32]byte{byte(*mib)})
	want, got := make([]byte, 1<<20), make([]byte, 1<<20)
	var worst struct{ free, dirty int } // KiB
	begun := time.Now()
	for i := range *mib {
		src.Read(want)
		if !*check {
			if _, err := to.Write(want); err != nil {
				return err
			}
			m, err := meminfo()
			if err != nil {
				return err
			}
			free, dirty := m["MemFree"], m["Dirty"]+m["Writeback"]
			if worst.free == 0 || dirty*worst.free > worst.dirty*free {
				worst.free, worst.dirty = free, dirty
			}
			continue
		}
		if _, err := to.ReadAt(got, int64(i)<<20); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s: MiB %d is not what was written", *file, i)
		}
	}
	fmt.Printf("took %d ms; at worst %d KiB free, %d KiB to be written back\n", time.Since(begun).Milliseconds(), worst.free, worst.dirty)
	return nil
}

// meminfo is what the kernel says about memory, in KiB.
func meminfo() (map[string]int, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	m := map[string]int{}
	for line := range strings.Lines(string(b)) {
		var n int
		name, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscan(rest, &n); err == nil {
			m[name] = n
		}
	}
	if m["MemAvailable"] == 0 {
		return nil, errors.New("/proc/meminfo does not say what is available")
	}
	return m, nil
}
