package peer

import (
	"sync/atomic"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// counters is what a session counts. All only rise.
type counters struct {
	framesIn, framesOut   atomic.Uint64
	bytesIn, bytesOut     atomic.Uint64 // as they travel
	payloadIn, payloadOut atomic.Uint64 // bytes of data, uncompressed
	refused               [len(refusals{})]atomic.Uint64
}

// refusals has one counter for each of wire.Reasons.
type refusals [8]uint64

// refuse counts err under its reason and reports whether it is a refused frame at all.
func (c *counters) refuse(err error) bool {
	word := wire.Reason(err)
	for i, r := range wire.Reasons() {
		if word == r {
			c.refused[i].Add(1)
			return true
		}
	}
	return false
}

// Counters are what one session, or all sessions of a link together, have moved.
type Counters struct {
	FramesIn, FramesOut   uint64
	BytesIn, BytesOut     uint64 // as they travelled, headers included
	PayloadIn, PayloadOut uint64 // bytes of data, before compression
	refused               refusals
}

func (c *counters) load() Counters {
	out := Counters{
		FramesIn: c.framesIn.Load(), FramesOut: c.framesOut.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		PayloadIn: c.payloadIn.Load(), PayloadOut: c.payloadOut.Load(),
	}
	for i := range out.refused {
		out.refused[i] = c.refused[i].Load()
	}
	return out
}

func (c *Counters) add(o Counters) {
	c.FramesIn += o.FramesIn
	c.FramesOut += o.FramesOut
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.PayloadIn += o.PayloadIn
	c.PayloadOut += o.PayloadOut
	for i, n := range o.refused {
		c.refused[i] += n
	}
}

// Refused returns how many frames from the peer were refused, by wire.Reasons. Each of them
// ended a session.
func (c Counters) Refused() map[string]uint64 {
	m := make(map[string]uint64, len(c.refused))
	for i, r := range wire.Reasons() {
		m[r] = c.refused[i]
	}
	return m
}

// ChecksumFailures returns how many headers and payloads arrived other than they were sent.
func (c Counters) ChecksumFailures() uint64 { return c.Refused()["checksum"] }

// Stats returns what s has moved so far.
func (s *Session) Stats() Counters { return s.count.load() }

// State tells what a link is doing.
//
//	          SetEnabled(true)          dialed, or accepted          accepted both ways
//	Disabled ------------------> Waiting -----------> Handshake ------------------------> Up
//	    ^                          ^  ^      |            | refused, failed               |
//	    |                          |  +------+ dial failed|                               |
//	    |                          +----------------------+-------------------------------+
//	    +---- SetEnabled(false), from every state                        session ended
type State uint8

const (
	Disabled  State = iota // disconnected by the operator
	Waiting                // for the peer's connection, for the next attempt, or dialing
	Handshake              // connected, not yet agreed
	Up                     // a session is open
)

func (s State) String() string {
	switch s {
	case Disabled:
		return "disabled"
	case Waiting:
		return "waiting"
	case Handshake:
		return "handshake"
	case Up:
		return "up"
	}
	return "unknown"
}

// LinkStats describes a link at one moment.
type LinkStats struct {
	State       State
	Since       time.Time // when State began
	Dials       bool      // this node dials the peer; otherwise it waits for the peer
	Sessions    uint64    // sessions that came up so far
	Failures    uint64    // attempts that did not end in a session
	LastError   string    // why the last session or attempt ended; "" at first
	Session     uint64    // id of the session that is up, or 0
	Protocol    uint16    // of the session that is up, or 0
	Compression wire.Compression
	Queued      int      // bytes sent and not yet handed to the kernel
	Total       Counters // over all sessions, this one included
}

// Stats returns what the link is doing and has moved.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := LinkStats{
		State: l.state, Since: l.since, Dials: l.Dials(),
		Sessions: l.sessions, Failures: l.failures, LastError: l.lastErr,
		Total: l.total,
	}
	if s := l.session; s != nil {
		st.Session, st.Protocol, st.Compression = s.id, s.protocol, s.comp
		st.Queued = s.Queued()
		st.Total.add(s.count.load())
	}
	return st
}
