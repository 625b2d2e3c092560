package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/replication"
)

// clientCommands are what the clients of a scenario do. A command waits for its answer for a while
// (wait=500ms) or, with the word async, not at all; what ends later is told by answers.
var clientCommands = map[string]func(*scene, *command){
	"write":   func(s *scene, c *command) { s.ask(c, replication.OpWrite) },
	"read":    func(s *scene, c *command) { s.ask(c, replication.OpRead) },
	"trim":    func(s *scene, c *command) { s.ask(c, replication.OpTrim) },
	"zero":    func(s *scene, c *command) { s.ask(c, replication.OpWriteZeroes) },
	"flush":   func(s *scene, c *command) { s.ask(c, replication.OpFlush) },
	"answers": func(s *scene, _ *command) { s.answers() },
	"load":    (*scene).load,
	"unload": func(s *scene, _ *command) {
		for _, c := range s.w.clients {
			c.stop = true
		}
	},
	"clients": func(s *scene, _ *command) { // who is let in
		for _, c := range s.w.clients {
			s.say("client %d is let in: %v", c.index, c.conn != nil && !c.conn.gone && c.conn.admitted)
		}
	},
	"stall": func(s *scene, c *command) { // what k sends on its connection is held up
		k := s.client(c.word())
		k.conn.stalled = s.w.now + c.duration(c.key("for", "1s"))
	},
	"read-ahead": (*scene).readAhead,
	"reconnect": func(s *scene, c *command) { // k gives its connection up and makes another one
		k := s.client(c.word())
		if n := k.conn; k.id == 0 {
			n.lost()
		} else {
			n.gone = true
			k.wake(0)
		}
		s.await(time.Second, func() bool { return k.conn != nil && !k.conn.gone && k.conn.admitted })
	},
}

func (s *scene) client(name string) *client {
	if c := s.clients[name]; c != nil {
		return c
	}
	c := &client{w: s.w, index: len(s.w.clients), stop: true}
	if s.w.Config.Kernel {
		c.id = replication.ClientID(1000 + c.index)
	}
	s.clients[name] = c
	s.w.clients = append(s.w.clients, c)
	return c
}

// connected has the client connect to p, if it is not, and reports whether it was let in.
func (s *scene) connected(c *client, p *Proc) bool {
	if n := c.conn; n != nil && !n.gone && n.p == p && n.admitted {
		return true
	}
	w := s.w
	if c.conn != nil && !c.conn.gone {
		c.conn.lost()
	}
	if c.id != 0 {
		c.number++
	}
	n := &conn{c: c, p: p, id: c.id, number: c.number}
	c.conn = n
	p.into(w.latency(), func() { n.open() })
	s.await(time.Second, func() bool { return n.admitted || n.gone })
	return n.admitted && !n.gone
}

// ask sends one request, to whoever serves unless via says where.
func (s *scene) ask(c *command, op replication.Op) {
	k := s.client(c.key("client", "k"))
	r := &request{c: k, op: op, ext: blocks(c.number("block", 0), c.number("blocks", 1))}
	if sector := c.number("sector", -1); sector >= 0 {
		r.ext.Off += sector * SectorSize
		r.ext.Len = c.number("sectors", 1) * SectorSize
	}
	if op == replication.OpFlush {
		r.ext = blocks(0, 0)
	}
	if c.flag("fua") {
		r.flags |= replication.FlagFUA
	}
	wait := c.duration(c.key("wait", "500ms"))
	if c.flag("async") {
		wait = 0
	}
	a := &ask{request: r, quiet: c.flag("quiet")}
	where := c.key("via", "")
	p := s.server()
	if p == nil {
		p = s.w.serving()
	}
	if where != "" {
		p = s.host(where).proc
	}
	s.asked = append(s.asked, a)
	if op != replication.OpRead && op != replication.OpFlush {
		s.writes++
	}
	a.text = describeAsk(c.name, s.writes, r, where)
	switch {
	case p == nil && where == "":
		s.say("%s: nobody serves", a.text)
		a.told = true
		return
	case p == nil || p.core == nil || !s.connected(k, p):
		s.say("%s: no connection", a.text)
		a.told = true
		return
	}
	k.ask(r)
	if op == replication.OpWrite {
		s.alias[r.value] = s.writes
	}
	if wait == 0 {
		s.await(2*calmLatency, func() bool { return r.done }) // it has reached the server
		return
	}
	s.await(wait, func() bool { return r.done })
	s.tell(a)
}

// readAhead has k write a block, and the server slow to do it: it has read the request off the
// connection and hands it to the core so much later, whatever becomes of the connection meanwhile.
func (s *scene) readAhead(c *command) {
	k := s.client(c.word())
	n := *k.conn
	old := k.conn
	k.conn = &n
	n.stalled = s.w.now + time.Hour // what is sent on it never comes
	r := &request{c: k, op: replication.OpWrite, ext: blocks(c.number("block", 0), 1)}
	s.writes++
	s.asked = append(s.asked, &ask{request: r, text: describeAsk("write", s.writes, r, "")})
	k.ask(r)
	s.alias[r.value] = s.writes
	k.conn = old
	n.p.into(c.duration(c.key("for", "100ms")), func() {
		n.door = n.p.doors
		n.arrive(r)
	})
}

func describeAsk(name string, number int, r *request, where string) string {
	text := fmt.Sprintf("%s %d", name, number)
	if name == "read" || name == "flush" {
		text = name
	}
	if r.ext.Len > 0 {
		text += fmt.Sprintf(" of block %d", r.ext.Off/blocks(1, 0).Off)
	}
	if where != "" {
		text += " through " + where
	}
	return text
}

// tell prints how a request stands.
func (s *scene) tell(a *ask) {
	switch {
	case !a.done:
		s.say("%s: no answer yet", a.text)
		return
	case !a.answered:
		s.say("%s: the connection was closed", a.text)
	case a.err != nil:
		s.say("%s: error: %v", a.text, a.err)
	case a.op == replication.OpRead && !a.quiet:
		s.say("%s: %s", a.text, s.values(a.vals))
	default:
		s.say("%s: done", a.text)
	}
	a.told = true
}

// answers tells of every request that was under way, also of those that still are.
func (s *scene) answers() {
	for _, a := range s.asked {
		if !a.told {
			s.tell(a)
		}
	}
}

// tellEnds tells of the requests that ended since they were told of.
func (s *scene) tellEnds() {
	for _, a := range s.asked {
		if !a.told && a.done {
			s.tell(a)
		}
	}
}

// values names what was read by the numbers of the writes.
func (s *scene) values(vals []uint64) string {
	var names []string
	for _, v := range vals {
		name := "zeros"
		if v != 0 {
			if n, ok := s.alias[v]; ok {
				name = fmt.Sprintf("write %d", n)
			} else {
				name = "garbage"
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " and ")
}

// load lets clients of the random runs loose beside those of the scenario. What they ask for is no
// part of the output: the history judges it.
func (s *scene) load(c *command) {
	w := s.w
	w.Config.Depth, w.Config.Flushes, w.Config.FUA = int(c.number("depth", 4)), 5, 10
	w.Config.Blocks = int(c.number("blocks", 24))
	w.Config.Trims = int(c.number("trims", 1))
	for range c.number("clients", 2) {
		n := &client{w: w, index: len(w.clients)}
		if w.Config.Kernel {
			n.id = replication.ClientID(1000 + n.index)
		}
		w.clients = append(w.clients, n)
		n.wake(0)
	}
}
