package memnet

import (
	"syscall"
	"time"
)

// Window is how many bytes one end can write ahead of what the other has read.
const Window = 256 << 10

// stream is one direction of a connection. It belongs to the end that reads it, under the
// network's mutex. Segments arrive in order: none has an earlier time than the one before it, and
// those that a cut holds back stand behind all others.
type stream struct {
	segs  []segment
	bytes int       // of data in segs; at most Window
	last  time.Time // when the newest segment arrives
}

// segment is some bytes, or the end of the stream, which stays in it for good.
type segment struct {
	data []byte
	end  error     // io.EOF, or syscall.ECONNRESET; nil: data
	at   time.Time // of arrival; zero: held back until the path is healed
}

// put appends a segment that leaves now on p.
func (s *stream) put(p *path, seg segment, now time.Time) {
	if !p.cut {
		seg.at = now.Add(p.latency)
		if seg.at.Before(s.last) {
			seg.at = s.last // latency has shrunk, and nothing overtakes
		}
		s.last = seg.at
	}
	s.bytes += len(seg.data)
	s.segs = append(s.segs, seg)
}

// arrived reports whether segment i is there.
func (s *stream) arrived(i int, now time.Time) bool {
	at := s.segs[i].at
	return !at.IsZero() && !at.After(now)
}

// next returns when the oldest segment arrives; zero when nobody knows.
func (s *stream) next() time.Time {
	if len(s.segs) == 0 {
		return time.Time{}
	}
	return s.segs[0].at
}

// take moves bytes that have arrived to b. With none there and the end in sight, it returns that.
func (s *stream) take(b []byte, now time.Time) (n int, end error) {
	for len(s.segs) > 0 && s.arrived(0, now) && n < len(b) {
		seg := &s.segs[0]
		if seg.end != nil {
			if n == 0 {
				end = seg.end
			}
			break
		}
		k := copy(b[n:], seg.data)
		n += k
		s.bytes -= k
		if seg.data = seg.data[k:]; len(seg.data) == 0 {
			s.segs = s.segs[1:]
		}
	}
	return n, end
}

// reset reports whether a reset has arrived. Unlike the end of the stream it shows at once,
// whatever is unread before it.
func (s *stream) reset(now time.Time) bool {
	last := len(s.segs) - 1
	return last >= 0 && s.segs[last].end == syscall.ECONNRESET && s.arrived(last, now)
}

// over reports whether the sender has ended the stream, even if that has not arrived.
func (s *stream) over() bool {
	last := len(s.segs) - 1
	return last >= 0 && s.segs[last].end != nil
}

// setHeld holds back what has not arrived by now, or lets it arrive at the time given.
func (s *stream) setHeld(held bool, arrive, now time.Time) {
	for i := range s.segs {
		switch seg := &s.segs[i]; {
		case held && !s.arrived(i, now):
			seg.at = time.Time{}
		case !held && seg.at.IsZero():
			seg.at = arrive
		}
	}
	s.last = time.Time{}
	if n := len(s.segs); n > 0 {
		s.last = s.segs[n-1].at
	}
}

// dropFlying loses what has not arrived.
func (s *stream) dropFlying(now time.Time) {
	for i := range s.segs {
		if !s.arrived(i, now) {
			s.segs = s.segs[:i]
			break
		}
	}
	s.bytes = 0
	for i := range s.segs {
		s.bytes += len(s.segs[i].data)
	}
	s.last = time.Time{}
}

// dropArrived discards the data that is there and reports whether that was any. What ends the
// stream stays, and so does what has not arrived.
func (s *stream) dropArrived(now time.Time) (some bool) {
	for len(s.segs) > 0 && s.segs[0].end == nil && s.arrived(0, now) {
		some = true
		s.bytes -= len(s.segs[0].data)
		s.segs = s.segs[1:]
	}
	return some
}

// endWith ends the stream with err, unless it has ended that way already. A reset overtakes
// nothing that has arrived, and loses what has not.
func (s *stream) endWith(p *path, err error, now time.Time) {
	if n := len(s.segs); n > 0 && (s.segs[n-1].end == err || s.segs[n-1].end == syscall.ECONNRESET) {
		return
	}
	if err == syscall.ECONNRESET {
		s.dropFlying(now)
	} else if s.over() {
		return
	}
	s.put(p, segment{end: err}, now)
}
