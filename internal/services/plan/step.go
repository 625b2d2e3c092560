package plan

import (
	"fmt"
	"slices"
	"time"
)

// Step advances p by one event and appends to out what must now be done.
func (p *Plan) Step(ev Event, out []Action) []Action {
	if !p.begun { // what is left has been as it is for longer; nobody knows
		p.begun = true
		for i := range p.steps {
			p.steps[i].since = ev.Now
		}
	}
	switch ev.Kind {
	case EvTick:
	case EvServices:
		p.want = slices.Clone(ev.Steps)
		p.rebuild(ev.Now)
		p.told = underWay
	case EvRole:
		p.role(ev)
	case EvLease:
		p.lease = ev.On
	case EvStop:
		p.stopping = ev.On
		p.told = underWay
	case EvDone:
		p.done(ev)
	case EvHalt:
		if !p.up() || p.Idle() {
			p.halted = ev.Fault
		}
	case EvClear:
		p.halted, p.giveUp, p.failures = "", false, nil
	default:
		panic(fmt.Sprintf("plan: unknown event %d", ev.Kind))
	}
	return p.advance(ev.Now, out)
}

// role takes over that the role began or ended.
func (p *Plan) role(ev Event) {
	p.told = underWay
	p.primary = ev.On
	if !ev.On {
		p.stopping = false // there is nothing left to give up
		return
	}
	if ev.Epoch == p.epoch {
		return
	}
	p.epoch, p.stopping = ev.Epoch, false
	// Others may have been primary in between, and what runs here may hang on what they replaced.
	for i := range p.steps {
		p.steps[i].again = p.steps[i].again || p.steps[i].busy()
	}
}

// rebuild makes steps of what is wanted and of what still runs. If all that runs is wanted, in the same
// order, the rest is put in between. Otherwise what runs is stopped from the first difference on, since
// what is started later may stand on what is to go; rebuild is then called again.
func (p *Plan) rebuild(now time.Duration) {
	var active []step
	for _, s := range p.steps {
		if s.busy() {
			active = append(active, s)
		}
	}
	next, i := make([]step, 0, len(p.want)), 0
	for _, w := range p.want {
		if i < len(active) && !active[i].gone && active[i].ID == w.ID {
			s := active[i]
			s.Step = w
			next = append(next, s)
			i++
			continue
		}
		since := now
		if j := slices.IndexFunc(p.steps, func(s step) bool { return s.ID == w.ID && s.state == Stopped }); j >= 0 {
			since = p.steps[j].since
		}
		next = append(next, step{Step: w, since: since})
	}
	if i == len(active) {
		p.steps = next
		return
	}
	same := 0
	for same < len(active) && same < len(p.want) && !active[same].gone && active[same].ID == p.want[same].ID {
		active[same].Step = p.want[same]
		same++
	}
	for j := same; j < len(active); j++ {
		active[j].gone = true
	}
	p.steps = active
}

// done takes the end of an operation.
func (p *Plan) done(ev Event) {
	i := slices.IndexFunc(p.steps, func(s step) bool { return s.op != opNone && s.token == ev.Token })
	if i < 0 {
		panic(fmt.Sprintf("plan: operation %d is not under way: %+v", ev.Token, p.steps))
	}
	s := &p.steps[i]
	what, cancelled := s.op, s.cancelled && !s.late
	fault := ev.Fault
	if s.late {
		fault = "it had no time left"
		if ev.Fault != "" {
			fault += ": " + ev.Fault
		}
	}
	s.op, s.cancelled, s.late, s.lost = opNone, false, false, false
	switch what {
	case opStart:
		p.started(s, fault, cancelled, ev.Now)
	case opStop:
		p.stopped(s, ev.Fault, ev.Now) // late or not, it is stopped
	case opMonitor:
		p.looked(i, fault, cancelled, ev.Now)
	}
}

func (p *Plan) started(s *step, fault string, cancelled bool, now time.Duration) {
	if fault == "" && s.state == Starting {
		s.fault = ""
		s.enter(Running, now)
		s.nextLook = now + s.Interval
		return
	}
	s.enter(Unclear, now)
	if cancelled {
		return
	}
	s.fault = "start: " + fault
	p.fail("the start of " + s.Name + " failed: " + fault)
}

func (p *Plan) stopped(s *step, fault string, now time.Duration) {
	if fault == "" {
		s.enter(Stopped, now)
		s.again = false
		return
	}
	s.fault = "stop: " + fault
	s.enter(Stuck, now)
	s.retryStop = now + p.cfg.RetryStop
}

func (p *Plan) looked(i int, fault string, cancelled bool, now time.Duration) {
	s := &p.steps[i]
	s.nextLook = now + s.Interval
	if s.state == Stuck { // the look itself had hung; what it says now is old
		s.enter(Unclear, now)
		return
	}
	if fault == "" || cancelled || !p.lease {
		return // without the lease I/O waits, and so does whoever looks
	}
	s.fault = "monitor: " + fault
	p.failures = append(p.failures, now)
	for len(p.failures) > 0 && now-p.failures[0] > p.cfg.Window {
		p.failures = p.failures[1:]
	}
	if len(p.failures) > p.cfg.MaxFailures {
		p.fail(fmt.Sprintf("%s failed %d times within %v: %s", s.Name, len(p.failures), p.cfg.Window, fault))
		return
	}
	for j := i; j < len(p.steps); j++ { // what comes after it may stand on it
		p.steps[j].again = p.steps[j].again || p.steps[j].busy()
	}
}

// fail ends trying here. The first reason stays.
func (p *Plan) fail(why string) {
	if p.halted == "" {
		p.halted, p.giveUp = why, true
		p.failures = nil
	}
}
