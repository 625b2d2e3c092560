package node

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/health"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// checks is what the health listener of this node asks.
type checks struct {
	m      *manager
	addr   func(node string) string // where other nodes reach it, "" if it is in no file
	own    func() control.NBD       // where this node listens
	places *places
}

func newChecks(m *manager, a asker, addr func(node string) string, own func() control.NBD) *checks {
	return &checks{m: m, addr: addr, own: own, places: newPlaces(a)}
}

var _ health.Backend = (*checks)(nil)

// Look says what is known here. It asks nobody: a check that waits for a primary that is gone would
// hide that its successor is here.
func (c *checks) Look(resource string) (health.State, bool) {
	state, _ := c.m.watch()
	if state == nil {
		return health.State{}, false
	}
	rec := state.Find(resource)
	if rec == nil || rec.Deleted {
		return health.State{}, false
	}
	self := c.m.self.Node
	st := health.State{Resource: resource, Node: self, Role: health.RoleNone, Primary: rec.Primary.Node, DiskState: replication.Diskless.String()}
	st.Reason = c.elsewhere(&st, rec)
	if w := c.m.find(resource); w != nil && w.id == rec.ID {
		st.Role = health.RoleSecondary
		if rep, f := w.open(); rep != nil {
			c.here(&st, rep.Fitness())
		} else {
			// Its reason may hold paths; operators find it in the status.
			st.DiskState = f.state.String()
		}
	}
	return st, true
}

// elsewhere says why this node is not the one to connect to, before its replica has been looked at,
// and where clients reach the one that is.
func (c *checks) elsewhere(st *health.State, rec *quorum.Resource) string {
	self := c.m.self.Node
	switch primary := rec.Primary.Node; primary {
	case "":
		return "nobody is primary of " + rec.Name
	case self:
		st.NBD = tcpURI(rec.Name, c.own(), c.addr(self))
		return fmt.Sprintf("%s is recorded as primary of %s and does not serve", self, rec.Name)
	default:
		st.NBD = tcpURI(rec.Name, c.places.of(rec), c.addr(primary))
		return fmt.Sprintf("%s is primary of %s", primary, rec.Name)
	}
}

// here adds what the replica of this node says of itself. Anybody may ask as often as he likes, so it
// is what the core says without allocating.
func (c *checks) here(st *health.State, own replication.Fitness) {
	st.DiskState, st.InSync = own.State.String(), own.SelfInSet
	st.UpToDate = own.State == replication.UpToDate && !own.Unclean && !own.Failed
	if own.Failed {
		st.DiskState = replication.Failed.String()
	}
	switch {
	case own.Serving:
		// A primary whose disk has failed and that finds no successor answers only errors.
		st.Role, st.Serves, st.Reason = health.RolePrimary, !own.Failed, ""
		if own.Failed {
			st.Reason = "the disk of this primary has failed"
		}
	case own.Starting:
		st.Reason = st.Node + " is becoming primary of " + st.Resource
	case own.Stopping:
		st.Reason = st.Node + " is giving up the role of the primary of " + st.Resource
	}
}

// LeaseHeld asks the core itself, anew for each answer (rule 4).
func (c *checks) LeaseHeld(resource string) bool {
	w := c.m.find(resource)
	if w == nil {
		return false
	}
	rep, _ := w.open()
	return rep != nil && rep.LeaseHeld()
}

// tcpURI is where clients elsewhere connect for a resource: see tcpAddr.
func tcpURI(resource string, n control.NBD, peer string) string {
	addr := tcpAddr(n.TCP, peer)
	if addr == "" {
		return ""
	}
	return uri(resource, control.NBD{TCP: addr, TLS: n.TLS})
}

// tcpAddr is where clients elsewhere connect: addr as its node listens on it, peer where that node's
// file says that the others reach it. It is "" where clients elsewhere reach nothing.
func tcpAddr(addr, peer string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	of, _, err := net.SplitHostPort(peer)
	if err != nil {
		return ""
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil: // a name
	case ip.IsUnspecified():
		host = of // all addresses of the node, that one too
	case ip.IsLoopback() && !loopback(of):
		return ""
	}
	return net.JoinHostPort(host, port)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// placeAge is how old an answer may be before it is asked for again.
const placeAge = 2 * time.Second

// places remembers where primaries take clients. It is asked for with every check, by anybody, so no
// question to another node is begun more often than every placeAge for a resource, and one at a time.
type places struct {
	ask   asker
	wants chan want // capacity wantsLen; a want that finds it full is forgotten: the next check brings it again

	mu    sync.Mutex
	known map[uint64]place // by resource
}

const (
	wantsLen  = 16   // questions that wait
	maxPlaces = 1024 // remembered; beyond, all of them are asked for again
)

// want is a question to be asked.
type want struct {
	resource string
	id       uint64
	primary  string
}

type place struct {
	primary string
	nbd     control.NBD // empty while it is not known
	asked   time.Time   // when a question about it was queued
}

func newPlaces(a asker) *places {
	return &places{ask: a, wants: make(chan want, wantsLen), known: map[uint64]place{}}
}

// of returns where rec's primary, another node, listens for clients; nowhere while it is not known.
func (p *places) of(rec *quorum.Resource) control.NBD {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[rec.ID]
	if k.primary != rec.Primary.Node {
		k = place{primary: rec.Primary.Node}
	}
	if now := time.Now(); k.asked.IsZero() || now.Sub(k.asked) >= placeAge {
		select {
		case p.wants <- want{rec.Name, rec.ID, k.primary}:
			k.asked = now
		default:
		}
	}
	if len(p.known) >= maxPlaces {
		clear(p.known) // most are of resources that are gone
	}
	p.known[rec.ID] = k
	return k.nbd
}

// run asks until ctx ends.
func (p *places) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-p.wants:
			p.fetch(ctx, w)
		}
	}
}

// fetch asks the primary for its address. One that does not answer keeps the address it had.
func (p *places) fetch(ctx context.Context, w want) {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	a, err := p.ask.ask(ctx, w.primary, question{Op: "view", Resource: w.resource, ID: w.id})
	if err != nil || a.View == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[w.id]; k.primary == w.primary {
		k.nbd = a.View.Resource.NBD
		p.known[w.id] = k
	}
}

// serveHealth answers checks on ln until ctx ends.
func (d *daemon) serveHealth(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() { d.checks.places.run(ctx) })
	defer asking.Wait()
	defer cancel()
	return health.NewServer(health.Config{Node: d.cfg.Name, Logger: d.log}, d.checks).Serve(ctx, ln)
}
