package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Fence is one [fence.NAME] section: a device that can turn nodes off. Exactly one of Agent, Exec
// and Watchdog is set.
type Fence struct {
	// Name of the device, from the section's header.
	Name string
	// Agent is a fence-agents program: a name such as fence_ipmilan, or an absolute path.
	Agent string `toml:"agent"`
	// Exec is a program of the operator's, which is told in its environment what to do.
	Exec string `toml:"exec"`
	// Watchdog waits until the node's own watchdog has fired.
	Watchdog bool `toml:"watchdog"`
	// Timeout of one run of the program, 1 s to 10 min. Turning a node off by an agent takes two
	// runs. Default 20 s.
	Timeout time.Duration `toml:"timeout"`
	// Retries after a try that failed, 0 to 10. Default 1.
	Retries int `toml:"retries"`
	// PasswordFile is the path of a file of mode 0600 that holds the password in one line.
	PasswordFile string `toml:"password_file"`
	// PasswordEnv names an environment variable of the daemon that holds the password.
	PasswordEnv string `toml:"password_env"`
	// Unfence says that a node which was turned off needs the device's "on" before it comes back,
	// although the agent does not say so. Default false.
	Unfence bool `toml:"unfence"`
	// Options are passed to the program, sorted by name: the table [fence.NAME.options].
	Options []FenceOption `toml:"options"`
	// Plugs are what the device calls the nodes, sorted by node: the table [fence.NAME.plugs]. A node
	// without one goes by its own name.
	Plugs []FencePlug `toml:"plugs"`
}

// FenceOption is one option of a fence device. It prints without its value when that is a secret.
type FenceOption struct{ Name, Value string }

// FencePlug is what a fence device calls one node.
type FencePlug struct{ Node, Plug string }

// Fencing is the [fencing] section.
type Fencing struct {
	// Limit is how long one fence may take in all, 1 s to 10 min. Levels share it. Default 50 s.
	Limit time.Duration `toml:"limit"`
	// Nodes that can be turned off, sorted by name: nodes.NAME = [["a"], ["b", "c"]].
	Nodes []FenceNode `toml:"nodes"`
}

// FenceNode says how one node is turned off: all devices of a level have to prove it, and levels are
// tried in order.
type FenceNode struct {
	Node   string
	Levels [][]string
}

// WatchdogSystemd, as Watchdog.Device, means systemd's watchdog of the service.
const WatchdogSystemd = "systemd"

// Watchdog is the [watchdog] section: what resets this node when it must stop and cannot.
type Watchdog struct {
	// Device is a path such as /dev/watchdog, or "systemd". Default: empty, which means none.
	Device string `toml:"device"`
	// Timeout is asked of the device, in whole seconds from 2 s to 10 min; the device may use another one.
	// 0: 10 s. systemd has its own, so it is not set then.
	Timeout time.Duration `toml:"timeout"`
}

// defaultWatchdogTimeout is what a Timeout of 0 means for a device.
const defaultWatchdogTimeout = 10 * time.Second

// RealTimeout is the Timeout to ask the device for.
func (w Watchdog) RealTimeout() time.Duration {
	if w.Timeout == 0 {
		return defaultWatchdogTimeout
	}
	return w.Timeout
}

func defaultFence(name string) Fence {
	return Fence{Name: name, Timeout: 20 * time.Second, Retries: 1}
}

func defaultFencing() Fencing { return Fencing{Limit: 50 * time.Second} }

// Secret reports whether the option's value must not be shown, judged by its name.
func (o FenceOption) Secret() bool { return secretName(o.Name) }

func (o FenceOption) String() string {
	if o.Secret() {
		return o.Name + "=(hidden)"
	}
	return o.Name + "=" + o.Value
}

// GoString keeps %#v from printing the secret.
func (o FenceOption) GoString() string { return o.String() }

// MarshalText keeps encoders (logs in JSON, say) from printing the secret.
func (o FenceOption) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// secretName reports whether a key of that name holds a secret. What says where the secret is, or how
// long to wait for a prompt, is none.
func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, place := range []string{"_file", "_env", "_script", "_timeout", "_prompt"} {
		if strings.HasSuffix(name, place) {
			return false
		}
	}
	return slices.ContainsFunc([]string{"pass", "secret", "token", "community", "api_key", "apikey"},
		func(part string) bool { return strings.Contains(name, part) })
}

var words = regexp.MustCompile(`[A-Za-z0-9_-]+`)

// holdsSecret reports whether a line of the file may show a secret of a fence device. The line may be
// one that does not parse, so any word counts, not only a key.
func holdsSecret(line string) bool {
	return slices.ContainsFunc(words.FindAllString(line, -1), secretName)
}

// secretOptions returns the keys of the options that are secrets and stand in the file.
func (n *Node) secretOptions() []string {
	var out []string
	for _, f := range n.Fences {
		for _, o := range f.Options {
			if o.Secret() {
				out = append(out, "fence."+f.Name+".options."+o.Name)
			}
		}
	}
	return out
}

// resolveFencing makes the paths of the sections absolute.
func (n *Node) resolveFencing(abs func(*string)) {
	for i := range n.Fences {
		f := &n.Fences[i]
		abs(&f.Exec)
		abs(&f.PasswordFile)
		if strings.Contains(f.Agent, "/") {
			abs(&f.Agent)
		}
	}
	if n.Watchdog.Device != WatchdogSystemd {
		abs(&n.Watchdog.Device)
	}
}

func (n *Node) validateFencing(fs *Faults) {
	devices := map[string]bool{}
	for _, f := range n.Fences {
		devices[f.Name] = true
		n.validateFence(fs, f)
	}
	inRange(fs, "fencing.limit", n.Fencing.Limit, time.Second, 10*time.Minute)
	used := map[string]bool{}
	for _, t := range n.Fencing.Nodes {
		key := "fencing.nodes." + t.Node
		if !n.lists(t.Node) && n.PKIDir == "" { // else the ledger has the list, and it changes
			fs.add(key, "%s: no [[node]] entry is named %q", key, t.Node)
		}
		if len(t.Levels) == 0 {
			fs.add(key, "%s has no level; write for example [[\"ipmi-%s\"]], or leave the node out", key, t.Node)
		}
		for i, level := range t.Levels {
			if len(level) == 0 {
				fs.add(key, "%s: level %d names no device, so it would prove that the node is off without looking", key, i+1)
			}
			for j, name := range level {
				used[name] = true
				if !devices[name] {
					fs.add(key, "%s: level %d names the device %q, and there is no section [fence.%s]", key, i+1, name, name)
				}
				if slices.Contains(level[:j], name) {
					fs.add(key, "%s: level %d names the device %q twice", key, i+1, name)
				}
			}
		}
	}
	for _, f := range n.Fences {
		if !used[f.Name] {
			fs.add("fence."+f.Name, "fence.%s is named by no node in [fencing]: it would never be used", f.Name)
		}
	}
	n.validateWatchdog(fs)
}

func (n *Node) lists(node string) bool {
	return slices.ContainsFunc(n.Nodes, func(p Peer) bool { return p.Name == node })
}

func (n *Node) validateFence(fs *Faults, f Fence) {
	at := "fence." + f.Name
	if err := CheckName("fence device", f.Name); err != nil {
		fs.add(at, "fence: %v", err)
		return
	}
	carriers := 0
	for _, set := range []bool{f.Agent != "", f.Exec != "", f.Watchdog} {
		if set {
			carriers++
		}
	}
	if carriers != 1 {
		fs.add(at, "%s sets %d of agent, exec and watchdog; exactly one says how the device works", at, carriers)
	}
	if f.Exec != "" && !filepath.IsAbs(f.Exec) {
		fs.add(at+".exec", "%s.exec %q is not an absolute path", at, f.Exec)
	}
	inRange(fs, at+".timeout", f.Timeout, time.Second, 10*time.Minute)
	inRange(fs, at+".retries", f.Retries, 0, 10)
	if f.PasswordFile != "" && f.PasswordEnv != "" {
		fs.add(at+".password_env", "%s: password_file and password_env are both set; keep one", at)
	}
	if f.Watchdog && (len(f.Options) > 0 || len(f.Plugs) > 0 || f.PasswordFile != "" || f.PasswordEnv != "" || f.Unfence) {
		fs.add(at+".watchdog", "%s is a watchdog, which takes no options, plugs, password or unfence", at)
	}
	ownPlug := ""
	for _, o := range f.Options {
		key := at + ".options." + o.Name
		validateOption(fs, key, f, o)
		if o.Name == "port" || o.Name == "plug" {
			ownPlug = o.Name
		}
	}
	if f.Agent != "" && ownPlug != "" && len(f.Plugs) > 0 {
		fs.add(at+".plugs", "%s: the option %s names one plug for all nodes, so there can be no plugs", at, ownPlug)
	}
	for _, p := range f.Plugs {
		key := at + ".plugs." + p.Node
		if !n.lists(p.Node) {
			fs.add(key, "%s: no [[node]] entry is named %q", key, p.Node)
		}
		if p.Plug == "" || strings.ContainsAny(p.Plug, "\n\r\x00") {
			fs.add(key, "%s is empty, or has a line break or a zero byte in it", key)
		}
	}
}

// validateOption refuses what cannot be told to a program in one line, or is told by Lockstep.
func validateOption(fs *Faults, key string, f Fence, o FenceOption) {
	for i := 0; i < len(o.Name); i++ {
		c := o.Name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			continue
		}
		fs.add(key, "%s: %q is not allowed in the name of an option", key, c)
		return
	}
	switch {
	case o.Name == "":
		fs.add(key, "fence.%s.options: an option has no name", f.Name)
	case strings.ContainsAny(o.Value, "\n\r\x00"):
		fs.add(key, "%s has a line break or a zero byte in it", key)
	case f.Agent != "" && (o.Name == "action" || o.Name == "option" || o.Name == "nodename"):
		fs.add(key, "%s: lockstep tells the agent that itself", key)
	case (o.Name == "password" || o.Name == "passwd") && (f.PasswordFile != "" || f.PasswordEnv != ""):
		fs.add(key, "%s: the password is set elsewhere, too; keep one", key)
	}
}

func (n *Node) validateWatchdog(fs *Faults) {
	w := n.Watchdog
	switch {
	case w.Timeout == 0:
	case w.Device == "":
		fs.add("watchdog.device", "watchdog.device is missing: a path such as /dev/watchdog, or \"systemd\"")
	case w.Device == WatchdogSystemd:
		fs.add("watchdog.timeout", "watchdog.timeout is set by WatchdogSec= of the unit when the device is \"systemd\"")
	default:
		inRange(fs, "watchdog.timeout", w.Timeout, 2*time.Second, 10*time.Minute)
		if w.Timeout%time.Second != 0 {
			fs.add("watchdog.timeout", "watchdog.timeout is %v; watchdogs count whole seconds", w.Timeout)
		}
	}
}
