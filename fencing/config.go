package fencing

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config is fixed for the life of a Fencer. A zero duration or count means the default, unless said
// otherwise.
type Config struct {
	// Node is this node's name. Required.
	Node string
	// Devices that the levels may name.
	Devices []DeviceConfig
	// Nodes that can be fenced, and how.
	Nodes []NodeConfig
	// Limit is how long one fence may take in all, its delay included. It has to stay below the
	// time after which the coordinator gives the executor up. Each level gets an equal part of what is
	// left when it begins, so that a device that hangs does not take the time of the next. 0: 50 s.
	Limit time.Duration
	// History is how many attempts are remembered. 0: 256.
	History int
	// Margin is added to the wait for a watchdog, in percent. 0: 10.
	Margin int

	// Now is the clock of the history. nil: time.Now.
	Now func() time.Time
	// Random draws the random part of a delay, 0 to below max. nil: the runtime's own generator.
	Random func(max time.Duration) time.Duration
	// Log hears of each attempt. nil: nobody does.
	Log *slog.Logger
}

// DeviceConfig is one device. Exactly one of Agent, Exec and Watchdog is set.
type DeviceConfig struct {
	Name     string
	Agent    string // a fence-agents program: a bare name or an absolute path
	Exec     string // absolute path of a hook
	Watchdog bool   // the target's own watchdog is waited for

	// Options for an agent's stdin, or LOCKSTEP_OPTION_NAME in a hook's environment.
	Options []Option
	// Plugs name the nodes to the device; a node without one goes by its own name.
	Plugs []Plug
	// PasswordFile holds the password in one line, mode 0600. At most one of both is set.
	PasswordFile string
	// PasswordEnv names an environment variable of the daemon that holds it.
	PasswordEnv string

	// Timeout of one run of the program; a fence by an agent takes two, off and status. 0: 20 s.
	Timeout time.Duration
	// Retries after the first try failed. 0: none.
	Retries int
	// Unfence says that On has to run before a node that was turned off comes back, although the
	// agent's metadata does not say so.
	Unfence bool
}

// Plug is what names one node to a device.
type Plug struct {
	Node string
	Plug string
}

// NodeConfig is the topology of one node: all devices of a level have to prove off, and levels are
// tried in order.
type NodeConfig struct {
	Node   string
	Levels [][]string
}

// DefaultConfig returns the Config that zero values stand for.
func DefaultConfig() Config {
	return Config{
		Limit:   50 * time.Second,
		History: 256,
		Margin:  10,
		Now:     time.Now,
		Random: func(max time.Duration) time.Duration {
			if max <= 0 {
				return 0
			}
			return rand.N(max)
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

// DefaultTimeout is the Timeout that 0 stands for.
const DefaultTimeout = 20 * time.Second

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Limit == 0 {
		c.Limit = d.Limit
	}
	if c.History == 0 {
		c.History = d.History
	}
	if c.Margin == 0 {
		c.Margin = d.Margin
	}
	if c.Now == nil {
		c.Now = d.Now
	}
	if c.Random == nil {
		c.Random = d.Random
	}
	if c.Log == nil {
		c.Log = d.Log
	}
	c.Devices = slices.Clone(c.Devices)
	for i := range c.Devices {
		if c.Devices[i].Timeout == 0 {
			c.Devices[i].Timeout = DefaultTimeout
		}
	}
	return c
}

// Validate lists everything that is wrong with c, nil if nothing is. Whether devices work is found out by
// Fencer.Test.
func (c Config) Validate() error {
	c = c.withDefaults()
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf("fencing: "+format, a...)) }
	if c.Node == "" {
		bad("no node name")
	}
	if c.Limit < 0 || c.History < 0 || c.Margin < 0 || c.Margin > 100 {
		bad("limit %v, history %d, margin %d %%: none is below 0, and the margin is at most 100", c.Limit, c.History, c.Margin)
	}
	seen := map[string]bool{}
	for _, d := range c.Devices {
		if seen[d.Name] {
			bad("device %q is there twice", d.Name)
		}
		seen[d.Name] = true
		if err := d.validate(); err != nil {
			bad("device %q: %w", d.Name, err)
		}
	}
	nodes := map[string]bool{}
	for _, n := range c.Nodes {
		if n.Node == "" || nodes[n.Node] {
			bad("node %q is there twice, or has no name", n.Node)
		}
		nodes[n.Node] = true
		for i, level := range n.Levels {
			if len(level) == 0 {
				bad("node %q: level %d names no device, which would prove everything", n.Node, i+1)
			}
			for j, name := range level {
				if !seen[name] {
					bad("node %q: level %d names the device %q, which is not there", n.Node, i+1, name)
				}
				if slices.Contains(level[:j], name) {
					bad("node %q: level %d names the device %q twice", n.Node, i+1, name)
				}
			}
		}
	}
	return errors.Join(all...)
}

func (d DeviceConfig) validate() error {
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
	if d.Name == "" {
		bad("it has no name")
	}
	carriers := 0
	for _, set := range []bool{d.Agent != "", d.Exec != "", d.Watchdog} {
		if set {
			carriers++
		}
	}
	if carriers != 1 {
		bad("exactly one of agent, exec and watchdog is set, not %d of them", carriers)
	}
	if d.Agent != "" && strings.Contains(d.Agent, "/") && !filepath.IsAbs(d.Agent) {
		bad("agent %q is neither a bare name nor an absolute path", d.Agent)
	}
	if d.Exec != "" && !filepath.IsAbs(d.Exec) {
		bad("exec %q is not an absolute path", d.Exec)
	}
	if d.PasswordFile != "" && d.PasswordEnv != "" {
		bad("password file and password environment variable are both set")
	}
	if d.Watchdog && (len(d.Options) > 0 || len(d.Plugs) > 0 || d.PasswordFile != "" || d.PasswordEnv != "" || d.Unfence) {
		bad("a watchdog has no options, plugs, password or unfence")
	}
	if d.Timeout < 0 || d.Retries < 0 {
		bad("a timeout of %v or %d retries", d.Timeout, d.Retries)
	}
	names := map[string]bool{}
	for _, o := range d.Options {
		if err := checkOption(o); err != nil {
			bad("%w", err)
		}
		if names[o.Name] {
			bad("option %s is there twice", o.Name)
		}
		names[o.Name] = true
		if d.Agent != "" && (o.Name == "action" || o.Name == "option" || o.Name == "nodename") {
			bad("option %s is what Lockstep tells the agent itself", o.Name)
		}
	}
	if (names["password"] || names["passwd"]) && (d.PasswordFile != "" || d.PasswordEnv != "") {
		bad("the password is among the options and elsewhere, too")
	}
	if d.Agent != "" && (names["port"] || names["plug"]) && len(d.Plugs) > 0 {
		bad("plugs are given, and an option names one plug for all nodes")
	}
	for _, p := range d.Plugs {
		if p.Node == "" || p.Plug == "" || checkOption(Option{Name: "plug", Value: p.Plug}) != nil {
			bad("plug %q of node %q is empty or has a line break in it", p.Plug, p.Node)
		}
	}
	return errors.Join(all...)
}

// plugOf returns the name under which a device knows the node.
func plugOf(plugs []Plug, node string) string {
	for _, p := range plugs {
		if p.Node == node {
			return p.Plug
		}
	}
	return node
}

// build returns the device that d describes.
func (d DeviceConfig) build(margin int) Device {
	pw := password{file: d.PasswordFile, env: d.PasswordEnv}
	switch {
	case d.Agent != "":
		return &agent{name: d.Name, program: d.Agent, options: slices.Clone(d.Options), password: pw,
			plugs: slices.Clone(d.Plugs), timeout: d.Timeout, unfence: d.Unfence, reading: make(chan struct{}, 1)}
	case d.Exec != "":
		return &hook{name: d.Name, program: d.Exec, options: slices.Clone(d.Options), password: pw,
			plugs: slices.Clone(d.Plugs), timeout: d.Timeout, unfence: d.Unfence}
	}
	return &expiry{name: d.Name, margin: margin}
}
