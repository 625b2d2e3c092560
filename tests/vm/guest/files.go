package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A run of write goes in steps. Step i makes a file of its own and syncs it and its directory, and puts
// version i into a slot of a file that is as large from the start as it will ever be. So there are
// allocations, journal commits and writes in place, each followed by a barrier:
//
//	DIR/RUN/07/file-000007     content made from RUN and i
//	DIR/RUN/slots              slot i%slots: version i, from step i-slots on version i-slots
const (
	slots    = 32
	slotSize = 4096
)

type series struct {
	dir string
	run uint64
}

func (s series) root() string { return filepath.Join(s.dir, fmt.Sprint(s.run)) }

func (s series) file(i int) string {
	return filepath.Join(s.root(), fmt.Sprintf("%02d", i%8), fmt.Sprintf("file-%06d", i))
}

// content is what the file of step i has to hold: of any length, so that there are tails and holes in tails.
func (s series) content(i int) []byte {
	src := rand.NewChaCha8(seed(s.run, uint64(i)))
	p := make([]byte, 1+src.Uint64()%(64<<10))
	src.Read(p)
	return p
}

// slot is version i as it stands in its slot; 0 is what no step has written.
func (s series) slot(i int) []byte {
	p := make([]byte, slotSize)
	if i == 0 {
		return p
	}
	src := rand.NewChaCha8(seed(s.run+1<<32, uint64(i)))
	src.Read(p)
	binary.BigEndian.PutUint64(p, uint64(i))
	return p
}

func seed(run, i uint64) (k [32]byte) {
	binary.BigEndian.PutUint64(k[:], run)
	binary.BigEndian.PutUint64(k[8:], i)
	return k
}

// write runs steps 1, 2, ... and prints "synced STEP MICROSECONDS" after each. It ends at -steps, or when the
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
	s := series{*dir, *run}
	if err := os.MkdirAll(s.root(), 0o755); err != nil {
		return err
	}
	sl, err := os.Create(filepath.Join(s.root(), "slots"))
	if err != nil {
		return err
	}
	defer sl.Close()
	if _, err := sl.Write(make([]byte, slots*slotSize)); err != nil {
		return err
	}
	if err := errors.Join(sl.Sync(), syncDir(s.root()), syncDir(s.dir)); err != nil {
		return err
	}
	for i := 1; i <= *steps; i++ {
		begun := time.Now()
		if err := s.step(i, sl); err != nil {
			return fmt.Errorf("step %d, after %v: %w", i, time.Since(begun), err)
		}
		fmt.Printf("synced %d %d\n", i, time.Since(begun).Microseconds())
		if _, err := os.Stat(*until); *until != "" && err == nil {
			break
		}
		time.Sleep(*pause)
	}
	return nil
}

func (s series) step(i int, sl *os.File) error {
	path := s.file(i)
	dir := filepath.Dir(path)
	_, err := os.Stat(dir)
	fresh := errors.Is(err, os.ErrNotExist)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(s.content(i))
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(dir)); err != nil {
		return err
	}
	if fresh {
		if err := syncDir(s.root()); err != nil {
			return err
		}
	}
	if _, err := sl.WriteAt(s.slot(i), int64(i%slots)*slotSize); err != nil {
		return err
	}
	return sl.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// verify checks that everything that runs 1, 2, ... of write said to have synced, up to the steps in args, is there.
func verify(args []string) error {
	f := flag.NewFlagSet("verify", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	for i, arg := range f.Args() {
		synced, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		if err := (series{*dir, uint64(i + 1)}).verify(synced); err != nil {
			return fmt.Errorf("run %d, synced up to step %d: %w", i+1, synced, err)
		}
	}
	fmt.Printf("verified: %v\n", f.Args())
	return nil
}

func (s series) verify(synced int) error {
	var errs []error
	for i := 1; i <= synced; i++ {
		got, err := os.ReadFile(s.file(i))
		if err == nil && !bytes.Equal(got, s.content(i)) {
			err = fmt.Errorf("%s: %d bytes that are not those of step %d", s.file(i), len(got), i)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.verifySlots(synced))...)
}

// verifySlots checks that each slot has the version that was synced last, or a later one. One slot may be torn:
// the writer changes one at a time, and the power cut may have met it.
func (s series) verifySlots(synced int) error {
	f, err := os.Open(filepath.Join(s.root(), "slots"))
	if err != nil {
		return err
	}
	defer f.Close()
	torn := 0
	var errs []error
	for n := range slots {
		got := make([]byte, slotSize)
		if _, err := f.ReadAt(got, int64(n)*slotSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		least := max(0, synced-(synced-n+slots)%slots) // the last step up to synced with this slot
		v := int(binary.BigEndian.Uint64(got))
		switch {
		case v < 0 || v > synced+1000 || !bytes.Equal(got, s.slot(v)):
			if torn++; torn > 1 {
				errs = append(errs, fmt.Errorf("slot %d is torn, and it is not the only one", n))
			}
		case v < least:
			errs = append(errs, fmt.Errorf("slot %d: version %d, and %d was synced", n, v, least))
		}
	}
	return errors.Join(errs...)
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
