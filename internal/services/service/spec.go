package service

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what carries a service.
type Kind string

// Kinds, in the order in which they are started.
const (
	KindAttach Kind = "attach" // Target is a device of the kernel, /dev/nbdX
	KindMount  Kind = "mount"  // a directory
	KindVIP    Kind = "vip"    // an address and the length of its network
	KindUnit   Kind = "unit"   // a unit of systemd
	KindOCF    Kind = "ocf"    // PROVIDER:TYPE
	KindExec   Kind = "exec"   // path of a program
)

// Kinds lists them in the order of starting.
var Kinds = []Kind{KindAttach, KindMount, KindVIP, KindUnit, KindOCF, KindExec}

// Bounds of what a Spec may hold.
const (
	MaxTarget  = 1024 // bytes
	MaxOptions = 64
	MaxOption  = 4096 // bytes
)

// Spec is one service. The options that all kinds have are the durations and Order; those of its kind stand
// in Options, as name=value, in the order in which they were given.
type Spec struct {
	Kind           Kind          `json:"kind"`
	Target         string        `json:"target"`
	Options        []string      `json:"options,omitempty"`
	StartTimeout   time.Duration `json:"start_timeout_ns,omitempty"`   // 0: 60 s, of an address 10 s
	StopTimeout    time.Duration `json:"stop_timeout_ns,omitempty"`    // 0: the same
	MonitorTimeout time.Duration `json:"monitor_timeout_ns,omitempty"` // 0: 20 s
	Interval       time.Duration `json:"interval_ns,omitempty"`        // between two looks; 0: 10 s
	// Order: lower ones start first; 0: 5 for a device, 10 for a mount, 20 for an address, 30, 40 and 50 for
	// the others.
	Order int `json:"order,omitempty"`
}

// optionsOf are the options that each kind knows. nil: whatever its agent knows.
var optionsOf = map[Kind][]string{
	KindAttach: {"connections", "deadline", "block-size"},
	KindMount:  {"device", "fstype", "opt", "fsck", "users"},
	KindVIP:    {"dev"},
	KindUnit:   {},
	KindOCF:    nil,
	KindExec:   {"arg"},
}

// repeatable options may be given more than once.
var repeatable = []string{"opt", "arg"}

// Parse reads TARGET[,NAME=VALUE]..., as it stands behind --mount, --vip and so on. A comma in a value is
// written as \, and a backslash as \\. What it says is not judged; see Validate.
func Parse(kind Kind, text string) (Spec, error) {
	parts := splitEscaped(text)
	s := Spec{Kind: kind, Target: parts[0]}
	for _, p := range parts[1:] {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return Spec{}, fmt.Errorf("%s %s: %q is not NAME=VALUE", kind, s.Target, p)
		}
		if err := s.set(name, value); err != nil {
			return Spec{}, fmt.Errorf("%s %s: %s: %w", kind, s.Target, name, err)
		}
	}
	return s, nil
}

func splitEscaped(text string) []string {
	parts := []string{""}
	for i := 0; i < len(text); i++ {
		last := &parts[len(parts)-1]
		switch {
		case text[i] == '\\' && i+1 < len(text) && (text[i+1] == ',' || text[i+1] == '\\'):
			i++
			*last += string(text[i])
		case text[i] == ',':
			parts = append(parts, "")
		default:
			*last += string(text[i])
		}
	}
	return parts
}

// set takes one option. Those of all kinds have a hyphen or no counterpart among OCF parameters.
func (s *Spec) set(name, value string) error {
	var d *time.Duration
	switch name {
	case "start-timeout":
		d = &s.StartTimeout
	case "stop-timeout":
		d = &s.StopTimeout
	case "monitor-timeout":
		d = &s.MonitorTimeout
	case "monitor-interval":
		d = &s.Interval
	case "start-order":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 1000 {
			return errors.New("it is not a number from 1 to 1000")
		}
		s.Order = n
		return nil
	default:
		s.Options = append(s.Options, name+"="+value)
		return nil
	}
	v, err := time.ParseDuration(value)
	if err != nil || v < 100*time.Millisecond || v > 24*time.Hour {
		return errors.New("it is not a duration from 100ms to 24h")
	}
	*d = v
	return nil
}

// Option returns the last value of an option of its kind, "" if it was not given.
func (s *Spec) Option(name string) string {
	all := s.All(name)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// All returns every value of an option of its kind, in the order in which they were given.
func (s *Spec) All(name string) []string {
	var out []string
	for _, o := range s.Options {
		if n, v, _ := strings.Cut(o, "="); n == name {
			out = append(out, v)
		}
	}
	return out
}

// Validate lists what is wrong with s by itself.
func (s *Spec) Validate() error {
	var all []error
	wrong := func(format string, a ...any) {
		all = append(all, fmt.Errorf("%s %s: "+format, append([]any{s.Kind, s.Target}, a...)...))
	}
	known, ok := optionsOf[s.Kind]
	if !ok {
		return fmt.Errorf("%q is no kind of service", s.Kind)
	}
	if s.Target == "" || len(s.Target) > MaxTarget || len(s.Options) > MaxOptions {
		wrong("it names nothing, or too much")
	}
	if strings.ContainsAny(s.Target+strings.Join(s.Options, ""), "\x00\n") {
		wrong("a line break or a zero byte is in it")
	}
	seen := map[string]bool{}
	for _, o := range s.Options {
		name, _, _ := strings.Cut(o, "=")
		switch {
		case len(o) > MaxOption:
			wrong("option %s is too long", name)
		case known != nil && !slices.Contains(known, name):
			wrong("there is no option %s; there are: %s", name, strings.Join(append(slices.Clone(known), general...), ", "))
		case seen[name] && !slices.Contains(repeatable, name):
			wrong("option %s is given twice", name)
		}
		seen[name] = true
	}
	s.checkKind(wrong)
	return errors.Join(all...)
}

// general are the options of all kinds.
var general = []string{"start-timeout", "stop-timeout", "monitor-timeout", "monitor-interval", "start-order"}

func (s *Spec) checkKind(wrong func(string, ...any)) {
	switch s.Kind {
	case KindAttach:
		s.checkAttach(wrong)
	case KindMount:
		if !path.IsAbs(s.Target) || path.Clean(s.Target) != s.Target || s.Target == "/" {
			wrong("it is no absolute path of a directory")
		}
		if d := s.Option("device"); !path.IsAbs(d) {
			wrong("it needs device=, the path of the block device, for example device=/dev/nbd0")
		}
		if c := s.Option("fsck"); c != "" && c != "none" && c != "preen" && c != "force-check" {
			wrong("fsck=%s is none of none, preen, force-check", c)
		}
		if u := s.Option("users"); u != "" && u != "kill" && u != "spare" {
			wrong("users=%s is none of kill, spare", u)
		}
	case KindVIP:
		p, err := netip.ParsePrefix(s.Target)
		if err != nil || p.Addr().Is4In6() || p.Addr().IsMulticast() || p.Addr().IsUnspecified() || p.Addr().IsLoopback() {
			wrong("it is no address with the length of its network, for example 10.0.0.10/24")
		}
	case KindUnit:
		if !strings.Contains(s.Target, ".") || strings.Contains(s.Target, "/") {
			wrong("it is no name of a unit, for example postgresql.service")
		}
	case KindOCF:
		provider, kind, ok := strings.Cut(s.Target, ":")
		if !ok || provider == "" || kind == "" || strings.Contains(s.Target, "/") || strings.HasPrefix(provider, ".") || strings.HasPrefix(kind, ".") {
			wrong("it is no PROVIDER:TYPE, for example heartbeat:IPaddr2")
		}
	case KindExec:
		if !path.IsAbs(s.Target) {
			wrong("it is no absolute path of a program")
		}
	}
}

var devicePath = regexp.MustCompile(`^/dev/nbd(0|[1-9][0-9]{0,4})$`)

func (s *Spec) checkAttach(wrong func(string, ...any)) {
	if !devicePath.MatchString(s.Target) {
		wrong("it is no NBD device of the kernel, for example /dev/nbd0")
	}
	if c := s.Option("connections"); c != "" {
		if n, err := strconv.Atoi(c); err != nil || n < 1 || n > 16 {
			wrong("connections=%s is no number from 1 to 16", c)
		}
	}
	if d := s.Option("deadline"); d != "" {
		if v, err := time.ParseDuration(d); err != nil || v < 0 {
			wrong("deadline=%s is no duration, for example 10m", d)
		}
	}
	if b := s.Option("block-size"); b != "" && !slices.Contains([]string{"512", "1024", "2048", "4096"}, b) {
		wrong("block-size=%s is none of 512, 1024, 2048, 4096", b)
	}
}

// WithDevices returns all, where each mount that names no device is given the one that is attached, if that is
// exactly one.
func WithDevices(all []Spec) []Spec {
	device := ""
	for i := range all {
		if all[i].Kind == KindAttach {
			if device != "" {
				return all
			}
			device = all[i].Target
		}
	}
	out := slices.Clone(all)
	for i := range out {
		if s := &out[i]; s.Kind == KindMount && s.Option("device") == "" && device != "" {
			s.Options = append([]string{"device=" + device}, s.Options...)
		}
	}
	return out
}

// ValidateAll lists what is wrong with a list of services.
func ValidateAll(all []Spec) error {
	var faults []error
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		if err := s.Validate(); err != nil {
			faults = append(faults, err)
		}
		key := string(s.Kind) + " " + s.Target
		if s.Kind == KindOCF || s.Kind == KindExec {
			key = s.ID()
		}
		if seen[key] {
			faults = append(faults, fmt.Errorf("%s is given twice", key))
		}
		seen[key] = true
	}
	return errors.Join(faults...)
}

// Sorted returns all in the order of starting: by Order, and as they were given where that is the same.
func Sorted(all []Spec) []Spec {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b Spec) int { return cmp.Compare(a.order(), b.order()) })
	return out
}

func (s *Spec) order() int {
	return cmp.Or(s.Order, 10*slices.Index(Kinds, s.Kind), 5)
}

// ID says what is run: two with the same ID are the same service, whatever their timeouts.
func (s *Spec) ID() string {
	return string(s.Kind) + " " + joinEscaped(append([]string{s.Target}, s.Options...))
}

// Name says what s is in few words. Others of the same resource may have the same.
func (s *Spec) Name() string { return string(s.Kind) + " " + s.Target }

func joinEscaped(parts []string) string {
	var out []string
	for _, p := range parts {
		out = append(out, strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(p))
	}
	return strings.Join(out, ",")
}
