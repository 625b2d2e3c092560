package attach

import (
	"context"
	"time"
)

// watchSize looks at the export's size until ctx ends, and ends the session when it has changed: a
// connection keeps the size that it began with, so it takes a new one to use what a resize added.
func (r *Relay) watchSize(ctx context.Context, s *session) {
	tick := time.NewTicker(r.cfg.LookEvery)
	defer tick.Stop()
	var look *upstream
	defer func() {
		if look != nil {
			look.abort()
		}
	}()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if look == nil {
			look = r.lookAt(ctx, s)
			continue
		}
		if err := look.enter(ctx, r.cfg.Who.Resource, true); err != nil {
			// The time for a negotiation is bounded; whatever else it is, the session itself tells.
			look.close()
			look = r.lookAt(ctx, s)
		}
		if look != nil && look.info.size != s.u.info.size {
			s.end(errGrown)
			return
		}
	}
}

// lookAt connects to the session's server to ask about the export, nil if that does not work. Nothing is
// opened: ATTACH alone begins no session, GO would.
func (r *Relay) lookAt(ctx context.Context, s *session) *upstream {
	u, err := connect(ctx, s.u.server, r.cfg.TLS)
	if err != nil {
		return nil
	}
	who := r.cfg.Who
	who.Session, who.Resume = s.u.session, true
	if err = u.attachTo(ctx, who); err == nil {
		err = u.enter(ctx, who.Resource, true)
	}
	if err != nil {
		u.close()
		return nil
	}
	return u
}

// watchSilence asks the other servers when the session's own has requests and says nothing, until ctx
// ends. One that admits a session is the primary: it gets everything.
func (r *Relay) watchSilence(ctx context.Context, s *session) {
	tick := time.NewTicker(max(r.cfg.Stall/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !r.silent(s) {
			continue
		}
		u := r.rival(ctx, s)
		if u == nil {
			continue
		}
		r.mu.Lock()
		r.next = u
		r.mu.Unlock()
		s.end(errMoved)
		return
	}
}

// silent reports whether the session's server has owed an answer for too long.
func (r *Relay) silent(s *session) bool {
	r.mu.Lock()
	owes := r.table.n > 0
	r.mu.Unlock()
	return owes && time.Duration(sinceEpoch()-s.heard.Load()) >= r.cfg.Stall
}

// rival looks for a session at another node for a moment; nil if there is none. The node that has the
// session is left alone: while it is primary the others refuse, and it is merely slow.
func (r *Relay) rival(ctx context.Context, s *session) *upstream {
	if list := r.known(); len(list) == 1 && list[0] == s.u.server && r.cfg.Discover == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(r.cfg.Stall, time.Second))
	defer cancel()
	u, err := r.seek(ctx, wish{resume: true, rivalOf: s.u})
	if err != nil {
		return nil // a refusal for good comes again when the session is lost
	}
	return u
}
