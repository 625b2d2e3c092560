package device

import (
	"context"
	"fmt"

	"github.com/lockstep-ha/lockstep/replication"
	"github.com/lockstep-ha/lockstep/replication/peer"
)

// Status is a snapshot for people and metrics.
type Status struct {
	replication.Status
	DiskError      string           // why the backing device is not used any more; "" while it is
	Links          []peer.LinkStats // in the order of Config.Peers
	LostNotices    uint64           // that a slow listener missed
	OpenOperations int              // requests' pieces and frames whose payload is held
}

// post gives the core one event from outside. fill sets what belongs to it besides Kind and Now.
func (d *Device) post(kind replication.EventKind, fill func(*replication.Event)) error {
	t := d.begin(false)
	t.lock()
	if d.shut {
		d.mu.Unlock()
		t.finish()
		return fmt.Errorf("resource %s: %w", d.cfg.Resource, ErrClosed)
	}
	ev := t.event(kind)
	if fill != nil {
		fill(ev)
	}
	t.step()
	d.announce()
	t.unlock()
	t.finish()
	return nil
}

// SetRecord tells the newest record of the ledger; older ones are ignored. A record with a larger
// size comes after GrowBacking. The device keeps rec.
func (d *Device) SetRecord(rec *replication.Record) error {
	return d.post(replication.EvLedger, func(ev *replication.Event) {
		d.noteRecord(rec)
		ev.Record = rec
	})
}

// noteRecord remembers rec if it is the newest. Caller holds mu.
func (d *Device) noteRecord(rec *replication.Record) {
	if d.rec == nil || rec.Version > d.rec.Version {
		d.rec = rec
	}
}

// Stop ends serving for good in this epoch, lets what was started be finished and answered, and
// waits until the ledger has taken the role back, or ctx ends. failed says that the disk is why.
// Without the role it returns at once.
func (d *Device) Stop(ctx context.Context, failed bool) error {
	err := d.post(replication.EvStop, func(ev *replication.Event) { ev.Failed = failed })
	if err != nil {
		return err
	}
	return d.await(ctx, func(st *replication.Status, rec *replication.Record) (bool, error) {
		return st.Role == roleSecondary && (rec == nil || !rec.PrimaryIsMe), nil
	})
}

// roleSecondary is Status.Role of a replica that has no role to lose.
const roleSecondary = "Secondary"

// WaitPrimary waits until this replica serves in epoch. It returns ErrEpochPassed when a later
// epoch has begun, ErrClosed when the device is closed, or the error of ctx.
func (d *Device) WaitPrimary(ctx context.Context, epoch uint64) error {
	return d.await(ctx, func(st *replication.Status, _ *replication.Record) (bool, error) {
		if st.Epoch > epoch {
			return false, fmt.Errorf("resource %s: epoch %d: %w", d.cfg.Resource, epoch, ErrEpochPassed)
		}
		return st.Serving && st.Epoch == epoch, nil
	})
}

// await waits until done says true or fails. It looks at every change that announce tells of.
func (d *Device) await(ctx context.Context, done func(*replication.Status, *replication.Record) (bool, error)) error {
	for {
		d.mu.Lock()
		st := d.core.Status(d.clock())
		shut, changed, rec := d.shut, d.changed, d.rec
		d.waiting++
		d.mu.Unlock()
		ok, err := done(&st, rec)
		if err == nil && !ok {
			if shut {
				err = fmt.Errorf("resource %s: %w", d.cfg.Resource, ErrClosed)
			} else {
				select {
				case <-changed:
				case <-ctx.Done():
					err = context.Cause(ctx)
				}
			}
		}
		d.mu.Lock()
		d.waiting--
		d.mu.Unlock()
		if ok || err != nil {
			return err
		}
	}
}

// announce makes those in await look again. Caller holds mu.
func (d *Device) announce() {
	if d.waiting > 0 {
		close(d.changed)
		d.changed = make(chan struct{})
	}
}

// PauseResync holds resync to every peer.
func (d *Device) PauseResync() error { return d.post(replication.EvPause, nil) }

// ResumeResync ends PauseResync.
func (d *Device) ResumeResync() error { return d.post(replication.EvResume, nil) }

// Verify starts a comparison with the replica on node; Status shows how it goes. repair copies
// what differs, from here.
func (d *Device) Verify(node string, repair bool) error {
	return d.postPeer(replication.EvVerify, node, repair)
}

// Invalidate, on the primary, has the replica on node dropped and copied in full.
func (d *Device) Invalidate(node string) error {
	return d.postPeer(replication.EvInvalidate, node, false)
}

// Discard gives this replica's data and history up, for a primary to copy it in full: the end of
// a divergence. A member of the in-sync set refuses, and says so with a notice.
func (d *Device) Discard() error {
	return d.post(replication.EvDiscard, func(*replication.Event) {})
}

// MayGoAlone returns nil if this replica may go on without the one on node, which is down for
// certain, in a pair without a witness; else why not.
func (d *Device) MayGoAlone(node string) error {
	l, err := d.linkTo(node)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return fmt.Errorf("resource %s: %w", d.cfg.Resource, ErrClosed)
	}
	return d.core.MayGoAlone(l.p)
}

func (d *Device) postPeer(kind replication.EventKind, node string, repair bool) error {
	l, err := d.linkTo(node)
	if err != nil {
		return err
	}
	return d.post(kind, func(ev *replication.Event) { ev.Peer, ev.Repair = l.p, repair })
}

// SetConnected lets the session with node be, or ends it until it is set again: an operator's
// connect and disconnect.
func (d *Device) SetConnected(node string, on bool) error {
	l, err := d.linkTo(node)
	if err != nil {
		return err
	}
	l.link.SetEnabled(on)
	return nil
}

// Received returns the id of the session with node, 0 if there is none, and the bytes that it brought.
func (d *Device) Received(node string) (session, bytes uint64) {
	if l, err := d.linkTo(node); err == nil {
		if s := l.live.Load(); s != nil {
			return s.ID(), s.Stats().BytesIn
		}
	}
	return 0, 0
}

// EndSession ends the session with node, if there is one, for the reason err. The link tries again.
func (d *Device) EndSession(node string, err error) {
	if l, bad := d.linkTo(node); bad == nil {
		if s := l.live.Load(); s != nil {
			s.Close(err)
		}
	}
}

// Link returns the link to node, for the acceptor of incoming connections.
func (d *Device) Link(node string) (*peer.Link, error) {
	l, err := d.linkTo(node)
	if err != nil {
		return nil, err
	}
	return l.link, nil
}

func (d *Device) linkTo(node string) (*link, error) {
	for _, l := range d.links { // set before the Device is handed out, not changed since
		if l.node == node {
			return l, nil
		}
	}
	return nil, fmt.Errorf("resource %s: node %q: %w", d.cfg.Resource, node, ErrUnknownPeer)
}

// GrowBacking makes the backing device size bytes large, with zeros in the new part, before a
// record of that size is set. A size that it has already, or had, is left as it is.
func (d *Device) GrowBacking(size int64) error {
	if err := d.store.Resize(size); err != nil {
		return fmt.Errorf("resource %s: grow to %d bytes: %w", d.cfg.Resource, size, err)
	}
	return nil
}

// Serving reports whether this replica is primary and admits requests, if perhaps to let them wait.
func (d *Device) Serving() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.shut && d.core.Serving()
}

// LeaseHeld reports whether this replica is primary and inside its lease at this moment (rule 4). The
// core notices that time has passed only when it is called, and admits requests as Serving says all the
// same, to hold them: so the clock is read here, with the mutex held.
func (d *Device) LeaseHeld() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.shut && d.core.LeaseHeldAt(d.clock())
}

// Fitness returns what this replica says of itself to whoever decides about promotions.
func (d *Device) Fitness() replication.Fitness {
	d.mu.Lock()
	f := d.core.Fitness(d.clock())
	d.mu.Unlock()
	f.Failed = f.Failed || d.diskError() != nil
	return f
}

// Status returns a snapshot.
func (d *Device) Status() Status {
	d.mu.Lock()
	st := Status{Status: d.core.Status(d.clock()), OpenOperations: d.used}
	d.mu.Unlock()
	st.LostNotices = d.news.forgotten()
	if err := d.diskError(); err != nil {
		st.DiskError = err.Error()
	}
	for _, l := range d.links {
		st.Links = append(st.Links, l.link.Stats())
	}
	return st
}
