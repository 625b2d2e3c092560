package deploy

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed files
var embedded embed.FS

// Options say how files are written. Each field but Strict is required.
type Options struct {
	Root    string // the directory that stands for /
	Program string // absolute path of lockstep, as the host will see it
	Config  string // absolute path of the node file, as the host will see it
	Strict  bool   // with strict.conf
}

// File is one file as it is to be.
type File struct {
	Name string // what it is called in this package
	Path string // absolute, below the root
	Mode fs.FileMode
	Text string
}

var places = []struct {
	name, dir string
	mode      fs.FileMode
	strict    bool
}{
	{"lockstep-node.service", "/usr/lib/systemd/system", 0o644, false},
	{"strict.conf", "/usr/lib/systemd/system/lockstep-node.service.d", 0o644, true},
	{"lockstep-attach@.service", "/usr/lib/systemd/system", 0o644, false},
	{"61-lockstep.rules", "/usr/lib/udev/rules.d", 0o644, false},
	{"device", "/usr/lib/ocf/resource.d/lockstep", 0o755, false},
}

// Files returns what Install writes.
func Files(o Options) ([]File, error) {
	for _, p := range []string{o.Program, o.Config} {
		// A unit splits its command at blanks and replaces what follows a percent or a dollar sign; a script
		// ends a string at a quote.
		if !filepath.IsAbs(p) || strings.ContainsAny(p, " \t\n\"'`\\%$&|;") {
			return nil, fmt.Errorf("%q cannot stand in a unit: it has to be an absolute path without blanks, quotes and signs", p)
		}
	}
	var out []File
	for _, p := range places {
		if p.strict && !o.Strict {
			continue
		}
		text, err := embedded.ReadFile("files/" + p.name)
		if err != nil {
			return nil, err
		}
		out = append(out, File{
			Name: p.name, Path: filepath.Join(o.Root, p.dir, p.name), Mode: p.mode,
			Text: strings.NewReplacer("@PROGRAM@", o.Program, "@CONFIG@", o.Config).Replace(string(text)),
		})
	}
	return out, nil
}

// Install writes the files below o.Root and returns them. Each is there as a whole or as it was before.
// Without Strict, a strict.conf of an earlier install is removed.
func Install(o Options) ([]File, error) {
	files, err := Files(o)
	if err != nil {
		return nil, err
	}
	for i, f := range files {
		if err := write(f); err != nil {
			return files[:i], err
		}
	}
	for _, p := range places {
		if p.strict && !o.Strict {
			if err := os.Remove(filepath.Join(o.Root, p.dir, p.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return files, err
			}
		}
	}
	return files, nil
}

// write replaces a file at once.
func write(f File) error {
	dir := filepath.Dir(f.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".lockstep-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // not there any more when all went well
	_, err = tmp.WriteString(f.Text)
	if err == nil {
		err = tmp.Chmod(f.Mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return os.Rename(tmp.Name(), f.Path)
}
