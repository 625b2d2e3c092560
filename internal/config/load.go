package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile is the longest node file, in bytes.
const maxFile = 1 << 20

// Load reads and judges the node file at path. Bad content is returned as Faults, all of them at
// once; an error of another type means that the file could not be read.
func Load(path string) (Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return Node{}, fmt.Errorf("read node file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Node{}, fmt.Errorf("read node file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Node{}, fmt.Errorf("read node file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Node{}, fmt.Errorf("read node file: %w", err)
	}
	d := parse(path, dir, data)
	if perm := st.Mode().Perm(); d.has("key") && perm&0o077 != 0 {
		d.faults.add("key", "the file holds the key and has mode %04o, so others may use it; run: chmod 600 %s", perm, path)
	}
	if perm := st.Mode().Perm(); !d.broken && perm&0o077 != 0 {
		for _, key := range d.node.secretOptions() {
			d.faults.add(key, "%s: the file holds a password and has mode %04o, so others may use it; run: chmod 600 %s, or use password_file", key, perm, path)
		}
	}
	if d.node.KeyFile != "" && !d.has("key") {
		keys, err := ReadKeys(d.node.KeyFile)
		switch {
		case err != nil:
			d.faults.add("key_file", "key_file: %v", err)
		case len(keys) > 1 && d.node.PKIDir == "":
			d.faults.add("key_file", "key_file: %s holds %d keys; a key that links between nodes rest on cannot be changed while they run", d.node.KeyFile, len(keys))
		default:
			d.node.Key = keys[0]
		}
	}
	return d.finish()
}

// position is where a key stands in the file; both count from 1.
type position struct{ line, column int }

// document is a file on its way to a Node.
type document struct {
	file   string
	node   Node
	lines  []string
	at     map[string]position
	faults Faults
	broken bool // the text did not parse; node means nothing
}

func (d *document) has(key string) bool { _, ok := d.at[key]; return ok }

// finish judges the whole and returns it.
func (d *document) finish() (Node, error) {
	if !d.broken {
		seen := map[string]bool{}
		for _, f := range d.faults {
			seen[f.Key] = true
		}
		for _, f := range d.node.validate() {
			// A value that could not be read was reported; judging the default in its place
			// would only confuse.
			if !seen[f.Key] {
				d.faults = append(d.faults, f)
			}
		}
	}
	d.faults.place(d.file, d.lines, d.at)
	if err := d.faults.err(); err != nil {
		return Node{}, err
	}
	return d.node, nil
}

// parse takes the steps 1 to 3 of the package comment; dir is what relative paths count from.
// It touches no file.
func parse(file, dir string, data []byte) *document {
	d := &document{
		file:  file,
		node:  DefaultNode(),
		lines: strings.Split(string(data), "\n"),
		at:    map[string]position{},
	}
	if len(data) > maxFile {
		d.broken = true
		d.faults.add("", "the file is longer than %v", Size(maxFile))
		return d
	}
	if !utf8.Valid(data) {
		d.broken = true
		d.faults.add("", "the file is not UTF-8 text")
		return d
	}
	top := map[string]any{}
	if err := toml.Unmarshal(data, &top); err != nil {
		d.broken = true
		fault := Fault{Message: strings.TrimPrefix(err.Error(), "toml: ")}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			fault.Line, fault.Column = de.Position()
			if fault.Line >= 1 && fault.Line <= len(d.lines) && holdsKey(d.lines[fault.Line-1]) {
				fault.Text = "key = (not shown)"
			}
		}
		d.faults = append(d.faults, fault)
		return d
	}
	d.locate(data)
	if name, ok := top["timing"].(string); ok {
		d.node.Timing = name
		d.node.applyTiming() // an unknown name is reported by validate
	}
	d.decodeTop(top)
	if d.has("key") && d.has("key_file") {
		d.faults.add("key_file", "key and key_file are both set; keep one")
	}
	d.node.Resolve(dir)
	return d
}

// holdsKey reports whether a line may show the shared secret.
func holdsKey(line string) bool {
	key, _, _ := strings.Cut(line, "=")
	return strings.Trim(key, " \t\"'") == "key"
}

// locate fills d.at with the place of every key, table header and entry of an array of tables.
// The text has parsed before, so errors cannot happen; if one does, places are missing.
func (d *document) locate(data []byte) {
	var p unstable.Parser
	p.Reset(data)
	prefix := ""
	entries := map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue && e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
			continue
		}
		var parts []string
		var pos position
		for it := e.Key(); it.Next(); {
			if len(parts) == 0 {
				start := p.Shape(it.Node().Raw).Start
				pos = position{line: start.Line, column: start.Column}
			}
			parts = append(parts, string(it.Node().Data))
		}
		key := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table:
			prefix = key + "."
		case unstable.ArrayTable:
			entry := fmt.Sprintf("%s[%d]", key, entries[key])
			entries[key]++
			d.note(entry, pos)
			prefix = entry + "."
		default:
			key = prefix + key
		}
		d.note(key, pos)
		if i := strings.IndexByte(key, '.'); i > 0 {
			d.note(key[:i], pos) // a dotted key names its first part, too
		}
	}
}

// note records the first place of key.
func (d *document) note(key string, pos position) {
	if !d.has(key) {
		d.at[key] = pos
	}
}
