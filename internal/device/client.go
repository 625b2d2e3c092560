package device

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/replication"
)

// opening is a session of a client that the core has neither admitted nor refused yet. There is at
// most one for each connection in negotiation, so whoever accepts connections bounds them.
type opening struct {
	client replication.ClientID
	number uint64
	done   chan error // capacity 1: how it ended
}

// OpenClient opens session number of a client that says who it is, and returns what serves the one
// connection of that session, once nothing that the client's lower sessions began is under way
// (rule 15). Those are ended by it. CloseClient must follow when the connection has ended.
//
// Errors: replication.ErrOldSession when that number or a higher one is or was open, ErrNotPrimary,
// ErrFrozen, ErrTooManyClients; or that of ctx. The session is closed then.
func (d *Device) OpenClient(ctx context.Context, client replication.ClientID, number uint64) (nbd.Backend, error) {
	o := &opening{client: client, number: number, done: make(chan error, 1)}
	t := d.begin(false)
	t.lock()
	door := &door{d: d, n: d.doors, client: client, number: number}
	if d.shut || !d.core.TakesClients() {
		o.done <- replication.ErrNotPrimary
	} else {
		d.openings = append(d.openings, o)
		ev := t.event(replication.EvClient)
		ev.Client, ev.Number = client, number
		t.step()
	}
	t.unlock()
	t.finish()
	var err error
	select {
	case err = <-o.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		d.forget(o)
		d.CloseClient(client, number)
	}
	if err != nil {
		return nil, fmt.Errorf("resource %s: session %d: %w", d.cfg.Resource, number, err)
	}
	return door, nil
}

// CloseClient ends a session whose connection is closed, or is being closed: what it brought and was
// not started is dropped, and so is what it still brings.
func (d *Device) CloseClient(client replication.ClientID, number uint64) {
	// A device that is closed has no sessions left to end.
	_ = d.post(replication.EvClientGone, func(ev *replication.Event) {
		ev.Client, ev.Number = client, number
		d.settleAll(replication.ErrOldSession, func(o *opening) bool { return o.client == client && o.number == number })
	})
}

// forget takes an opening back that nobody waits for any more.
func (d *Device) forget(o *opening) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.openings = slices.DeleteFunc(d.openings, func(x *opening) bool { return x == o })
}

// settle ends the newest opening of that session, if there is one: two connections may claim the
// same number, and then it is the later one that the core refuses, at once. Caller holds mu.
func (d *Device) settle(client replication.ClientID, number uint64, err error) {
	for i := len(d.openings) - 1; i >= 0; i-- {
		if o := d.openings[i]; o.client == client && o.number == number {
			o.done <- err
			d.openings = slices.Delete(d.openings, i, i+1)
			return
		}
	}
}

// settleAll ends the openings that match with err. Caller holds mu.
func (d *Device) settleAll(err error, match func(*opening) bool) {
	d.openings = slices.DeleteFunc(d.openings, func(o *opening) bool {
		if !match(o) {
			return false
		}
		o.done <- err
		return true
	})
}

// closeClient carries out the core's wish that a client's sessions up to number end. Caller holds mu.
func (d *Device) closeClient(client replication.ClientID, upTo uint64) {
	d.settleAll(replication.ErrOldSession, func(o *opening) bool { return o.client == client && o.number <= upTo })
	d.news.closeClient(client, upTo)
}
