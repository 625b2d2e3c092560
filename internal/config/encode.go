package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"time"
)

// Encode returns the text of a node file that Load reads back as n: what differs from DefaultNode,
// in the order of the fields, then the list of nodes and the sections. A timing setting that differs
// from the preset is written out. The text holds the key unless KeyFile is set, and the secrets among
// the options of fence devices.
func (n *Node) Encode() []byte {
	def := DefaultNode()
	def.Timing = n.Timing
	def.applyTiming()
	def.Timing = DefaultNode().Timing
	var b bytes.Buffer
	v, dv := reflect.ValueOf(n).Elem(), reflect.ValueOf(def)
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		kind := v.Field(i).Kind()
		if kind == reflect.Slice || kind == reflect.Struct || v.Field(i).Equal(dv.Field(i)) || key == "key" && n.KeyFile != "" {
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", key, encodeValue(v.Field(i).Interface()))
	}
	for _, p := range n.Nodes {
		fmt.Fprintf(&b, "\n[[node]]\nname = %s\naddr = %s\ngossip = %s\n", quote(p.Name), quote(p.Addr), quote(p.Gossip))
		if p.Witness {
			b.WriteString("witness = true\n")
		}
	}
	n.encodeFencing(&b)
	n.encodeMemory(&b)
	return b.Bytes()
}

func encodeValue(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return quote(v.String())
	case Size:
		return quote(v.String())
	case Key:
		return quote(v.Encode())
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	}
	return quote(reflect.ValueOf(v).String())
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b bytes.Buffer
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
