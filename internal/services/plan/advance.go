package plan

import (
	"fmt"
	"slices"
	"time"
)

// up reports whether the services should run here.
func (p *Plan) up() bool { return p.primary && !p.stopping && p.halted == "" }

// wanted reports whether step i should run as it is.
func (p *Plan) wanted(i int) bool {
	s := &p.steps[i]
	if s.gone || s.again || s.state == Stopping || s.state == Unclear || s.state == Stuck {
		return false
	}
	return p.up() && (p.lease || !s.Urgent)
}

// hurried reports whether step i is to be stopped without regard to the order.
func (p *Plan) hurried(i int) bool {
	return p.steps[i].Urgent && (!p.primary || !p.lease)
}

// advance brings what is closer to what is wanted.
func (p *Plan) advance(now time.Duration, out []Action) []Action {
	out = p.expire(now, out)
	p.tidy(now)
	out = p.stop(now, out)
	out = p.start(now, out)
	out = p.look(now, out)
	out = p.fences(out)
	return p.tell(out)
}

// expire cancels what has no time left, and gives up what does not end then either.
func (p *Plan) expire(now time.Duration, out []Action) []Action {
	for i := range p.steps {
		s := &p.steps[i]
		if s.op == opNone || now < s.deadline || s.lost {
			continue
		}
		if !s.cancelled {
			s.late = true
			out = p.cancel(s, now, out)
			continue
		}
		verb := [...]string{opStart: "start", opStop: "stop", opMonitor: "monitor"}[s.op]
		s.lost = true
		s.fault = verb + ": it has not ended although its time is over"
		s.enter(Stuck, now)
		if s.op == opStart {
			p.fail("the start of " + s.Name + " has not ended although its time is over")
		}
	}
	return out
}

// tidy removes what is not wanted any more and is stopped.
func (p *Plan) tidy(now time.Duration) {
	over := func(s step) bool { return s.gone && !s.busy() }
	if slices.ContainsFunc(p.steps, over) {
		p.steps = slices.DeleteFunc(p.steps, over)
		p.rebuild(now)
	}
}

// stop stops the last step that is not wanted, and all that are urgent.
func (p *Plan) stop(now time.Duration, out []Action) []Action {
	for i := range p.steps {
		if p.hurried(i) && p.steps[i].busy() {
			out = p.stopOne(i, now, out)
		}
	}
	for i := len(p.steps) - 1; i >= 0; i-- {
		if !p.wanted(i) && p.steps[i].busy() && !p.hurried(i) {
			return p.stopOne(i, now, out)
		}
	}
	return out
}

func (p *Plan) stopOne(i int, now time.Duration, out []Action) []Action {
	s := &p.steps[i]
	switch {
	case s.op == opStop:
	case s.op != opNone:
		out = p.cancel(s, now, out)
	case s.state == Stuck && now < s.retryStop:
	default:
		if s.state != Stuck { // what is stuck stays so until it is stopped
			s.enter(Stopping, now)
		}
		out = p.begin(s, opStop, ActStop, s.StopTimeout, now, out)
	}
	return out
}

// start starts the first step that does not run yet, once nothing is left to be stopped.
func (p *Plan) start(now time.Duration, out []Action) []Action {
	if !p.up() {
		return out
	}
	for i := range p.steps {
		if s := &p.steps[i]; s.busy() && !p.wanted(i) && !p.hurried(i) {
			return out
		}
	}
	for i := range p.steps {
		s := &p.steps[i]
		switch {
		case p.hurried(i), s.state == Running:
			continue
		case s.busy():
			return out // one at a time
		}
		s.enter(Starting, now)
		out = p.record(out)
		return p.begin(s, opStart, ActStart, s.StartTimeout, now, out)
	}
	return out
}

// look has the monitors run that are due.
func (p *Plan) look(now time.Duration, out []Action) []Action {
	for i := range p.steps {
		s := &p.steps[i]
		if s.state == Running && s.op == opNone && s.Interval > 0 && now >= s.nextLook && p.lease && p.wanted(i) {
			out = p.begin(s, opMonitor, ActMonitor, s.MonitorTimeout, now, out)
		}
	}
	return out
}

func (p *Plan) begin(s *step, what op, act ActionKind, timeout, now time.Duration, out []Action) []Action {
	if s.op != opNone {
		panic(fmt.Sprintf("plan: two operations at once: %+v", *s))
	}
	p.token++
	s.op, s.token, s.deadline = what, p.token, now+timeout
	s.cancelled, s.late, s.lost = false, false, false
	return append(out, Action{Kind: act, ID: s.ID, Token: s.token})
}

// cancel asks the operation of s to end; it then has Grace.
func (p *Plan) cancel(s *step, now time.Duration, out []Action) []Action {
	if s.cancelled {
		return out
	}
	s.cancelled, s.deadline = true, now+p.cfg.Grace
	return append(out, Action{Kind: ActCancel, ID: s.ID, Token: s.token})
}

// record names all that may run, if that is not what is recorded.
func (p *Plan) record(out []Action) []Action {
	ids := []string{}
	for i := range p.steps {
		if p.steps[i].busy() {
			ids = append(ids, p.steps[i].ID)
		}
	}
	if slices.Equal(ids, p.recorded) {
		return out
	}
	p.recorded = ids
	return append(out, Action{Kind: ActRecord, IDs: slices.Clone(ids)})
}

// fences says when a step cannot be stopped, and when it could after all.
func (p *Plan) fences(out []Action) []Action {
	why := ""
	for i := len(p.steps) - 1; i >= 0 && why == ""; i-- {
		if s := &p.steps[i]; s.state == Stuck {
			why = s.Name + " cannot be stopped: " + s.fault
		}
	}
	if (why == "") == (p.fence == "") {
		return out
	}
	p.fence = why
	return append(out, Action{Kind: ActFence, On: why != "", Text: why})
}

// tell says, once, that what is wanted is so.
func (p *Plan) tell(out []Action) []Action {
	now := p.outcome()
	if now == allStopped {
		out = p.record(out)
		if p.giveUp {
			p.giveUp = false
			out = append(out, Action{Kind: ActGiveUp, Text: p.halted})
		}
	}
	if now == p.told {
		return out
	}
	p.told = now
	switch now {
	case allUp:
		return append(out, Action{Kind: ActUp})
	case allStopped:
		return append(out, Action{Kind: ActStopped})
	}
	return out
}

func (p *Plan) outcome() outcome {
	if !p.up() {
		if p.Idle() {
			return allStopped
		}
		return underWay
	}
	for i := range p.steps {
		if p.steps[i].state != Running || !p.wanted(i) {
			return underWay
		}
	}
	return allUp
}
