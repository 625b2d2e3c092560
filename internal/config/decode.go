package config

import (
	"fmt"
	"reflect"
	"sort"
	"time"
)

// decodeTop moves the parsed values into d.node.
func (d *document) decodeTop(top map[string]any) {
	nodes, listed := top["node"]
	delete(top, "node")
	d.takeSections(top)
	d.decodeInto(reflect.ValueOf(&d.node).Elem(), "", top)
	if !listed {
		return
	}
	list, ok := nodes.([]any)
	if !ok {
		d.faults.add("node", "node is a list: begin each entry with a line [[node]]")
		return
	}
	for i, entry := range list {
		prefix := fmt.Sprintf("node[%d]", i)
		m, ok := entry.(map[string]any)
		if !ok {
			d.faults.add(prefix, "%s is not a table with name, addr and gossip", prefix)
			continue
		}
		var p Peer
		d.decodeInto(reflect.ValueOf(&p).Elem(), prefix+".", m)
		d.node.Nodes = append(d.node.Nodes, p)
	}
}

// decodeInto sets the fields of the struct v from m; prefix stands before the keys in faults.
func (d *document) decodeInto(v reflect.Value, prefix string, m map[string]any) {
	fields := fieldsOf(v.Type())
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		i, ok := fields[key]
		if !ok || i == noValue {
			msg := fmt.Sprintf("unknown key %q", prefix+key)
			if near := nearest(key, fields); near != "" {
				msg += fmt.Sprintf("; did you mean %q?", near)
			}
			d.faults.add(prefix+key, "%s", msg)
			continue
		}
		if err := setField(v.Field(i), m[key]); err != nil {
			d.faults.add(prefix+key, "%s: %v", prefix+key, err)
		}
	}
}

// noValue stands for a list or a section, which has entries of its own, not a value.
const noValue = -1

// fieldsOf maps the keys of a struct to field indexes.
func fieldsOf(t reflect.Type) map[string]int {
	out := map[string]int{}
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("toml")
		switch kind := t.Field(i).Type.Kind(); {
		case key == "":
		case kind == reflect.Slice || kind == reflect.Struct:
			out[key] = noValue
		default:
			out[key] = i
		}
	}
	return out
}

// setField converts a parsed value to the type of f.
func setField(f reflect.Value, value any) error {
	switch p := f.Addr().Interface().(type) {
	case *time.Duration:
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf("%s is no duration; write a string with a unit, for example \"300ms\"", kindOf(value))
		}
		v, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is no duration; write for example \"300ms\" or \"2s\"", s)
		}
		*p = v
		return nil
	case *Size:
		switch v := value.(type) {
		case int64:
			*p = Size(v) // bytes; the range is judged later
			return nil
		case string:
			return p.Set(v)
		}
		return fmt.Errorf("%s is no size; write bytes, or a string such as \"16MiB\"", kindOf(value))
	case *Key:
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf("%s is no key; write a string of base64", kindOf(value))
		}
		k, err := ParseKey(s)
		if err == nil {
			*p = k
		}
		return err
	}
	return setPlain(f, value)
}

// setPlain sets a string, a bool or an int.
func setPlain(f reflect.Value, value any) error {
	switch f.Kind() {
	case reflect.String:
		if s, ok := value.(string); ok {
			f.SetString(s)
			return nil
		}
		return fmt.Errorf("%s is no string", kindOf(value))
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			f.SetBool(b)
			return nil
		}
		return fmt.Errorf("%s is neither true nor false", kindOf(value))
	case reflect.Int:
		if n, ok := value.(int64); ok && n == int64(int(n)) {
			f.SetInt(n)
			return nil
		}
		return fmt.Errorf("%s is no whole number", kindOf(value))
	}
	panic("config: field of unsupported type " + f.Type().String())
}

// kindOf describes a parsed value for a message.
func kindOf(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case bool, int64, float64:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}

// nearest returns the known key that is most like key, or "" when none is at all.
func nearest(key string, fields map[string]int) string {
	best, bestDist := "", 1+max(1, len(key)/3)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if dist := distance(key, name); dist < bestDist {
			best, bestDist = name, dist
		}
	}
	return best
}

// distance is the number of bytes to insert, delete or replace to turn a into b.
func distance(a, b string) int {
	if d := len(a) - len(b); d > 32 || d < -32 {
		return 32 // far apart; spares the work for absurd keys
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
