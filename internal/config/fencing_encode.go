package config

import (
	"bytes"
	"fmt"
	"strings"
)

// encodeFencing writes the sections of fencing, those that differ from the defaults.
func (n *Node) encodeFencing(b *bytes.Buffer) {
	for _, f := range n.Fences {
		n.encodeFence(b, f)
	}
	if def := defaultFencing(); n.Fencing.Limit != def.Limit || len(n.Fencing.Nodes) > 0 {
		b.WriteString("\n[fencing]\n")
		if n.Fencing.Limit != def.Limit {
			fmt.Fprintf(b, "limit = %s\n", encodeValue(n.Fencing.Limit))
		}
		for _, t := range n.Fencing.Nodes {
			levels := make([]string, len(t.Levels))
			for i, level := range t.Levels {
				quoted := make([]string, len(level))
				for j, name := range level {
					quoted[j] = quote(name)
				}
				levels[i] = "[" + strings.Join(quoted, ", ") + "]"
			}
			fmt.Fprintf(b, "nodes.%s = [%s]\n", quote(t.Node), strings.Join(levels, ", "))
		}
	}
	if w := n.Watchdog; w != (Watchdog{}) {
		fmt.Fprintf(b, "\n[watchdog]\ndevice = %s\n", quote(w.Device))
		if w.Timeout != 0 {
			fmt.Fprintf(b, "timeout = %s\n", encodeValue(w.Timeout))
		}
	}
}

func (n *Node) encodeFence(b *bytes.Buffer, f Fence) {
	def := defaultFence(f.Name)
	at := "fence." + quote(f.Name)
	fmt.Fprintf(b, "\n[%s]\n", at)
	text := func(key, value string) {
		if value != "" {
			fmt.Fprintf(b, "%s = %s\n", key, quote(value))
		}
	}
	text("agent", f.Agent)
	text("exec", f.Exec)
	if f.Watchdog {
		b.WriteString("watchdog = true\n")
	}
	if f.Timeout != def.Timeout {
		fmt.Fprintf(b, "timeout = %s\n", encodeValue(f.Timeout))
	}
	if f.Retries != def.Retries {
		fmt.Fprintf(b, "retries = %d\n", f.Retries)
	}
	text("password_file", f.PasswordFile)
	text("password_env", f.PasswordEnv)
	if f.Unfence {
		b.WriteString("unfence = true\n")
	}
	if len(f.Options) > 0 {
		fmt.Fprintf(b, "[%s.options]\n", at)
		for _, o := range f.Options {
			fmt.Fprintf(b, "%s = %s\n", quote(o.Name), quote(o.Value))
		}
	}
	if len(f.Plugs) > 0 {
		fmt.Fprintf(b, "[%s.plugs]\n", at)
		for _, p := range f.Plugs {
			fmt.Fprintf(b, "%s = %s\n", quote(p.Node), quote(p.Plug))
		}
	}
}
