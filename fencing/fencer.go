package fencing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Request asks for one boot of one node to be turned off.
type Request struct {
	Target

	// Delay is waited before anything is fired, and a random part of Jitter on top. The node of a
	// pair that is not primary gets one, so that both never shoot at once. 0: none.
	Delay, Jitter time.Duration
	// Still is asked after the delay, right before the first shot: an error means that the order no
	// longer stands, and nothing is fired. nil: it stands.
	Still func(context.Context) error
}

// Proof says that one boot of one node is over.
type Proof struct {
	Node string
	Boot string
	At   time.Time
	Text string // which devices said so; without secrets
}

// Result is what became of a Request.
type Result struct {
	// Proof is nil unless the node is proven off.
	Proof *Proof
	// Err says why nothing is proven; nil with a Proof. It is ErrTimeout if a device did not answer in time,
	// so that the node may be off.
	Err error
	// Attempts of this shot, in order.
	Attempts []Attempt
	// Joined says that the shot had been begun by an earlier request for the same boot.
	Joined bool
}

// member is a device with how often it is tried.
type member struct {
	dev     Device
	tries   int
	timeout time.Duration // of one run; 0: it has none
}

// Fencer carries fences out. It is safe for concurrent use.
type Fencer struct {
	cfg     Config
	members map[string]member
	levels  map[string][][]string
	history *history

	mu      sync.Mutex
	running map[string]*shot // by node
}

// shot is one fence under way, or an unfence, which keeps fences of its node waiting.
type shot struct {
	boot    string // "": an unfence, which nobody joins
	cancel  context.CancelFunc
	done    chan struct{}
	result  Result // valid once done is closed
	waiters int    // guarded by Fencer.mu; 0: it is ending
}

// New makes a Fencer. It touches no device.
func New(cfg Config) (*Fencer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	members := map[string]member{}
	for _, d := range cfg.Devices {
		m := member{dev: d.build(cfg.Margin), tries: 1 + d.Retries, timeout: d.Timeout}
		if d.Watchdog { // waiting again would wait for the same thing
			m.tries, m.timeout = 1, 0
		}
		members[d.Name] = m
	}
	return newFencer(cfg, members), nil
}

func newFencer(cfg Config, members map[string]member) *Fencer {
	f := &Fencer{cfg: cfg, members: members, levels: map[string][][]string{},
		history: &history{limit: cfg.History}, running: map[string]*shot{}}
	for _, n := range cfg.Nodes {
		f.levels[n.Node] = n.Levels
	}
	return f
}

// CanFence reports whether a way to turn node off is configured. It says nothing about whether it works.
func (f *Fencer) CanFence(node string) bool {
	return node != f.cfg.Node && len(f.levels[node]) > 0
}

// History returns the last attempts, the oldest first.
func (f *Fencer) History() []Attempt { return f.history.all() }

// Fence turns the target off and returns once that is proven, has failed, or ctx has ended. A request
// for a boot that is being shot at joins that shot, and its own Delay, Still, Resource and Reason are not
// looked at.
func (f *Fencer) Fence(ctx context.Context, req Request) Result {
	switch {
	case req.Node == "" || req.Boot == "":
		return Result{Err: fmt.Errorf("%w: node %q, boot %q: a fence is about one boot of one node", ErrUnproven, req.Node, req.Boot)}
	case req.Node == f.cfg.Node:
		return Result{Err: ErrSelf}
	case len(f.levels[req.Node]) == 0:
		return Result{Err: fmt.Errorf("%w %s", ErrNoDevice, req.Node)}
	}
	for {
		s, joined, busy := f.enter(ctx, req)
		if !busy {
			return f.await(ctx, s, joined)
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			return Result{Err: fmt.Errorf("%w of %s: %w", ErrBusy, req.Node, context.Cause(ctx))}
		}
	}
}

// enter joins the shot at req's boot or begins one. busy says that s is another one, to be waited for.
func (f *Fencer) enter(ctx context.Context, req Request) (s *shot, joined, busy bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s = f.running[req.Node]; s != nil {
		if s.boot != req.Boot || s.waiters == 0 {
			return s, false, true
		}
		s.waiters++
		return s, true, false
	}
	// The first caller may leave while others wait for the same shot, so it does not end with ctx.
	run, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), f.cfg.Limit, ErrTimeout)
	s = &shot{boot: req.Boot, cancel: cancel, done: make(chan struct{}), waiters: 1}
	f.running[req.Node] = s
	go func() {
		s.result = f.shoot(run, req)
		f.mu.Lock()
		delete(f.running, req.Node)
		f.mu.Unlock()
		cancel()
		close(s.done)
	}()
	return s, false, false
}

// await returns the result of s. Who leaves it last ends it and waits for its end.
func (f *Fencer) await(ctx context.Context, s *shot, joined bool) Result {
	select {
	case <-s.done:
	case <-ctx.Done():
		f.mu.Lock()
		s.waiters--
		last := s.waiters == 0
		f.mu.Unlock()
		if !last {
			return Result{Err: fmt.Errorf("%w: %w", ErrUnproven, context.Cause(ctx)), Joined: joined}
		}
		s.cancel()
		<-s.done
	}
	r := s.result
	r.Attempts = append([]Attempt(nil), r.Attempts...)
	r.Joined = joined
	return r
}

// shoot carries one fence out.
func (f *Fencer) shoot(ctx context.Context, req Request) Result {
	req.asked = time.Now()
	if err := f.hold(ctx, req); err != nil {
		return Result{Err: err}
	}
	var r Result
	var failures []error
	levels := f.levels[req.Node]
	for i, level := range levels {
		text, attempts, err := f.shootLevel(ctx, req.Target, i+1, level, len(levels)-i)
		r.Attempts = append(r.Attempts, attempts...)
		if err == nil {
			r.Proof = &Proof{Node: req.Node, Boot: req.Boot, At: f.cfg.Now(), Text: text}
			return r
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			failures = append(failures, fmt.Errorf("gave up: %w", context.Cause(ctx)))
			break
		}
	}
	r.Err = errors.Join(failures...)
	return r
}

// hold waits for the delay of req and asks whether the order still stands.
func (f *Fencer) hold(ctx context.Context, req Request) error {
	delay := req.Delay
	if req.Jitter > 0 {
		delay += f.cfg.Random(req.Jitter)
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: the delay of %v was not over: %w", ErrWithdrawn, delay, context.Cause(ctx))
		}
	}
	if req.Still == nil {
		return nil
	}
	if err := req.Still(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrWithdrawn, err)
	}
	return nil
}

// shootLevel turns off every device of a level, one after the other, and stops at the first that cannot
// prove it. left is how many levels there are from this one on, which share the time that is left.
func (f *Fencer) shootLevel(ctx context.Context, t Target, level int, devices []string, left int) (string, []Attempt, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/time.Duration(left), ErrTimeout)
		defer cancel()
	}
	var attempts []Attempt
	text := ""
	for _, name := range devices {
		m := f.members[name]
		var last Answer
		var err error
		for try := 1; try <= m.tries; try++ {
			if ctx.Err() != nil {
				if try == 1 {
					err = fmt.Errorf("not fired: %w", context.Cause(ctx))
				}
				break
			}
			a := Attempt{Node: t.Node, Boot: t.Boot, Resource: t.Resource, Reason: t.Reason,
				Device: name, Level: level, Try: try, Action: "off", Begun: f.cfg.Now()}
			last, err = m.dev.Off(ctx, t)
			if err == nil && last.Power != PowerOff { // no device does this; none ever may
				err = fmt.Errorf("%w: the device says %s", ErrUnproven, last.Power)
			}
			attempts = append(attempts, f.record(a, last, err))
			if err == nil {
				break
			}
		}
		if err != nil {
			return "", attempts, fmt.Errorf("level %d, device %s: %w", level, name, err)
		}
		if text != "" {
			text += "; "
		}
		text += name + ": " + last.Text
	}
	return text, attempts, nil
}

// record ends an attempt and remembers it.
func (f *Fencer) record(a Attempt, ans Answer, err error) Attempt {
	a.Ended, a.Text, a.Output = f.cfg.Now(), ans.Text, ans.Output
	if err != nil {
		a.Failure = err.Error()
	}
	f.history.add(a)
	log := f.cfg.Log.With("node", a.Node, "boot", a.Boot, "device", a.Device, "action", a.Action, "level", a.Level, "try", a.Try)
	if err != nil {
		log.Warn("fence attempt failed", "err", err)
	} else {
		log.Info("fence attempt succeeded", "text", ans.Text)
	}
	return a
}
