package sim

import (
	"slices"
	"time"

	"github.com/lockstep-ha/lockstep/replication/wire"
)

// faultCommands are the faults of a scenario. Each lasts until a command ends it.
var faultCommands = map[string]func(*scene, *command){
	"kill": func(s *scene, c *command) {
		h := s.host(c.word())
		s.w.withLuck(luckOf(c, "io", "lost", "done"), h.kill)
		h.meta.stopNever()
	},
	"start":  func(s *scene, c *command) { s.host(c.word()).start() },
	"crash":  (*scene).crash,
	"boot":   func(s *scene, c *command) { s.host(c.word()).powerOn() },
	"pause":  func(s *scene, c *command) { s.host(c.word()).proc.paused = true },
	"resume": func(s *scene, c *command) { s.host(c.word()).proc.resume() },

	"cut":     func(s *scene, c *command) { s.cut(c, true) },
	"heal":    (*scene).heal,
	"isolate": (*scene).isolate,
	"flap":    func(s *scene, c *command) { s.linkOf(c).breakLink("reset") },
	"flap-and-go": func(s *scene, c *command) {
		s.linkOf(c).breakLink("reset")
		s.run(200 * time.Millisecond)
	},
	"break-end": func(s *scene, c *command) { // its own end alone: a cut keeps the other one from hearing of it
		h := s.host(c.word())
		if l := s.w.link(h.index, s.host(c.word()).index); l.sess != nil {
			l.sess.finish(l.end(h), "reset")
		}
	},
	"corrupt-and-go": func(s *scene, c *command) {
		l, end := s.toEnd(c)
		l.corrupt[end]++
		s.run(200 * time.Millisecond)
	},
	"lose":    (*scene).loseFrames,
	"corrupt": func(s *scene, c *command) { l, end := s.toEnd(c); l.corrupt[end]++ },
	"delay":   func(s *scene, c *command) { l, _ := s.toEnd(c); l.clog = c.duration(c.key("by", "50ms")) },

	"hang": func(s *scene, c *command) { s.host(c.word()).faults.hang = true },
	"unhang": func(s *scene, c *command) {
		h := s.host(c.word())
		h.faults.hang = true // it is not, where only some I/O is stuck
		h.unhang()
	},
	"stick": func(s *scene, c *command) { // what hangs now stays so, anything new is carried out
		s.run(time.Millisecond)
		s.host(c.word()).faults.hang = false
	},
	"slow":      func(s *scene, c *command) { s.host(c.word()).faults.slow = c.duration(c.key("by", "50ms")) },
	"full":      func(s *scene, c *command) { h := s.host(c.word()); h.faults.full, s.w.hurt[h.index] = true, true },
	"room":      func(s *scene, c *command) { s.host(c.word()).faults.full = false },
	"fail-sync": func(s *scene, c *command) { h := s.host(c.word()); h.faults.failSync, s.w.hurt[h.index] = 1, true },
	"fail-io":   func(s *scene, c *command) { h := s.host(c.word()); h.faults.failIO, s.w.hurt[h.index] = 1, true },
	"misplace": func(s *scene, c *command) { // until it places what it writes again
		h := s.host(c.word())
		h.faults.misplace = 1000
		s.w.rots[0] = h // the replicas differ, as nobody can know
	},
	"place":     func(s *scene, c *command) { s.host(c.word()).faults.misplace = 0 },
	"rot":       (*scene).rot,
	"meta-full": func(s *scene, c *command) { s.host(c.word()).meta.NoRoom(true) },
	"meta-room": func(s *scene, c *command) { s.host(c.word()).meta.NoRoom(false) },
}

// stopNever takes back what a cut-off save left behind; nil on a witness.
func (d *MetaDev) stopNever() {
	if d != nil {
		d.StopAfter(-1)
	}
}

// luckOf reads a key that says how the dice of a fault fall: low or high.
func luckOf(c *command, key, low, high string) steady {
	switch v := c.key(key, low); v {
	case low:
		return allLow
	case high:
		return allHigh
	default:
		panic(badCall(c.name + ": " + key + " is " + low + " or " + high))
	}
}

// crash takes the power of a host away. What it had not flushed is lost, unless unflushed=kept.
func (s *scene) crash(c *command) {
	h := s.host(c.word())
	keep := c.key("unflushed", "lost")
	if keep == "kept" && h.data {
		h.disk.Sync()
	}
	s.w.withLuck(allLow, h.crash)
}

// cut lets nothing through between two hosts: of all traffic, or of data or ledger alone; with
// oneway only what the first one says is lost.
func (s *scene) cut(c *command, on bool) {
	one := c.flag("oneway")
	kinds := []traffic{dataTraffic, ledgerTraffic}
	switch {
	case c.flag("data"):
		kinds = kinds[:1]
	case c.flag("ledger"):
		kinds = kinds[1:]
	}
	a, b := s.host(c.word()), s.host(c.word())
	for _, k := range kinds {
		s.w.setCut(k, a.index, b.index, on)
		if !one {
			s.w.setCut(k, b.index, a.index, on)
		}
	}
}

// heal ends what is wrong with the network: all of it, or between two hosts.
func (s *scene) heal(c *command) {
	if len(c.words) > 0 {
		s.cut(c, false)
		return
	}
	for k := range trafficKinds {
		for a := range s.w.hosts {
			for b := range s.w.hosts {
				s.w.setCut(k, a, b, false)
			}
		}
	}
	for _, l := range s.w.sortedLinks() {
		l.lose, l.clog, l.off = [2]wire.Type{}, 0, false
	}
}

// isolate cuts a host off from every other one; clients too, with the word clients.
func (s *scene) isolate(c *command) {
	if c.flag("clients") {
		h := s.host(c.words[c.next])
		s.w.setCut(clientTraffic, h.index, h.index, true)
	}
	f := Fault{Kind: faultIsolate, Arg: 1}
	switch {
	case c.flag("silent"): // it hears everything and is heard by nobody
		f.Kind = faultSilent
	case c.flag("deaf"):
		f.Kind = faultDeaf
	}
	f.A = s.host(c.word()).index
	s.w.cutBy(f, true)
}

func (s *scene) linkOf(c *command) *link {
	return s.w.link(s.host(c.word()).index, s.host(c.word()).index)
}

// toEnd reads from=A to=B.
func (s *scene) toEnd(c *command) (*link, int) {
	to := s.host(c.key("to", ""))
	l := s.w.link(s.host(c.key("from", "")).index, to.index)
	return l, l.end(to)
}

var frameTypes = []wire.Type{wire.Write, wire.WriteZeroes, wire.Trim, wire.Flush, wire.Beacon, wire.Lead, wire.Follow, wire.Bits, wire.Ack,
	wire.FlushAck, wire.BeaconAck, wire.ResyncBegin, wire.ResyncReady, wire.Copy, wire.CopyZeroes, wire.HashRequest, wire.HashReply,
	wire.JoinPrepare, wire.JoinReady, wire.Failed, wire.Handover, wire.HandoverDone, wire.Settled}

// loseFrames has the frames of one type vanish on their way.
func (s *scene) loseFrames(c *command) {
	l, end := s.toEnd(c)
	name := c.word()
	if name == "nothing" {
		l.lose[end] = 0
		return
	}
	i := slices.IndexFunc(frameTypes, func(t wire.Type) bool { return t.String() == name })
	if i < 0 {
		panic(badCall("no frame type " + name))
	}
	l.lose[end] = frameTypes[i]
}

// rot changes a block behind everybody's back.
func (s *scene) rot(c *command) {
	h := s.host(c.word())
	b := c.number("block", 0)
	s.w.value++
	h.disk.Flip(b*blockSectors, s.w.value)
	s.w.rots[s.w.value] = h
}
