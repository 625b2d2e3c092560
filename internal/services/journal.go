package services

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// journalFormat is the version of a journal.
const journalFormat = 1

// journal is the file that names what may run here. A journal of another boot names nothing: what it meant
// ended with that boot.
type journal struct {
	path string
	boot string
}

type journalFile struct {
	Format   int            `json:"v"`
	Boot     string         `json:"boot"`
	Services []service.Spec `json:"services"`
}

// read returns what may run.
func (j *journal) read() ([]service.Spec, error) {
	b, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f journalFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	switch err := d.Decode(&f); {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read: %w; stop by hand what it names, then remove it", j.path, err)
	case f.Format != journalFormat:
		return nil, fmt.Errorf("%s has version %d, this program reads version %d; stop by hand what it names, then remove it", j.path, f.Format, journalFormat)
	case f.Boot != j.boot:
		return nil, nil
	}
	if err := service.ValidateAll(f.Services); err != nil {
		return nil, fmt.Errorf("%s: %w; stop by hand what it names, then remove it", j.path, err)
	}
	return f.Services, nil
}

// write makes durable that these may run.
func (j *journal) write(all []service.Spec) (err error) {
	b, err := json.Marshal(journalFile{Format: journalFormat, Boot: j.boot, Services: all})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return err
	}
	next := j.path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(next, j.path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(j.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
