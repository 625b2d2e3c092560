package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// takeSections decodes the sections of fencing and takes them out of top. What has names that the
// operator chose (devices, options, nodes) is a table in the file and a sorted list in Node, so that
// a Node encodes to the same text each time.
func (d *document) takeSections(top map[string]any) {
	for _, s := range []struct {
		key    string
		decode func(map[string]any)
	}{
		{"fence", d.decodeFences},
		{"fencing", d.decodeFencing},
		{"watchdog", func(m map[string]any) {
			d.decodeInto(reflect.ValueOf(&d.node.Watchdog).Elem(), "watchdog.", m)
		}},
		{"memory", func(m map[string]any) {
			d.decodeInto(reflect.ValueOf(&d.node.Memory).Elem(), "memory.", m)
		}},
	} {
		value, ok := top[s.key]
		delete(top, s.key)
		if !ok {
			continue
		}
		if m, ok := d.table(s.key, value); ok {
			s.decode(m)
		}
	}
}

// table reports a fault of key unless value is a table.
func (d *document) table(key string, value any) (map[string]any, bool) {
	m, ok := value.(map[string]any)
	if !ok {
		d.faults.add(key, "%s is a table: begin it with a line [%s]", key, key)
	}
	return m, ok
}

func (d *document) decodeFences(devices map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		at := "fence." + name
		m, ok := devices[name].(map[string]any)
		if !ok {
			d.faults.add(at, "%s is no section: a device begins with a line [fence.NAME]", at)
			continue
		}
		f := defaultFence(name)
		if options, ok := m["options"]; ok {
			if t, ok := d.table(at+".options", options); ok {
				f.Options = d.decodeOptions(at+".options.", t)
			}
			delete(m, "options")
		}
		if plugs, ok := m["plugs"]; ok {
			if t, ok := d.table(at+".plugs", plugs); ok {
				for _, o := range d.decodeOptions(at+".plugs.", t) {
					f.Plugs = append(f.Plugs, FencePlug{Node: o.Name, Plug: o.Value})
				}
			}
			delete(m, "plugs")
		}
		d.decodeInto(reflect.ValueOf(&f).Elem(), at+".", m)
		d.node.Fences = append(d.node.Fences, f)
	}
}

// decodeOptions reads values that a program gets as text.
func (d *document) decodeOptions(prefix string, m map[string]any) []FenceOption {
	var out []FenceOption
	for _, name := range slices.Sorted(maps.Keys(m)) {
		o := FenceOption{Name: name}
		switch v := m[name].(type) {
		case string:
			o.Value = v
		case int64:
			o.Value = strconv.FormatInt(v, 10)
		case bool:
			o.Value = strconv.FormatBool(v)
		default:
			what := kindOf(v)
			if o.Secret() {
				what = "the value"
			}
			d.faults.add(prefix+name, "%s%s: %s is no text, whole number, true or false", prefix, name, what)
		}
		out = append(out, o)
	}
	return out
}

func (d *document) decodeFencing(m map[string]any) {
	if nodes, ok := m["nodes"]; ok {
		if t, ok := d.table("fencing.nodes", nodes); ok {
			for _, name := range slices.Sorted(maps.Keys(t)) {
				levels, err := decodeLevels(t[name])
				if err != nil {
					d.faults.add("fencing.nodes."+name, "fencing.nodes.%s: %v; write for example [[\"ipmi-%s\"], [\"pdu-a\", \"pdu-b\"]]", name, err, name)
				}
				d.node.Fencing.Nodes = append(d.node.Fencing.Nodes, FenceNode{Node: name, Levels: levels})
			}
		}
		delete(m, "nodes")
	}
	d.decodeInto(reflect.ValueOf(&d.node.Fencing).Elem(), "fencing.", m)
}

// decodeLevels reads a list of lists of device names.
func decodeLevels(value any) ([][]string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s is no list of levels", kindOf(value))
	}
	var out [][]string
	for _, entry := range list {
		names, ok := entry.([]any)
		if !ok {
			return nil, fmt.Errorf("%s is no level, which is a list of devices", kindOf(entry))
		}
		level := []string{}
		for _, name := range names {
			s, ok := name.(string)
			if !ok {
				return nil, fmt.Errorf("%s is no name of a device", kindOf(name))
			}
			level = append(level, s)
		}
		out = append(out, level)
	}
	return out, nil
}
