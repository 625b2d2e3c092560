package node

import (
	"fmt"
	"time"

	"github.com/lockstep-ha/lockstep/quorum/coordinator"
)

// silences ends sessions with nodes that are not heard any more on any link: neither the session
// brings anything, nor the ledger's own connections, which nothing but the network and the life of the
// other process holds up. Who is merely slow, a disk that takes its time, answers on the latter, and is
// left to the core's peer timeout.
//
// It belongs to one goroutine.
type silences struct {
	limit time.Duration // the least; a longer lease asks for more patience
	last  time.Duration // when it looked last
	links map[sessionOf]received
}

// sessionOf names the link of a replica to a peer.
type sessionOf struct {
	resource uint64
	peer     string
}

// received is what had come over a session, and since when nothing more did.
type received struct {
	session, bytes uint64
	since          time.Duration
}

// look ends what is silent, and reports whether something came over every session lately. A time in which nobody looked proves nothing: this process stood still, and
// what was sent meanwhile waits to be read.
func (s *silences) look(now time.Duration, workers []*worker, sinceHeard func(node string) time.Duration) (calm bool) {
	if gap := now - s.last; gap >= s.limit/2 {
		clear(s.links)
	}
	s.last, calm = now, true
	for _, w := range workers {
		rep, _ := w.open()
		rec := w.record()
		if rep == nil || rec == nil {
			continue
		}
		limit := max(s.limit, time.Duration(rec.Policy.WithDefaults().Lease))
		for _, peer := range w.prop.peers {
			key := sessionOf{w.id, peer}
			session, bytes := rep.Received(peer)
			was, known := s.links[key]
			if session == 0 || !known || was.session != session || was.bytes != bytes {
				s.links[key] = received{session, bytes, now}
				continue
			}
			calm = calm && now-was.since < 2*coordinator.ReportInterval
			if heard := sinceHeard(peer); now-was.since >= limit && (heard < 0 || heard >= limit) {
				rep.EndSession(peer, fmt.Errorf("%s is not heard on any link for %v", peer, (now-was.since).Round(time.Millisecond)))
				delete(s.links, key)
			}
		}
	}
	s.forget(workers)
	return calm
}

// forget drops what is known of resources that are here no more.
func (s *silences) forget(workers []*worker) {
	if len(s.links) <= 8*len(workers) {
		return
	}
	here := map[uint64]bool{}
	for _, w := range workers {
		here[w.id] = true
	}
	for key := range s.links {
		if !here[key.resource] {
			delete(s.links, key)
		}
	}
}
