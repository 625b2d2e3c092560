package replication

import (
	"errors"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/mark"
	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Rule 15. A client that sends a request again after it reconnected can leave a copy of it on the
// old connection, to be read after a newer write of the same block was answered (history 25). So
// such a client numbers its sessions:
//
//	open n --nothing of lower sessions is under way--> admitted --EvClientGone--> forgotten
//
// Opening n ends the connections of every lower session at once. What they brought and was not
// started is dropped; what was started is waited for. Only then may requests of n come. A request
// of any other session is dropped, whenever it comes.
//
// Nothing of this outlives the role: a connection is bound to the epoch that accepted it, and a
// new primary has drained whatever an older one began.

// maxClients bounds the clients that have a session open.
const maxClients = 1024

// client is one client that identifies itself.
type client struct {
	number   uint64 // newest session
	admitted bool
}

// Why ActRefuseClient refuses.
var (
	ErrOldSession     = errors.New("a newer session of this client is open")
	ErrTooManyClients = errors.New("too many clients")
	ErrNotPrimary     = errors.New("this replica does not serve")
	ErrFrozen         = errors.New("this primary cannot go on, and takes no clients until it can")
)

// openClient takes in that a client opens a session.
func (r *Resource) openClient(ev *Event) {
	refuse := func(why error) {
		r.emit(Action{Kind: ActRefuseClient, Client: ev.Client, Number: ev.Number, Err: why})
	}
	c := r.clients[ev.Client]
	switch {
	case r.role == roleSecondary || r.role == roleStopped:
		refuse(ErrNotPrimary)
		return
	case !r.TakesClients() && r.role == rolePrimary:
		refuse(ErrFrozen)
		return
	case c != nil && ev.Number <= c.number:
		mark.Hit("old-client-session-refused")
		refuse(ErrOldSession)
		return
	case c == nil && len(r.clients) >= maxClients:
		refuse(ErrTooManyClients)
		return
	case c == nil:
		c = &client{}
		if r.clients == nil {
			r.clients = map[ClientID]*client{}
		}
		r.clients[ev.Client] = c
	}
	c.number, c.admitted = ev.Number, false
	r.emit(Action{Kind: ActCloseClient, Client: ev.Client, Number: ev.Number - 1})
	r.dropUnstarted(ev.Client)
	if !slices.Contains(r.opening, ev.Client) {
		r.opening = append(r.opening, ev.Client)
	}
}

// dropUnstarted ends what lower sessions of the client brought and nothing was done for yet.
func (r *Resource) dropUnstarted(id ClientID) {
	if planted.On(planted.ZombieAdmitted) {
		return
	}
	for i := range r.ops {
		o := &r.ops[i]
		if r.ofLowerSession(o, id) && !o.begun() {
			mark.Hit("unstarted-request-of-old-session-dropped")
			r.discard(int32(i), true)
		}
	}
}

// ofLowerSession reports whether o is a request of client id that its newest session did not bring.
func (r *Resource) ofLowerSession(o *op, id ClientID) bool {
	return (o.kind == opRead || o.kind == opWrite || o.kind == opFlush) && o.client == id && o.number < r.clients[id].number
}

// begun reports whether something may have been done for o that others can see.
func (o *op) begun() bool {
	return o.state == opStarted || o.state == opHealing || o.state == opLeasing || o.state == opOrphan
}

// advanceClients admits the sessions that wait for nothing any more.
func (r *Resource) advanceClients() {
	if len(r.opening) == 0 {
		return
	}
	r.opening = slices.DeleteFunc(r.opening, func(id ClientID) bool {
		c := r.clients[id]
		if c == nil {
			return true
		}
		for i := range r.ops {
			if r.ofLowerSession(&r.ops[i], id) && !planted.On(planted.ResendNotHeld) {
				mark.Hit("client-session-waits")
				return false
			}
		}
		c.admitted = true
		r.emit(Action{Kind: ActAdmitClient, Client: id, Number: c.number})
		return true
	})
}

// clientAdmitted reports whether request o may come now.
func (r *Resource) clientAdmitted(o *op) bool {
	if o.client == 0 || planted.On(planted.ZombieAdmitted) {
		return true
	}
	c := r.clients[o.client]
	return c != nil && c.admitted && c.number == o.number
}

// closeClient forgets a client whose newest session is closed.
func (r *Resource) closeClient(ev *Event) {
	c := r.clients[ev.Client]
	if c == nil || c.number != ev.Number {
		return
	}
	c.number++ // so that what it still has under way belongs to a lower session
	r.dropUnstarted(ev.Client)
	delete(r.clients, ev.Client)
	r.opening = slices.DeleteFunc(r.opening, func(id ClientID) bool { return id == ev.Client })
}
