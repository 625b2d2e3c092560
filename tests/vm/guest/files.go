package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/synced"
)

// write runs steps of package synced and prints "synced STEP MICROSECONDS" after each. It ends at -steps, or when the
// file -until exists, and fails at the first error. -pause between steps leaves an emulated machine time for
// everything else.
func write(args []string) error {
	f := flag.NewFlagSet("write", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	run := f.Uint64("run", 1, "")
	steps := f.Int("steps", 1<<30, "")
	until := f.String("until", "", "")
	pause := f.Duration("pause", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	return synced.Series{Dir: *dir, Run: *run}.Write(func(step int, took time.Duration) bool {
		fmt.Printf("synced %d %d\n", step, took.Microseconds())
		if _, err := os.Stat(*until); step == *steps || *until != "" && err == nil {
			return false
		}
		time.Sleep(*pause)
		return true
	})
}

// verify checks that everything that runs 1, 2, ... of write said to have synced, up to the steps in args, is there.
func verify(args []string) error {
	f := flag.NewFlagSet("verify", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	for i, arg := range f.Args() {
		steps, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		if err := (synced.Series{Dir: *dir, Run: uint64(i + 1)}).Verify(steps); err != nil {
			return fmt.Errorf("run %d, synced up to step %d: %w", i+1, steps, err)
		}
	}
	fmt.Printf("verified: %v\n", f.Args())
	return nil
}

// same compares two files.
func same(args []string) error {
	if len(args) != 2 {
		return errors.New("same FILE FILE")
	}
	var f [2]*os.File
	for i, path := range args {
		var err error
		if f[i], err = os.Open(path); err != nil {
			return err
		}
		defer f[i].Close()
	}
	var buf [2][]byte
	buf[0], buf[1] = make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += 1 << 20 {
		n0, err0 := f[0].ReadAt(buf[0], off)
		n1, err1 := f[1].ReadAt(buf[1], off)
		a, b := buf[0][:n0], buf[1][:n1]
		if !bytes.Equal(a, b) {
			i := 0
			for i < min(n0, n1) && a[i] == b[i] {
				i++
			}
			return fmt.Errorf("%s and %s differ at %d", args[0], args[1], off+int64(i))
		}
		if err0 != nil || err1 != nil {
			if errors.Is(err0, io.EOF) && errors.Is(err1, io.EOF) {
				return nil
			}
			return errors.Join(err0, err1)
		}
	}
}
