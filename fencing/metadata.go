package fencing

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// metadata is what a fence agent says about itself.
type metadata struct {
	actions    []agentAction
	parameters []agentParameter
}

type agentAction struct {
	name      string
	onTarget  bool // it has to run on the node that it is about
	automatic bool // a node needs it before it comes back
}

type agentParameter struct {
	name       string
	required   bool
	deprecated bool
	obsoletes  string // the older name of the same thing
	hasDefault bool
}

// parseMetadata reads the XML that an agent prints for action=metadata.
func parseMetadata(b []byte) (*metadata, error) {
	type flag string // "1", "0", and "true" in some agents
	yes := func(f flag) bool { return f == "1" || strings.EqualFold(string(f), "true") }
	var doc struct {
		XMLName    xml.Name `xml:"resource-agent"`
		Parameters []struct {
			Name       string `xml:"name,attr"`
			Required   flag   `xml:"required,attr"`
			Deprecated flag   `xml:"deprecated,attr"`
			Obsoletes  string `xml:"obsoletes,attr"`
			Content    struct {
				Default *string `xml:"default,attr"`
			} `xml:"content"`
		} `xml:"parameters>parameter"`
		Actions []struct {
			Name      string `xml:"name,attr"`
			OnTarget  flag   `xml:"on_target,attr"`
			Automatic flag   `xml:"automatic,attr"`
		} `xml:"actions>action"`
	}
	dec := xml.NewDecoder(bytes.NewReader(b))
	// The names that matter are ASCII whatever the encoding; only descriptions suffer.
	dec.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("its metadata is no resource-agent XML: %w", err)
	}
	m := &metadata{}
	for _, a := range doc.Actions {
		m.actions = append(m.actions, agentAction{name: a.Name, onTarget: yes(a.OnTarget), automatic: yes(a.Automatic)})
	}
	for _, p := range doc.Parameters {
		m.parameters = append(m.parameters, agentParameter{name: p.Name, required: yes(p.Required),
			deprecated: yes(p.Deprecated), obsoletes: p.Obsoletes, hasDefault: p.Content.Default != nil})
	}
	if len(m.actions) == 0 {
		return nil, errors.New("its metadata names no action")
	}
	return m, nil
}

// action returns what is advertised under name.
func (m *metadata) action(name string) (agentAction, bool) {
	i := slices.IndexFunc(m.actions, func(a agentAction) bool { return a.name == name })
	if i < 0 {
		return agentAction{}, false
	}
	return m.actions[i], true
}

func (m *metadata) has(action string) bool {
	_, ok := m.action(action)
	return ok
}

func (m *metadata) takes(parameter string) bool {
	return slices.ContainsFunc(m.parameters, func(p agentParameter) bool { return p.name == parameter })
}

// plugName is the parameter that names the target: "port" where the agent advertises it, else
// "plug"; "" for an agent that knows its one target, or goes by nodename alone.
func (m *metadata) plugName() string {
	for _, name := range []string{"port", "plug"} {
		if m.takes(name) {
			return name
		}
	}
	return ""
}

// passwordName is the parameter that takes the password.
func (m *metadata) passwordName() string {
	if !m.takes("password") && m.takes("passwd") {
		return "passwd"
	}
	return "password"
}

// missing returns the required parameters that given does not cover, under this or an older name.
func (m *metadata) missing(given map[string]bool) []string {
	var out []string
	for _, p := range m.parameters {
		if p.required && !p.deprecated && !p.hasDefault && !given[p.name] && (p.obsoletes == "" || !given[p.obsoletes]) {
			out = append(out, p.name)
		}
	}
	return out
}
