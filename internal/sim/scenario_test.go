package sim

import (
	"flag"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var sceneSeed = flag.Uint64("scenario-seed", 1, "run the scenarios with other latencies, ids and elections than those of their output")

// A scenario is a text file: prose, commands, and what the cluster makes of them. testdata/README.md
// lists the commands. The world is calm: every I/O and every message takes the same short time and
// nothing fails but what the file says. So a file is a history told in order, and its golden output
// is the claim.
//
//	go test ./internal/sim -run TestScenario -rewrite   # then read the difference
func TestScenario_Histories(t *testing.T) { walkScenarios(t, "testdata/histories") }

func TestScenario_Faults(t *testing.T) { walkScenarios(t, "testdata/scenarios") }

func walkScenarios(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenario in %s: %v", dir, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { runScenario(t, f) })
	}
}

func runScenario(t testing.TB, file string) {
	s := &scene{}
	defer s.close()
	datadriven.RunTestAny(t, file, func(t testing.TB, d *datadriven.TestData) string {
		line := d.Cmd
		for _, a := range d.CmdArgs {
			line += " " + a.String()
		}
		if d.Cmd != "play" {
			return s.play(t, line)
		}
		return s.play(t, strings.Split(d.Input, "\n")...)
	})
	if s.w != nil && testing.Verbose() {
		t.Log(s.w.Log().String())
	}
}

// scene is the world of one scenario, and what its commands refer to.
type scene struct {
	w         *World
	restore   func() // of raft's randomness
	clients   map[string]*client
	asked     []*ask // all requests so far, in order
	writes    int    // so many were asked for
	alias     map[uint64]int
	drafts    map[string]draft
	base      uint64 // epoch before the first one of the scenario
	told      bool   // the failure of the world was printed
	looked    uint64 // lines of the log before it are old
	attentive bool   // an operator does what is to be done
	out       strings.Builder
}

// ask is one request of a scenario, named by its number.
type ask struct {
	*request
	text  string
	told  bool // its end was printed
	quiet bool // what a read returned is not printed: the history judges it
}

func (s *scene) close() {
	if s.restore != nil {
		s.restore()
	}
}

// play carries out lines and returns what there is to say of them.
func (s *scene) play(t testing.TB, lines ...string) string {
	s.out.Reset()
	for _, l := range lines {
		l, _, _ = strings.Cut(l, "#")
		words := strings.Fields(l)
		if len(words) == 0 {
			continue
		}
		times := 1
		if words[0] == "repeat" && len(words) > 2 {
			times, _ = strconv.Atoi(words[1])
			words = words[2:]
		}
		c := parseCall(words)
		do := sceneCommands[c.name]
		if do == nil {
			t.Fatalf("no command %q in %q", c.name, l)
		}
		if s.w == nil && c.name != "cluster" {
			t.Fatalf("%q before there is a cluster", l)
		}
		for range times {
			s.carryOut(do, c)
			c.next = 0
		}
		c.next = c.used
		if len(c.unread()) > 0 {
			t.Fatalf("%q: nobody reads %v", l, c.unread())
		}
		if s.failed() {
			break
		}
	}
	return s.out.String()
}

// carryOut runs one command. A panic of the product is an outcome like any other.
func (s *scene) carryOut(do func(*scene, *command), c *command) {
	defer func() {
		if r := recover(); r != nil {
			if b, ok := r.(badCall); ok {
				panic(b)
			}
			s.w.failure = &Failure{At: s.w.now, Text: fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	do(s, c)
}

// failed reports whether the world found something, and says it once: without the time, which
// changes with every detail.
func (s *scene) failed() bool {
	f := s.w.failure
	if f == nil {
		return false
	}
	if !s.told {
		s.told = true
		text, _, _ := strings.Cut(f.Text, "\n")
		s.say("FOUND: %s", text)
	}
	return true
}

func (s *scene) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// run lets d go by.
func (s *scene) run(d time.Duration) {
	end := s.w.now + d
	s.await(d, func() bool { return false })
	s.w.now = max(s.w.now, end)
}

// sceneEvents bounds a scenario: with a precaution taken out, hosts may talk for ever.
const sceneEvents = 400_000

// await lets time go by until ok, at most d, and reports whether it came to that.
func (s *scene) await(d time.Duration, ok func() bool) bool {
	w := s.w
	for limit := w.now + d; !ok(); {
		if w.failure != nil || len(w.events) == 0 || w.events[0].at > limit {
			return false
		}
		if w.stats.Events > sceneEvents {
			w.fail("the hosts talk for ever")
		}
		w.step()
	}
	return true
}

// command is one command of a scenario: its name, plain words, and words of the form key=value.
type command struct {
	name  string
	words []string
	keys  map[string]string
	read  map[string]bool
	flags map[string]bool // plain words that were asked for by name
	next  int
	used  int // words read so far, at most
}

// badCall is a mistake in a scenario file.
type badCall string

func parseCall(words []string) *command {
	c := &command{name: words[0], keys: map[string]string{}, read: map[string]bool{}, flags: map[string]bool{}}
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			c.keys[k] = v
		} else {
			c.words = append(c.words, w)
		}
	}
	return c
}

// word returns the next plain word, which must be there.
func (c *command) word() string {
	if c.next >= len(c.words) {
		panic(badCall(fmt.Sprintf("%s: a word is missing", c.name)))
	}
	c.next++
	c.used = max(c.used, c.next)
	return c.words[c.next-1]
}

// flag reports whether a plain word is there.
func (c *command) flag(name string) bool {
	if c.flags[name] {
		return true
	}
	for i := c.next; i < len(c.words); i++ {
		if c.words[i] == name {
			c.words = append(c.words[:i:i], c.words[i+1:]...)
			c.flags[name] = true
			return true
		}
	}
	return false
}

// key returns the value of a key, def if it is not there.
func (c *command) key(name, def string) string {
	c.read[name] = true
	if v, ok := c.keys[name]; ok {
		return v
	}
	return def
}

func (c *command) number(name string, def int64) int64 {
	v := def
	if text := c.key(name, ""); text != "" {
		if _, err := fmt.Sscan(text, &v); err != nil {
			panic(badCall(fmt.Sprintf("%s: %s=%s is no number", c.name, name, text)))
		}
	}
	return v
}

func (c *command) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(badCall(fmt.Sprintf("%s: %v", c.name, err)))
	}
	return d
}

// unread returns what no command asked for: a typing mistake would otherwise weaken a scenario.
func (c *command) unread() (left []string) {
	left = append(left, c.words[min(c.next, len(c.words)):]...)
	for k := range c.keys {
		if !c.read[k] {
			left = append(left, k)
		}
	}
	return left
}

// host returns the host that a word names.
func (s *scene) host(name string) *Host {
	for _, h := range s.w.hosts {
		if h.name == name {
			return h
		}
	}
	panic(badCall("no host " + name))
}
