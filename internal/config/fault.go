package config

import (
	"fmt"
	"sort"
	"strings"
)

// Fault is one thing that is wrong with a Node.
type Fault struct {
	File    string // as given to Load; empty from Validate
	Line    int    // from 1; 0 when no line says it, as with a key that is missing
	Column  int    // in bytes from 1; 0 when not known
	Text    string // the line as it stands in the file
	Key     string // "lease", "node[1].addr"; empty for a syntax error
	Message string
}

func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
			if f.Column > 0 {
				fmt.Fprintf(&b, ":%d", f.Column)
			}
		}
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	if f.Line > 0 {
		b.WriteString("\n    " + strings.ToValidUTF8(strings.TrimRight(f.Text, "\r"), "\uFFFD"))
	}
	return b.String()
}

// Faults is every fault of a Node at once, in the order of the file; those without a line come
// last. It is the type of the errors that Load and Validate return for bad content.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, 0, len(fs)+1)
	if len(fs) > 1 {
		lines = append(lines, fmt.Sprintf("%d faults:", len(fs)))
	}
	for _, f := range fs {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// err returns fs as an error, nil when there is no fault.
func (fs Faults) err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// add appends a fault of key.
func (fs *Faults) add(key, format string, args ...any) {
	*fs = append(*fs, Fault{Key: key, Message: fmt.Sprintf(format, args...)})
}

// place gives each fault its file, line and text, and sorts them. A fault of node[1].addr that
// stands on no line is shown at the header of node[1].
func (fs Faults) place(file string, lines []string, at map[string]position) {
	for i := range fs {
		f := &fs[i]
		f.File = file
		if f.Line == 0 {
			pos, ok := at[f.Key]
			for key := f.Key; !ok && strings.Contains(key, "."); {
				key = key[:strings.LastIndexByte(key, '.')]
				pos, ok = at[key]
			}
			if !ok && strings.HasPrefix(f.Key, "node[") {
				pos = at["node"]
			}
			f.Line, f.Column = pos.line, pos.column
		}
		if f.Line > 0 && f.Line <= len(lines) && f.Text == "" {
			f.Text = lines[f.Line-1]
		}
		switch {
		case f.Key == "key":
			f.Text = "key = (not shown)"
		case holdsSecret(f.Text):
			f.Text = "(not shown: the line may hold a password)"
		}
	}
	sort.SliceStable(fs, func(i, j int) bool {
		a, b := fs[i], fs[j]
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line == 0
		}
		return a.Line < b.Line
	})
}
