package plan

import (
	"fmt"
	"time"
)

// Step is one service.
type Step struct {
	// ID says what is run, with all that changes how; two steps with the same ID are the same service.
	ID string
	// Name is how people are told of it.
	Name string
	// Urgent: it harms others where it does not belong.
	Urgent         bool
	StartTimeout   time.Duration
	StopTimeout    time.Duration
	MonitorTimeout time.Duration
	Interval       time.Duration // between two looks at it; 0: nobody looks
}

// State is what a step is doing.
type State uint8

// The states of a step; the package comment draws them.
const (
	Stopped State = iota
	Starting
	Running
	Stopping
	Unclear // may run
	Stuck   // cannot be stopped
	stateEnd
)

var stateNames = [stateEnd]string{"stopped", "starting", "running", "stopping", "unclear", "stuck"}

func (s State) String() string {
	if s < stateEnd {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// EventKind tells what happened.
type EventKind uint8

// Events.
const (
	EvTick     EventKind = iota // time has passed
	EvServices                  // Steps is what the operator wants, in the order of starting
	EvRole                      // On: this node is primary in Epoch. Else its role has ended without a word
	EvLease                     // On: it holds its lease. Else nobody can tell who is primary
	EvStop                      // On: stop everything, the role is to be given up. Else: it is kept after all
	EvDone                      // the operation Token has ended; Fault is "" if it did what it should
	EvHalt                      // nothing is to be started here, because Fault; a plan that runs goes on
	EvClear                     // an operator has mended what failed, or its time is over
	eventEnd
)

var eventNames = [eventEnd]string{"tick", "services", "role", "lease", "stop", "done", "halt", "clear"}

func (k EventKind) String() string {
	if k < eventEnd {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is what a Plan is told. Fields that its kind does not name are ignored.
type Event struct {
	Kind  EventKind
	Now   time.Duration // on a clock that never goes back; in every event
	On    bool
	Epoch uint64
	Token uint64
	Fault string
	Steps []Step
}

// ActionKind tells what is to be done.
type ActionKind uint8

// Actions.
const (
	ActRecord  ActionKind = iota // make durable that IDs may run, before what follows
	ActStart                     // start ID
	ActStop                      // stop ID
	ActMonitor                   // look whether ID runs
	ActCancel                    // end the operation Token soon
	ActUp                        // all that is wanted runs
	ActStopped                   // nothing runs, and nothing is wanted
	ActGiveUp                    // the services failed here, because Text, and are stopped: another node may try
	ActFence                     // On: a step cannot be stopped, because Text. Else it could after all
	actionEnd
)

var actionNames = [actionEnd]string{"record", "start", "stop", "monitor", "cancel", "up", "stopped", "give-up", "fence"}

func (k ActionKind) String() string {
	if k < actionEnd {
		return actionNames[k]
	}
	return fmt.Sprintf("action(%d)", uint8(k))
}

// Action is one thing to be done. The order in which Step returns them binds. EvDone answers ActStart,
// ActStop and ActMonitor, once, with their Token.
type Action struct {
	Kind  ActionKind
	ID    string
	IDs   []string
	Token uint64
	On    bool
	Text  string
}

// Config is fixed for the life of a Plan.
type Config struct {
	Grace       time.Duration // how long a cancelled operation may take to end
	RetryStop   time.Duration // between two tries to stop what is stuck
	MaxFailures int           // of monitors within Window; one more, and this node gives up
	Window      time.Duration
}

// DefaultConfig returns what is used outside of tests.
func DefaultConfig() Config {
	return Config{Grace: 5 * time.Second, RetryStop: 10 * time.Second, MaxFailures: 2, Window: 10 * time.Minute}
}

// Plan is the services of one resource on one node. Not safe for concurrent use.
type Plan struct {
	cfg   Config
	want  []Step
	steps []step // in the order of starting

	primary  bool
	epoch    uint64
	lease    bool
	stopping bool   // EvStop
	halted   string // why nothing is started here
	giveUp   bool   // halted came from here, and was not told yet
	failures []time.Duration

	begun    bool // there was an event
	token    uint64
	recorded []string
	told     outcome // what was said last
	fence    string
}

// outcome is what a Plan tells once, when it comes about.
type outcome uint8

const (
	underWay outcome = iota
	allUp
	allStopped
)

// step is a Step and how it is doing.
type step struct {
	Step
	state State
	gone  bool   // not wanted any more, whatever the role
	again bool   // has to be stopped before it may run again
	fault string // of the operation that failed last
	since time.Duration

	op        op
	token     uint64
	deadline  time.Duration // of op
	cancelled bool          // op is
	late      bool          // op had no time left
	lost      bool          // op has not ended although it was cancelled

	nextLook  time.Duration
	retryStop time.Duration // Stuck: when it is tried again
}

// op is what is under way with a step.
type op uint8

const (
	opNone op = iota
	opStart
	opStop
	opMonitor
)

// New returns a Plan in which left, what an earlier process started, may still run.
func New(cfg Config, left []Step) *Plan {
	p := &Plan{cfg: cfg, lease: true}
	for _, s := range left {
		p.steps = append(p.steps, step{Step: s, state: Unclear, gone: true})
		p.recorded = append(p.recorded, s.ID)
	}
	return p
}

// View is how one step is doing.
type View struct {
	ID    string
	Name  string
	State State
	Fault string        // what went wrong last; "" since it runs, or never
	Since time.Duration // of State
}

// Views returns the steps in the order of starting.
func (p *Plan) Views() []View {
	out := make([]View, len(p.steps))
	for i, s := range p.steps {
		out[i] = View{ID: s.ID, Name: s.Name, State: s.state, Fault: s.fault, Since: s.since}
	}
	return out
}

// Halted returns why nothing is started here although this node may be primary, "" if that is not so.
func (p *Plan) Halted() string { return p.halted }

// Idle reports that nothing runs, may run or is under way.
func (p *Plan) Idle() bool {
	for i := range p.steps {
		if p.steps[i].busy() {
			return false
		}
	}
	return true
}

// StopBudget returns how long stopping all that may run takes at most before something is Stuck.
func (p *Plan) StopBudget() time.Duration {
	var sum time.Duration
	for _, s := range p.steps {
		if s.busy() {
			sum += s.StopTimeout + p.cfg.Grace
		}
		if s.op == opStart || s.op == opMonitor {
			sum += p.cfg.Grace // it is cancelled first
		}
	}
	return sum
}

// busy reports whether s runs, may run, or has an operation under way.
func (s *step) busy() bool { return s.state != Stopped || s.op != opNone }

func (s *step) enter(state State, now time.Duration) {
	if s.state != state {
		s.state, s.since = state, now
	}
}
