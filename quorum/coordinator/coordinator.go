package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// Coordinator decides failover. It is not safe for concurrent use.
type Coordinator struct {
	cfg Config
	now time.Duration

	state   *quorum.State
	leading bool
	// listening is since when this leader hears what is sent: nobody is called silent for a time
	// in which nobody could have been heard.
	listening time.Duration
	token     uint64 // of the newest proposal

	res    []watch  // of state.Resources, in their order
	downs  []string // nodes that membership calls down
	fences []fenceWatch
	orders []order
}

// watch is what the leader remembers of one resource. All of it is soft.
type watch struct {
	id      uint64  // of the resource
	version uint64  // of the record when it was last looked at
	heard   []heard // the newest report of each node, in the order of the first ones
	stored  uint64  // the highest epoch that any report named

	primary   quorum.Incumbent // as recorded
	epoch     uint64           // as recorded
	changedAt time.Duration    // since when these are recorded, as far as is known here
	idleAt    time.Duration    // since when the recorded primary says that it is none; below 0: it does not
	servedAt  time.Duration    // since when it says that it serves; below 0: it does not
	neededAt  time.Duration    // since when somebody else is needed; below 0: nobody is

	pending   uint64 // token of the proposal that is out; 0: none
	asked     uint64 // version that it was decided on
	candidate string // of the newest proposal
	tried     string // promoted last, and has not served since
	failures  int    // promotions since the last stable primary
	notBefore time.Duration
}

type heard struct {
	at time.Duration
	Report
}

// New returns a Coordinator that does not lead.
//
// Errors: those of Config.Validate.
func New(cfg Config) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Coordinator{cfg: cfg.withDefaults()}, nil
}

// Step advances c by one event and appends to out what must now be done. Same state, same
// events: same actions.
func (c *Coordinator) Step(ev Event, out []Action) []Action {
	c.clock(ev.Now)
	switch ev.Kind {
	case EvTick:
		return c.tick(out)
	case EvLead:
		c.lead(ev.On)
	case EvState:
		return c.adopt(ev.State, out)
	case EvReport:
		if i := c.learn(&ev.Report); i >= 0 {
			return c.judge(i, out)
		}
	case EvHint:
		return c.hint(ev.Node, ev.On, out)
	case EvProposalDone:
		return c.proposalDone(ev, out)
	case EvFenceDone:
		return c.fenceDone(ev, out)
	default:
		panic(fmt.Sprintf("coordinator: unknown event %+v", ev))
	}
	return out
}

// clock notes the time. A leader that got no event for SuspectAfter was paused: what was sent
// meanwhile is on its way to it still, so it starts to listen anew.
func (c *Coordinator) clock(now time.Duration) {
	if c.leading && now-c.now >= c.cfg.SuspectAfter {
		c.listening = now
	}
	c.now = max(c.now, now)
}

func (c *Coordinator) tick(out []Action) []Action {
	out = c.report(out)
	if !c.leading || c.state == nil {
		return out
	}
	out = c.expire(out)
	for i := range c.res {
		out = c.judge(i, out)
	}
	return out
}

// lead begins or ends this node's lead. Nothing of an earlier lead is remembered.
func (c *Coordinator) lead(on bool) {
	if c.leading == on {
		return
	}
	c.leading, c.listening = on, c.now
	c.downs, c.fences = c.downs[:0], c.fences[:0]
	c.res = c.res[:0]
	if c.state != nil {
		c.follow(c.state)
	}
}

// adopt takes a newer State: everybody looks for orders in it, the leader judges it.
func (c *Coordinator) adopt(s *quorum.State, out []Action) []Action {
	c.follow(s)
	out = c.takeOrders(out)
	if !c.leading {
		return out
	}
	c.followFences()
	out = c.report(out)
	for i := range c.res {
		out = c.judge(i, out)
	}
	return out
}

// follow makes res fit the resources of s. Both are sorted by name, and a name that now belongs to
// another id is another resource.
func (c *Coordinator) follow(s *quorum.State) {
	old := c.res
	same := c.state != nil && len(old) == len(s.Resources)
	for i := range s.Resources {
		same = same && old[i].id == s.Resources[i].ID
	}
	if !same {
		next := make([]watch, len(s.Resources))
		for i := range s.Resources {
			id := s.Resources[i].ID
			next[i] = watch{id: id, idleAt: -1, servedAt: -1, neededAt: -1, changedAt: c.now}
			if j := slices.IndexFunc(old, func(w watch) bool { return w.id == id }); j >= 0 {
				next[i] = old[j]
			}
		}
		c.res = next
	}
	c.state = s
	for i := range c.res {
		c.res[i].follow(&s.Resources[i], c.now)
	}
	c.forgetNodes()
}

// follow notes a newer record.
func (w *watch) follow(r *quorum.Resource, now time.Duration) {
	if w.version == r.Version {
		return
	}
	w.version = r.Version
	if w.primary != r.Primary || w.epoch != r.Epoch {
		w.primary, w.epoch, w.changedAt = r.Primary, r.Epoch, now
		w.idleAt, w.servedAt, w.neededAt = -1, -1, -1
	}
}

// forgetNodes drops the reports of nodes that the ledger no longer names, so that what is kept is
// bounded by the ledger.
func (c *Coordinator) forgetNodes() {
	for i := range c.res {
		w := &c.res[i]
		if len(w.heard) > len(c.state.Nodes) {
			w.heard = slices.DeleteFunc(w.heard, func(h heard) bool { return c.state.Node(h.Node) == nil })
		}
	}
}

// learn keeps a report and returns the index of its resource; -1 if there is no such one, or
// nobody here to judge it.
func (c *Coordinator) learn(rep *Report) int {
	if !c.leading || c.state == nil || c.state.Node(rep.Node) == nil {
		return -1
	}
	i, ok := slices.BinarySearchFunc(c.state.Resources, rep.Resource, func(r quorum.Resource, n string) int { return cmp.Compare(r.Name, n) })
	if !ok || c.state.Resources[i].ID != rep.ResourceID {
		return -1
	}
	w := &c.res[i]
	w.stored = max(w.stored, rep.Epoch)
	if h := w.of(rep.Node); h != nil {
		*h = heard{c.now, *rep}
	} else {
		w.heard = append(w.heard, heard{c.now, *rep})
		c.forgetNodes()
	}
	if rep.Node == w.primary.Node && rep.Incumbent.Process == w.primary.Process {
		w.learnPrimary(&c.state.Resources[i], rep, c)
	}
	return i
}

// servedPause bounds how often the pause is doubled after promotions of primaries that did serve.
const servedPause = 2

// learnPrimary notes what the recorded primary says of its own role.
func (w *watch) learnPrimary(r *quorum.Resource, rep *Report, c *Coordinator) {
	serves, starts := rep.Role == RolePrimary, rep.Role == RoleStarting
	switch idle := !serves && !starts && rep.Version >= r.Version; {
	case !idle:
		w.idleAt = -1
	case w.idleAt < 0:
		w.idleAt = c.now
	}
	switch {
	case !serves:
		w.servedAt = -1
	case w.servedAt < 0:
		w.servedAt, w.tried = c.now, ""
		// The promotion did help: what is lost now is another loss, and waits for seconds at most.
		w.notBefore = min(w.notBefore, c.now+c.pause(min(w.failures, servedPause)))
	case c.now-w.servedAt >= c.cfg.StableAfter:
		w.failures = 0
	}
}

// of returns the newest report of node, nil if there was none.
func (w *watch) of(node string) *heard {
	for i := range w.heard {
		if w.heard[i].Node == node {
			return &w.heard[i]
		}
	}
	return nil
}

// fresh reports whether h still says something.
func (c *Coordinator) fresh(h *heard) bool { return h != nil && c.now-h.at <= c.cfg.ReportStale }

// hint notes what membership believes, and looks at once at what it may be about.
func (c *Coordinator) hint(node string, up bool, out []Action) []Action {
	if !c.leading || c.state == nil || c.state.Node(node) == nil {
		return out
	}
	c.downs = slices.DeleteFunc(c.downs, func(d string) bool { return d == node || c.state.Node(d) == nil })
	if up {
		return out
	}
	c.downs = append(c.downs, node)
	for i := range c.res {
		if c.res[i].primary.Node == node {
			out = c.judge(i, out)
		}
	}
	return out
}
