package node

import (
	"context"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
)

// lingerTimeout bounds linger. A Drop is proposed DropGrace, 100 ms, after the session ended, and a
// promotion before it takes as long again.
const lingerTimeout = time.Second

// linger keeps the ledger of a node that stops running until the others have drawn their conclusions: it is
// dropped, and a resource that it gave up has another primary. Where the others are a majority without it
// they need nobody's help. But of two voters neither decides anything alone, so a primary whose peer took its
// vote along before the Drop was applied would stand still until the peer is back.
//
// The replicas here are closed, so nobody counts on this node for anything but its vote.
func (d *daemon) linger(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lingerTimeout)
	defer cancel()
	for {
		st, changed := d.m.watch()
		if st == nil || !d.awaited(st) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			d.log.Warn("stopped before the others have done without this node; a primary among them may stand still until it is back")
			return
		}
	}
}

// awaited reports whether somebody who stays needs the vote of this node, and may be using it.
func (d *daemon) awaited(st *quorum.State) bool {
	self := d.cfg.Name
	voters, linked := 0, 0
	for _, v := range d.ledger.Status().Voters {
		voters++
		if v.Node != self && v.LinkUp && !d.fail.leaves.left(st, v.Node) {
			linked++
		}
	}
	if linked > voters/2 || linked+1 <= voters/2 { // a majority without this node, or none with it
		return false
	}
	for i := range st.Resources {
		if r := &st.Resources[i]; !r.Deleted && relies(r, self) && d.othersStay(st, r) {
			return true
		}
	}
	return false
}

// relies reports whether node, which has closed its replica, is still in the way of whoever serves r next.
func relies(r *quorum.Resource, node string) bool {
	p := r.Replica(node)
	in := p != nil && p.InSet
	switch r.Primary.Node {
	case "": // given up, and somebody may be promoted
		return in && r.Policy.WithDefaults().Failover == quorum.FailoverAuto && !r.Paused && !r.Hold
	case node: // it could not be given up
		return false
	default:
		return in
	}
}

// othersStay reports whether another member of r's in-sync set is there and is not stopping, too.
func (d *daemon) othersStay(st *quorum.State, r *quorum.Resource) bool {
	for i := range r.Replicas {
		n := r.Replicas[i].Node
		if heard := d.ledger.SinceHeard(n); n != d.cfg.Name && r.Replicas[i].InSet && heard >= 0 && heard < lingerTimeout && !d.fail.leaves.left(st, n) {
			return true
		}
	}
	return false
}
