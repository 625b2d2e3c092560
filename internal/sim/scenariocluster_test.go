package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/bitmap"
)

// sceneCommands are the words that a scenario may use.
var sceneCommands map[string]func(*scene, *command)

func init() {
	sceneCommands = map[string]func(*scene, *command){
		"cluster":   (*scene).cluster,
		"run":       func(s *scene, c *command) { s.run(c.duration(c.word())) },
		"settle":    (*scene).settle,
		"settle-in": func(s *scene, _ *command) { s.settleIn() },
		"await":     (*scene).awaitServer,
		"status":    (*scene).status,
		"check":     (*scene).check,
		"await-log": (*scene).awaitLog,
		"equal":     (*scene).equal,
		"disk":      (*scene).showDisk,
		"log":       (*scene).showLog,
		"lacks":     (*scene).lacks,
		"stored":    (*scene).stored,
		"epoch":     func(s *scene, _ *command) { s.say("epoch %d", s.epoch(s.w.truth.Epoch)) },
	}
	for _, more := range []map[string]func(*scene, *command){clientCommands, faultCommands, operatorCommands} {
		for k, v := range more {
			sceneCommands[k] = v
		}
	}
}

// calmLatency is that of every message and every I/O.
const calmLatency = 20 * time.Microsecond

// restTime is how long a scenario waits for what it expects to come about.
const restTime = 40 * time.Second

// cluster makes a cluster in which everything is well and waits until it serves, on n1 unless said.
func (s *scene) cluster(c *command) {
	shapes := map[string]Shape{"pair+witness": PairAndWitness, "pair": Pair, "three": Three}
	shape, ok := shapes[c.key("shape", "pair+witness")]
	if !ok {
		panic(badCall("no such shape"))
	}
	plan := Plan{Seed: *sceneSeed, Config: Config{
		Shape: shape, Blocks: 48, Trims: 1, Kernel: c.flag("kernel"), SubBlock: c.flag("subblock"), Confirm: c.flag("confirm"),
		Stonith: c.flag("stonith"), Drift: c.flag("drift"), OldFrames: c.flag("old-frames"), LoseAll: true,
		ImpatientP: c.flag("impatient"), SlowDisk: calmLatency, SlowNet: calmLatency, IOError: c.flag("io-error"),
		Deadline: c.duration(c.key("deadline", "0s")),
	}}
	primary := c.key("primary", "n1")
	s.close()
	w := newWorld(plan, true)
	*s = scene{w: w, restore: w.seedRaft(), clients: map[string]*client{}, alias: map[uint64]int{}, drafts: map[string]draft{}}
	w.found()
	if !s.await(startTime, func() bool { return w.serving() != nil }) {
		s.say("does not come to serve: %s", w.describe())
		return
	}
	s.rest(nil)
	if h := s.host(primary); w.truth.Primary.Node != primary {
		w.switchover(h)
		s.await(5*time.Second, func() bool { return w.serving() == h.proc })
		s.rest(nil)
	}
	if shape == PairAndWitness {
		s.leads(s.host("w"))
	}
	s.base = w.truth.Epoch - 1
	s.sayRecord()
}

func (s *scene) epoch(e uint64) int64 { return int64(e) - int64(s.base) }

// sayRecord prints the newest record that any voter applied.
func (s *scene) sayRecord() {
	rec := s.w.truth
	who := "nobody is primary"
	if !rec.Primary.None() {
		who = rec.Primary.Node + " is primary"
	}
	s.say("epoch %d: %s, in sync %s", s.epoch(rec.Epoch), who, strings.Join(rec.Set(), " "))
}

// rest waits until nothing is left to be done; attentive, with what a good operator would do.
func (s *scene) rest(broken []*Host) string {
	w := s.w
	why := ""
	for limit := w.now + restTime; w.failure == nil && w.now < limit; {
		s.run(200 * time.Millisecond)
		if why = w.unrest(broken); why == "" {
			s.run(500 * time.Millisecond) // the copies of the ledger follow
			return w.unrest(broken)
		}
		if s.attentive {
			w.care(broken)
		}
	}
	return why
}

func (s *scene) settle(c *command) {
	var broken []*Host
	if without := c.key("without", ""); without != "" {
		for _, n := range strings.Split(without, ",") {
			broken = append(broken, s.host(n))
		}
	}
	s.attentive = c.flag("attentive")
	quiet := c.flag("quiet") // who is primary then is left to chance
	if why := s.rest(broken); why != "" && s.w.failure == nil {
		s.say("not at rest: %s", why)
		return
	}
	s.tellEnds()
	if !quiet {
		s.sayRecord()
	}
}

// settleIn waits, under load, until every replica is in the set again.
func (s *scene) settleIn() {
	ok := s.await(restTime, func() bool {
		for i := range s.w.truth.Replicas {
			if !s.w.truth.Replicas[i].InSet {
				return false
			}
		}
		return s.server() != nil
	})
	if !ok && s.w.failure == nil {
		s.say("not all are in the set again")
	}
	s.run(200 * time.Millisecond)
}

// awaitServer waits until some host serves, or the named one.
func (s *scene) awaitServer(c *command) {
	var h *Host
	if len(c.words) > 0 {
		h = s.host(c.word())
	}
	d := c.duration(c.key("for", "10s"))
	ok := s.await(d, func() bool {
		p := s.server()
		return p != nil && (h == nil || p.h == h)
	})
	if p := s.server(); ok {
		s.say("%s serves", p.h.name)
	} else if h != nil && p != nil {
		s.say("%s does not serve, %s does", h.name, p.h.name)
	} else {
		s.say("nobody serves")
	}
}

// server returns the process that serves inside its lease, nil if none does.
func (s *scene) server() *Proc {
	for _, h := range s.w.hosts {
		if p := h.proc; p != nil && p.core != nil && !p.paused && p.core.Serving() && p.core.LeaseHeldAt(h.clock()) {
			return p
		}
	}
	return nil
}

// awaitLog waits until a host notes something.
func (s *scene) awaitLog(c *command) {
	h := s.host(c.word())
	match := strings.ReplaceAll(c.key("match", ""), "_", " ")
	next := s.w.log.added
	ok := s.await(c.duration(c.key("for", "10s")), func() bool {
		l := s.w.log
		for ; next < l.added; next++ {
			line := l.ring[next%logKept]
			if line.col == int8(h.index) && strings.Contains(line.text, match) {
				return true
			}
		}
		return false
	})
	if !ok {
		s.say("%s never says %q", h.name, match)
	}
}

// status prints one line for each host.
func (s *scene) status(c *command) {
	names := c.words
	c.next, c.used = len(c.words), len(c.words)
	if len(names) == 0 {
		s.sayRecord()
	}
	for _, h := range s.w.hosts {
		if (len(names) == 0 && h.data) || slices.Contains(names, h.name) {
			s.say("%s: %s", h.name, s.describeHost(h))
		}
	}
}

func (s *scene) describeHost(h *Host) string {
	p := h.proc
	switch {
	case !h.up:
		return "no power"
	case p == nil:
		return "no daemon"
	case p.paused:
		return "stands still"
	case p.core == nil:
		return "votes"
	}
	st := p.core.Status(h.clock())
	text := strings.ToLower(st.Role)
	if st.Role == "Primary" {
		text += fmt.Sprintf(" of epoch %d", s.epoch(st.Epoch))
	}
	text += ", " + st.State.String()
	if st.Unclean {
		text += ", unclean"
	}
	if st.SelfInSet {
		text += ", in set"
	}
	if st.IO != "running" && st.IO != "none" || st.Reason != "" {
		why, _, _ := strings.Cut(st.Reason, "; frozen for ") // how long depends on every detail
		text += ", I/O " + st.IO + ": " + why
	}
	if st.Closed {
		text += ", takes no clients"
	}
	if p.core.Serving() && !p.core.LeaseHeldAt(h.clock()) {
		text += ", no lease"
	}
	return text
}

// check judges the cluster as the random runs do at their end: replicas equal, no acknowledged
// write lost, every read explained.
func (s *scene) check(c *command) {
	var broken []*Host
	if n := c.key("without", ""); n != "" {
		broken = append(broken, s.host(n))
	}
	w := s.w
	if w.serving() == nil {
		w.report(w.history.Check())
	} else {
		w.judgeEnd(broken)
	}
	if w.failure == nil {
		s.say("ok")
	}
}

// equal compares two replicas.
func (s *scene) equal(c *command) {
	a, b := s.host(c.word()), s.host(c.word())
	if sector, differ := FirstDiff(a.disk, b.disk, bitmap.Extent{Len: DeviceSize}); differ {
		s.say("%s and %s differ in block %d", a.name, b.name, sector/blockSectors)
		return
	}
	s.say("%s and %s are equal", a.name, b.name)
}

// showDisk prints what a replica holds in a block, whoever serves.
func (s *scene) showDisk(c *command) {
	h := s.host(c.word())
	b := c.number("block", 0)
	s.say("%s holds %s in block %d", h.name, s.values(h.disk.Read(blocks(b, 1), nil)), b)
}

func (s *scene) lacks(c *command) {
	h, peer := s.host(c.word()), s.host(c.word())
	if h.proc == nil || h.proc.core == nil {
		s.say("%s: %s", h.name, s.describeHost(h))
		return
	}
	n := h.proc.core.DirtyBytes(h.proc.peer(peer)) / bitmap.BlockSize
	s.say("%s knows that %s lacks %d blocks", h.name, peer.name, n)
}

// stored prints which epoch the metadata of a replica holds as the highest it has accepted.
func (s *scene) stored(c *command) {
	h := s.host(c.word())
	if h.proc == nil || h.proc.meta == nil {
		s.say("%s: %s", h.name, s.describeHost(h))
		return
	}
	s.say("%s has stored epoch %d", h.name, s.epoch(h.proc.meta.Meta().Epoch))
}

// showLog prints what was noted about a host since the last look and holds a text, each line once.
func (s *scene) showLog(c *command) {
	h := s.host(c.word())
	match := strings.ReplaceAll(c.key("match", ""), "_", " ")
	seen := map[string]bool{}
	l := s.w.log
	for i := range l.ring {
		line := l.ring[(l.next+i)%len(l.ring)]
		text := strings.ReplaceAll(line.text, "%%", "%")
		if line.number < s.looked || line.col != int8(h.index) || !strings.Contains(text, match) || seen[text] {
			continue
		}
		seen[text] = true
		s.say("%s: %s", h.name, text)
	}
	if len(seen) == 0 {
		s.say("%s says nothing of that", h.name)
	}
}

// blocks returns the extent of n blocks from b on.
func blocks(b, n int64) bitmap.Extent {
	return bitmap.Extent{Off: b * bitmap.BlockSize, Len: n * bitmap.BlockSize}
}

// steady is a source of draws that always come out at the low end, or always at the high one.
type steady uint64

const (
	allLow  steady = 1 << 40 // not 0: rejection sampling would never end
	allHigh steady = ^steady(0)
)

func (s steady) Uint64() uint64 { return uint64(s) }

// withLuck does something while every draw of the world comes out the same.
func (w *World) withLuck(luck steady, do func()) {
	old := w.net
	w.net = rand.New(luck)
	defer func() { w.net = old }()
	do()
}
