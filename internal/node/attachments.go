package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// attachWithin bounds what a client that attaches or detaches waits for the ledger.
const attachWithin = 10 * time.Second

// exclusiveClient is the client that all exclusive attachments of a resource are to the core, one
// after the other: so the first session of a holder is a higher one than any of the holder before
// it, and is admitted when nothing that one began is under way. A shared attachment is a client of
// its own, with a number above it.
const exclusiveClient = replication.ClientID(1)

// A session's number for the core: of an exclusive one, its attachment's number comes first. The
// bounds of both halves leave no room for a mix-up.
const sessionBits = 40

// claim is a connection's share in an attachment.
type claim struct {
	e       *exports
	name    string // of the resource
	id      uint64 // of the resource: a namesake is another one
	number  uint64 // of the attachment
	shared  bool
	session uint64 // as the holder counts
}

// Number is that of the attachment.
func (c *claim) Number() uint64 { return c.number }

// client returns who this is to the core, and with which session.
func (c *claim) client() (replication.ClientID, uint64) {
	if c.shared {
		return exclusiveClient + replication.ClientID(c.number), c.session
	}
	return exclusiveClient, c.number<<sessionBits | c.session
}

// standing is what this node knows of one resource's attachments, and has acted on.
type standing struct {
	name    string
	version uint64 // of the record
	list    []quorum.Attachment
}

// doorkeeper is what exports needs of the NBD server.
type doorkeeper interface {
	CloseConns(name, reason string, plain bool, match func(nbd.Attached) bool) int
	Attached(name string) []nbd.Attached
}

// watched remembers what was acted on, so that connections are looked at only when it changes.
type watched struct {
	mu   sync.Mutex
	seen map[uint64]standing // by resource id
}

// Attach registers a client here, where the resource is served, or finds it registered.
func (e *exports) Attach(ctx context.Context, a nbd.Attach) (nbd.Attached, error) {
	w, _, rec, err := e.leading(ctx, a.Resource)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attachWithin)
	defer cancel()
	at := rec.Keyed(hex.EncodeToString(a.Key[:]))
	switch {
	case a.Resume && !resumes(at, a):
		at, err = e.stillRegistered(ctx, w, a)
	case !a.Resume && !repeats(at, a):
		at, err = e.register(ctx, w, rec, a)
	}
	if err != nil {
		return nil, err
	}
	return &claim{e: e, name: w.name, id: w.id, number: at.Number, shared: at.Shared, session: a.Session}, nil
}

// resumes reports whether at is what a was registered as.
func resumes(at *quorum.Attachment, a nbd.Attach) bool {
	return at != nil && at.Boot == a.Boot && at.Shared == a.Shared
}

// repeats reports whether at is what a asks for.
func repeats(at *quorum.Attachment, a nbd.Attach) bool {
	return resumes(at, a) && at.Holder == a.Holder && at.Device == a.Device
}

// stillRegistered looks for the attachment in everything that was committed before the call: this
// node's copy alone may lag behind, and who hears that it was superseded gives up for good.
func (e *exports) stillRegistered(ctx context.Context, w *worker, a nbd.Attach) (*quorum.Attachment, error) {
	rec, err := e.committed(ctx, w)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		if at := rec.Keyed(hex.EncodeToString(a.Key[:])); resumes(at, a) {
			return at, nil
		}
	}
	return nil, &nbd.ErrNotServed{Kind: nbd.NotServedSuperseded,
		Reason: fmt.Sprintf("the attachment of %s to %s on %s is not registered any more: it was ended by an operator, or replaced", a.Resource, a.Device, a.Holder)}
}

// committed returns the record after everything that was committed before the call, nil if it is gone.
func (e *exports) committed(ctx context.Context, w *worker) (*quorum.Resource, error) {
	if err := e.m.ledger.Barrier(ctx); err != nil {
		return nil, shutdownf("the ledger has no majority, so %s cannot say who is attached to %s: %v", e.m.self.Node, w.name, err)
	}
	rec := e.m.ledger.State().Find(w.name)
	if rec == nil || rec.ID != w.id || rec.Deleted {
		return nil, nil
	}
	return w.prop.note(rec), nil
}

// register has the ledger record a new attachment.
func (e *exports) register(ctx context.Context, w *worker, rec *quorum.Resource, a nbd.Attach) (*quorum.Attachment, error) {
	if n := e.plain(w.name); n > 0 && !a.Shared {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy,
			Reason: fmt.Sprintf("%s has %d other clients, who are not attached; disconnect them, or attach it as shared", w.name, n)}
	}
	key, self := hex.EncodeToString(a.Key[:]), w.prop.incumbent()
	over := func(r *quorum.Resource) bool { return r.ID != w.id || r.Deleted || repeats(r.Keyed(key), a) }
	res, err := decide(ctx, e.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if over(r) {
			return nil
		}
		c := quorum.On(r)
		c.Attach = &quorum.Attach{Incumbent: self, Key: key, Holder: a.Holder, Device: a.Device, Boot: a.Boot, Shared: a.Shared}
		return &c
	}, over)
	if err != nil {
		return nil, shutdownf("%v", err)
	}
	switch res.Code {
	case quorum.Applied:
	case quorum.CodeInUse, quorum.CodeExists, quorum.CodeInvalid:
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: res.Reason}
	default:
		return nil, shutdownf("%s", res.Reason)
	}
	at := res.Resource.Keyed(key)
	if at == nil {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedUnknown, Reason: fmt.Sprintf("resource %q is being deleted", w.name)}
	}
	w.prop.note(res.Resource)
	e.enforce(res.Resource)
	w.log.Info("attached", "attachment", at.Number, "holder", at.Holder, "device", at.Device, "shared", at.Shared)
	e.m.journal.add(w.name, "attached", fmt.Sprintf("Attached to %s on %s.", at.Device, at.Holder), "attachment", itoa(at.Number))
	return at, nil
}

// Detach ends the attachment with key. One that is not there has ended.
func (e *exports) Detach(ctx context.Context, resource string, key nbd.Key) error {
	w, _, rec, err := e.leading(ctx, resource)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachWithin)
	defer cancel()
	text := hex.EncodeToString(key[:])
	if rec.Keyed(text) == nil {
		if rec, err = e.committed(ctx, w); err != nil || rec == nil {
			return err
		}
	}
	err = e.m.endAttachment(ctx, rec, func(r *quorum.Resource) *quorum.Detach {
		if at := r.Keyed(text); at != nil {
			return &quorum.Detach{Number: at.Number, Key: text}
		}
		return nil
	})
	if err != nil {
		return shutdownf("%v", err)
	}
	return nil
}

// endAttachment has the ledger do what build says, until it says that nothing is left to do.
func (m *manager) endAttachment(ctx context.Context, rec *quorum.Resource, build func(*quorum.Resource) *quorum.Detach) error {
	id := rec.ID
	ended := uint64(0)
	over := func(r *quorum.Resource) bool { return r.ID != id || r.Deleted || build(r) == nil }
	res, err := decide(ctx, m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if over(r) {
			return nil
		}
		c := quorum.On(r)
		c.Detach = build(r)
		ended = c.Detach.Number
		return &c
	}, over)
	if err == nil {
		err = refusal(res)
	}
	if err != nil {
		return err
	}
	if ended != 0 {
		if w := m.find(rec.Name); w != nil && w.id == id {
			w.prop.note(res.Resource)
		}
		m.onAttachments(res.Resource)
		m.journal.add(rec.Name, "detached", fmt.Sprintf("Attachment %d has ended.", ended), "attachment", itoa(ended))
	}
	return nil
}

// Lookup returns the export for a holder that only wants to know of it.
func (c *claim) Lookup(ctx context.Context) (*nbd.Export, error) {
	w, rep, rec, err := c.e.leading(ctx, c.name)
	if err == nil {
		err = c.valid(w, rec)
	}
	if err != nil {
		return nil, err
	}
	b, ok := rep.Backend()
	if !ok {
		return nil, c.e.notServing(rep, c.name)
	}
	return c.e.export(c.name, rep, b), nil
}

// valid refuses a claim to an attachment that has ended since.
func (c *claim) valid(w *worker, rec *quorum.Resource) error {
	switch {
	case w.id == c.id && rec.Attachment(c.number) != nil:
		return nil
	case w.id == c.id && c.number > rec.LastAttachment:
		return shutdownf("%s has yet to hear of attachment %d of %s", c.e.m.self.Node, c.number, c.name)
	}
	return &nbd.ErrNotServed{Kind: nbd.NotServedSuperseded, Reason: fmt.Sprintf("attachment %d of %s has ended", c.number, c.name)}
}

// Open begins the session. The connection is bound already, so that enforce finds it: what is valid
// here and ends a moment later is closed.
func (c *claim) Open(ctx context.Context) (*nbd.Export, error) {
	w, rep, rec, err := c.e.leading(ctx, c.name)
	if err == nil {
		err = c.valid(w, rec)
	}
	if err != nil {
		return nil, err
	}
	if n := c.e.plain(c.name); n > 0 && !c.shared {
		// They slipped in while the attachment was recorded, and what they brought may be under way.
		return nil, shutdownf("%d earlier clients of %s are being closed", n, c.name)
	}
	client, number := c.client()
	b, err := rep.OpenClient(ctx, client, number)
	if err != nil {
		return nil, shutdownf("%s does not open the session now: %v", c.e.m.self.Node, err)
	}
	exp := c.e.export(c.name, rep, b)
	exp.Gone = func() { rep.CloseClient(client, number) }
	return exp, nil
}

// plain counts the connections whose clients did not say who they are; one whose requests have not
// all ended counts, too.
func (e *exports) plain(name string) (n int) {
	for _, a := range e.srv.Attached(name) {
		if a == nil {
			n++
		}
	}
	return n
}

// connected tells which attachments of a resource have a connection here.
func (e *exports) connected(name string) map[uint64]bool {
	out := map[uint64]bool{}
	for _, a := range e.srv.Attached(name) {
		if a != nil {
			out[a.Number()] = true
		}
	}
	return out
}

// applied takes an applied state in.
func (e *exports) applied(st *quorum.State) {
	for i := range st.Resources {
		e.enforce(&st.Resources[i])
	}
	e.watched.mu.Lock()
	defer e.watched.mu.Unlock()
	for id, s := range e.watched.seen {
		if r := st.Find(s.name); r == nil || r.ID != id {
			delete(e.watched.seen, id)
		}
	}
}

// changed reports whether rec says something new of the attachments, and remembers it.
func (s *watched) changed(rec *quorum.Resource) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.seen[rec.ID]
	if known && rec.Version <= old.version || !known && rec.LastAttachment == 0 {
		return false
	}
	if s.seen == nil {
		s.seen = map[uint64]standing{}
	}
	s.seen[rec.ID] = standing{rec.Name, rec.Version, rec.Attachments}
	return !slices.Equal(old.list, rec.Attachments)
}

// enforce ends the connections that the attachments of rec leave no room for: of those that have
// ended, and, beside an exclusive one, of everybody who is not attached. What they brought and was
// not started is dropped (rule 15). It may be called with any record at any time.
func (e *exports) enforce(rec *quorum.Resource) {
	if !e.watched.changed(rec) {
		return
	}
	var ended []*claim
	alone := rec.Exclusive() != nil
	e.srv.CloseConns(rec.Name, "its attachments have changed", alone, func(a nbd.Attached) bool {
		c, ok := a.(*claim)
		switch {
		case !ok:
			return alone
		case c.id == rec.ID && (c.number > rec.LastAttachment || rec.Attachment(c.number) != nil):
			return false
		}
		ended = append(ended, c)
		return true
	})
	w := e.m.find(rec.Name)
	if w == nil || len(ended) == 0 {
		return
	}
	if rep, _ := w.open(); rep != nil {
		for _, c := range ended { // their connections tell so, too, but only when their last request has ended
			rep.CloseClient(c.client())
		}
	}
}

// closeSessions ends connections as the core wishes.
func (e *exports) closeSessions(resource string, client replication.ClientID, upTo uint64) {
	e.srv.CloseConns(resource, "the client has opened a newer session", false, func(a nbd.Attached) bool {
		c, ok := a.(*claim)
		if !ok {
			return false
		}
		who, number := c.client()
		return who == client && number <= upTo
	})
}

// shutdownf is a refusal that asks the client to come again, or elsewhere.
func shutdownf(format string, args ...any) error {
	return &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: fmt.Sprintf(format, args...)}
}

// elsewhereLater makes a refusal for good of a lookup one that has an attached client come again:
// the primary moves.
func elsewhereLater(err error) error {
	var refused *nbd.ErrNotServed
	if errors.As(err, &refused) && refused.Kind == nbd.NotServedPolicy {
		return &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: refused.Reason}
	}
	return err
}

// DropAttachment ends an attachment by an operator's word, wherever its holder is.
func (b *backend) DropAttachment(ctx context.Context, resource string, number uint64) error {
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return err
	}
	if rec.Attachment(number) == nil {
		return control.Errorf(control.CodeNotFound, "%s has no attachment %d", resource, number).
			WithHint("lockstep attachments %s", resource).WithSafety(control.SafetyYes)
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	return b.m.endAttachment(ctx, rec, func(r *quorum.Resource) *quorum.Detach {
		if r.Attachment(number) == nil {
			return nil
		}
		return &quorum.Detach{Number: number, Force: true}
	})
}

// attachmentsOf shows who is attached to rec; connected tells who has a connection here.
func attachmentsOf(rec *quorum.Resource, connected map[uint64]bool) []control.Attachment {
	out := []control.Attachment{}
	for _, a := range rec.Attachments {
		out = append(out, control.Attachment{Number: a.Number, Holder: a.Holder, Device: a.Device, Boot: a.Boot,
			Shared: a.Shared, Connected: connected[a.Number]})
	}
	return out
}
