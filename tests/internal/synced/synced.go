// Package synced writes files that are synced step by step, and checks afterwards that whatever was synced is there.
//
// Step i makes a file of its own and syncs it and its directory, and puts version i into a slot of a file that is as
// large from the start as it will ever be. So there are allocations, journal commits and writes in place, each
// followed by a barrier:
//
//	DIR/RUN/07/file-000007     content made from RUN and i
//	DIR/RUN/slots              slot i%slots: version i, from step i-slots on version i-slots
package synced

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	slots    = 32
	slotSize = 4096
)

// Series is one run of steps below a directory.
type Series struct {
	Dir  string
	Run  uint64
	Keep int // how many files there are at most, 2 at least: each step removes an old one; 0: all stay
}

func (s Series) root() string { return filepath.Join(s.Dir, fmt.Sprint(s.Run)) }

func (s Series) file(i int) string {
	return filepath.Join(s.root(), fmt.Sprintf("%02d", i%8), fmt.Sprintf("file-%06d", i))
}

// content is what the file of step i has to hold: of any length, so that there are tails and holes in tails.
func (s Series) content(i int) []byte {
	src := rand.NewChaCha8(seed(s.Run, uint64(i)))
	p := make([]byte, 1+src.Uint64()%(64<<10))
	src.Read(p)
	return p
}

// slot is version i as it stands in its slot; 0 is what no step has written.
func (s Series) slot(i int) []byte {
	p := make([]byte, slotSize)
	if i == 0 {
		return p
	}
	src := rand.NewChaCha8(seed(s.Run+1<<32, uint64(i)))
	src.Read(p)
	binary.BigEndian.PutUint64(p, uint64(i))
	return p
}

func seed(run, i uint64) (k [32]byte) {
	binary.BigEndian.PutUint64(k[:], run)
	binary.BigEndian.PutUint64(k[8:], i)
	return k
}

// Write runs steps 1, 2, ... until done, which hears how long each took, returns false, and fails at the first error.
func (s Series) Write(done func(step int, took time.Duration) bool) error {
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
	if err := errors.Join(sl.Sync(), syncDir(s.root()), syncDir(s.Dir)); err != nil {
		return err
	}
	for i := 1; ; i++ {
		begun := time.Now()
		err := s.step(i, sl)
		if err == nil && s.Keep > 0 && i > s.Keep {
			err = os.Remove(s.file(i - s.Keep))
		}
		if err != nil {
			return fmt.Errorf("step %d, after %v: %w", i, time.Since(begun), err)
		}
		if !done(i, time.Since(begun)) {
			return nil
		}
	}
}

func (s Series) step(i int, sl *os.File) error {
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

// Verify checks that everything up to step synced is there.
func (s Series) Verify(synced int) error {
	var errs []error
	first := 1
	if s.Keep > 0 {
		first = max(1, synced-s.Keep+2) // the step after may have removed one more
	}
	for i := first; i <= synced; i++ {
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
func (s Series) verifySlots(synced int) error {
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
