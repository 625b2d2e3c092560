package pair

import (
	"errors"
	"fmt"
	"time"
)

// LookInterval is the longest time between two EvLook.
const LookInterval = 100 * time.Millisecond

// Config is fixed for the life of a Pair. A zero duration means the default.
type Config struct {
	Silence    time.Duration // the other one has to be silent for so long, on every way; 0: 2 s
	Delay      time.Duration // who is not favoured waits so much longer; 0: 5 s
	Jitter     time.Duration // and a random part of this; 0: 2 s
	RetryAfter time.Duration // pause after a fence that failed, doubled each time; 0: 15 s
	RetryMost  time.Duration // longest such pause; 0: 5 min

	// Random returns a duration from 0 to below most. It must never be nil.
	Random func(most time.Duration) time.Duration
}

// DefaultConfig returns the Config that zero durations stand for. It has no Random.
func DefaultConfig() Config {
	return Config{Silence: 2 * time.Second, Delay: 5 * time.Second, Jitter: 2 * time.Second,
		RetryAfter: 15 * time.Second, RetryMost: 5 * time.Minute}
}

// Validate lists everything that is wrong with c.
func (c Config) Validate() error {
	c = c.withDefaults()
	var all []error
	bad := func(format string, a ...any) { all = append(all, fmt.Errorf("pair: "+format, a...)) }
	if c.Random == nil {
		bad("no source of randomness")
	}
	if c.Silence < 0 || c.Delay < 0 || c.Jitter < 0 || c.RetryAfter < 0 {
		bad("a duration below 0: %+v", [...]time.Duration{c.Silence, c.Delay, c.Jitter, c.RetryAfter})
	}
	if c.RetryAfter < c.Delay+c.Jitter {
		bad("the next try comes after %v, before the other node had its turn: that needs %v", c.RetryAfter, c.Delay+c.Jitter)
	}
	if c.RetryMost < c.RetryAfter {
		bad("longest pause %v is below the first one, %v", c.RetryMost, c.RetryAfter)
	}
	return errors.Join(all...)
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	set := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	set(&c.Silence, d.Silence)
	set(&c.Delay, d.Delay)
	set(&c.Jitter, d.Jitter)
	set(&c.RetryAfter, d.RetryAfter)
	set(&c.RetryMost, d.RetryMost)
	return c
}

// phase is how far this node has come.
type phase uint8

const (
	watching phase = iota // something is against it
	waiting               // nothing is, and silence, delay or pause are not over
	shooting              // a fence is under way
	opening               // the other one is proven off; the ledger is being rewritten
	phaseEnd
)

var phaseNames = [phaseEnd]string{"watching", "waiting", "shooting", "opening"}

func (p phase) String() string {
	if p < phaseEnd {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// Pair decides for one node. It is not safe for concurrent use.
type Pair struct {
	cfg   Config
	now   time.Duration
	phase phase
	look  Look // the newest

	since     time.Duration // waiting: since when nothing is against it
	wait      time.Duration // waiting: how long from since
	target    Look          // shooting, opening: what was decided on
	failures  int           // since the last time there was a majority
	failed    string        // why the last try proved nothing; "": there was none
	notBefore time.Duration // of the next try
}

// New returns a Pair that watches.
//
// Errors: those of Config.Validate.
func New(cfg Config) (*Pair, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Pair{cfg: cfg.withDefaults()}, nil
}

// Step advances p by one event and appends to out what must now be done.
func (p *Pair) Step(ev Event, out []Action) []Action {
	p.now = max(p.now, ev.Now)
	p.look = ev.Look
	switch ev.Kind {
	case EvLook:
		return p.looked(out)
	case EvShot:
		return p.shot(ev, out)
	case EvOpened:
		return p.opened(ev, out)
	}
	panic(fmt.Sprintf("pair: unknown event %+v", ev))
}

// looked begins to wait, goes on, or shoots.
func (p *Pair) looked(out []Action) []Action {
	if p.look.Quorum {
		p.failures, p.failed, p.notBefore = 0, "", 0
	}
	if p.phase == shooting || p.phase == opening {
		return out // its answer decides, with a newer look
	}
	if p.look.Against() != "" {
		p.phase = watching
		return out
	}
	if p.phase == watching {
		p.phase, p.since, p.wait = waiting, p.now, p.cfg.Silence
		if !p.look.Favoured {
			p.wait += p.cfg.Delay + p.cfg.Random(p.cfg.Jitter)
		}
	}
	if p.now < p.due() {
		return out
	}
	p.phase, p.target = shooting, p.look
	return append(out, Action{Kind: ActShoot, Node: p.target.Peer, Boot: p.target.Boot,
		Why: fmt.Sprintf("there is no majority without %s, and it is silent on every way", p.target.Peer)})
}

// due is when this node fires, unless something comes in between.
func (p *Pair) due() time.Duration { return max(p.since+p.wait, p.notBefore) }

// shot takes the result of a fence. Only a proof about what is still so leads on.
func (p *Pair) shot(ev Event, out []Action) []Action {
	if p.phase != shooting {
		panic(fmt.Sprintf("pair: result of a fence while %s: %+v", p.phase, ev))
	}
	why := p.look.Against()
	switch {
	case !ev.OK:
		p.fail(fmt.Sprintf("it is not proven that %s is off: %s", p.target.Peer, ev.Text))
	case why != "":
		p.fail(fmt.Sprintf("%s was turned off, and then %s", p.target.Peer, why))
	case p.look.Peer != p.target.Peer || p.look.Boot != p.target.Boot:
		p.fail(fmt.Sprintf("%s was turned off, and then registered another boot", p.target.Peer))
	default:
		p.phase = opening
		return append(out, Action{Kind: ActOpen, Node: p.target.Peer, Boot: p.target.Boot, Proof: ev.Text,
			Why: fmt.Sprintf("%s is proven off: %s", p.target.Peer, ev.Text)})
	}
	return out
}

// opened takes the ledger's answer. If it refused, nothing was rewritten, and all begins anew.
func (p *Pair) opened(ev Event, out []Action) []Action {
	if p.phase != opening {
		panic(fmt.Sprintf("pair: answer of the ledger while %s: %+v", p.phase, ev))
	}
	if !ev.OK {
		p.fail(fmt.Sprintf("%s is off, and the ledger does not go on alone: %s", p.target.Peer, ev.Text))
		return out
	}
	p.phase, p.failures, p.failed, p.notBefore = watching, 0, "", 0
	return out
}

// fail begins anew after a pause that grows.
func (p *Pair) fail(why string) {
	p.phase, p.failed = watching, why
	pause := p.cfg.RetryAfter << min(p.failures, 16)
	if pause <= 0 || pause > p.cfg.RetryMost {
		pause = p.cfg.RetryMost
	}
	p.failures++
	p.notBefore = p.now + pause + p.cfg.Random(p.cfg.Jitter)
}

// Explain says in one sentence or two what this node does about the loss of the other one, for the
// operator; "" where there is a majority, or no pair.
func (p *Pair) Explain() string {
	l := p.look
	if l.Peer == "" || l.Quorum {
		return ""
	}
	last := ""
	if p.failed != "" {
		last = " The last try failed: " + p.failed + "."
	}
	switch p.phase {
	case shooting:
		return fmt.Sprintf("It is turning %s off, to go on alone.", p.target.Peer) + last
	case opening:
		return fmt.Sprintf("%s is proven off, and the ledger is being rewritten to go on alone.", p.target.Peer)
	case waiting:
		left := max(p.due()-p.now, 0).Round(time.Second)
		return fmt.Sprintf("It turns %s off in %v, unless %s is heard again, and then goes on alone.", l.Peer, left, l.Peer) + last
	}
	return fmt.Sprintf("It does not go on alone by itself: %s.", l.Against()) + last
}
