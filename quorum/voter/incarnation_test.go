package voter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/quorum"
)

// alone has a node go on alone.
func (c *cluster) alone(name string) {
	c.Helper()
	if err := c.hosts[name].OpenIncarnation("the others are shot, says the operator"); err != nil {
		c.Fatalf("%s: %v", name, err)
	}
	c.pump()
	if !c.hosts[name].Leads() {
		c.Fatalf("%s does not lead: %+v", name, c.hosts[name].Status())
	}
}

func (c *cluster) problem(name, part string) bool {
	h := c.hosts[name]
	return h.Voter != nil && strings.Contains(h.Status().Problem, part)
}

// stopped reports whether a node waits for an operator and shows no quorum.
func (c *cluster) stopped(name string) bool {
	return c.problem(name, "until an operator has chosen") && !c.hosts[name].Status().HasQuorum && !c.hosts[name].Leads()
}

// equal fails unless the nodes' states are one.
func (c *cluster) equal(names ...string) {
	c.Helper()
	for _, n := range names {
		if got, want := c.fresh(n), c.fresh(names[0]); got.Incarnation != want.Incarnation || got.Version != want.Version || c.text(n) != c.text(names[0]) {
			c.Fatalf("%s: %+v %q, %s: %+v %q", n, got.Incarnation, c.text(n), names[0], want.Incarnation, c.text(names[0]))
		}
	}
}

// Two nodes, one dies. The other goes on alone with the command that it had in its log, and the
// first one comes back as another voter.
func TestOpenIncarnation_PairGoesOnAloneAndTakesThePeerBack(t *testing.T) {
	c := newCluster(t, 20, "A", "B")
	c.toLeader("A")
	c.create("A", "r0", 1)
	parent := c.fresh("A").Incarnation
	c.kill("B")
	_, tail := c.begin("A", note(c.hosts["A"].State(), "tail"))
	c.steps(60)
	if tail.done || c.text("A") != "" {
		t.Fatal("A committed alone")
	}
	a := c.hosts["A"]
	last := a.book.last()
	c.alone("A")
	inc := a.State().Incarnation
	want := quorum.Incarnation{Counter: parent.Counter + 1, ID: inc.ID, Parent: parent.ID, ParentIndex: last}
	if inc != want || inc.ID == parent.ID || a.Status().Incarnation != inc.ID || !strings.Contains(a.State().Statement, "operator") {
		t.Fatalf("incarnation %+v, statement %q", inc, a.State().Statement)
	}
	if !tail.done || tail.res.Err() != nil || c.text("A") != "tail" {
		t.Fatalf("the tail: %+v, state has %q", tail, c.text("A"))
	}
	if err := a.OpenIncarnation("again"); !errors.Is(err, ErrAlone) {
		t.Errorf("again: %v", err)
	}
	if err := c.propose("A", note(a.State(), "alone")).Err(); err != nil {
		t.Fatal(err)
	}

	c.kill("A") // it is durable
	c.start("A")
	if c.leader("A"); c.text("A") != "alone" || a.State().Incarnation != inc {
		t.Fatalf("after a restart: %q, %+v", c.text("A"), a.State().Incarnation)
	}
	old := c.hosts["B"].mem.saved.Identity.Voter
	c.start("B")
	c.until("B votes again", func() bool { return c.votes("B", 2) && c.votes("A", 2) })
	c.equal("A", "B")
	b := c.hosts["B"]
	if now := b.Status().Voter; now == old || b.State().Node("B").VoterID != now || b.State().Node("B").Gone {
		t.Errorf("B was voter %x and is %x: %+v", old, now, b.State().Nodes)
	}
	aside := b.mem.Aside()
	if len(aside) != 1 || aside[0].Identity.Voter != old || aside[0].Identity.Incarnation != parent.ID || len(aside[0].Entries) == 0 {
		t.Errorf("kept aside: %+v", aside)
	}
	if b.Status().Problem != "" {
		t.Errorf("problem %q", b.Status().Problem)
	}
	c.kill("A") // and B's vote counts
	c.until("B is deposed", func() bool { return !b.Status().HasQuorum })
}

// History 9: A has seen its command committed, and acted on that; B, which was told of the
// command and not of the commit, goes on alone.
func TestHistory9_WhatTheLostNodeSawCommittedIsInTheTail(t *testing.T) {
	c := seenCommitted(t)
	c.alone("B")
	if c.text("B") != "seen" {
		t.Fatalf("B lost what A has acted on; it has %q", c.text("B"))
	}
	c.start("A")
	c.until("A votes again", func() bool { return c.votes("A", 2) })
	c.equal("B", "A")
}

// seenCommitted returns a pair in which A knew a note to be committed and died; B does not know.
func seenCommitted(t testing.TB) *cluster {
	t.Helper()
	c := newCluster(t, 21, "A", "B")
	c.toLeader("A")
	c.create("A", "r0", 1)
	c.steps(5)
	index := c.hosts["B"].book.last() + 1
	c.sent = func(p packet) bool { // B gets the entry, and hears no more of A
		return p.from == "B" || c.hosts["B"].book.last() < index
	}
	_, a := c.begin("A", note(c.hosts["A"].State(), "seen"))
	if !a.done || c.text("A") != "seen" || c.text("B") == "seen" {
		t.Fatalf("A %q, B %q", c.text("A"), c.text("B"))
	}
	c.kill("A")
	c.sent = nil
	return c
}

// apart returns three nodes of which A goes on alone, by a wrong word, while B and W have
// committed what A does not know.
func apart(t testing.TB) *cluster {
	t.Helper()
	c := newCluster(t, 22, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	s := c.fresh("A")
	c.isolate("A")
	for i := range 8 { // A's log is as long as the others' will be
		c.begin("A", note(s, fmt.Sprint("tail", i)))
	}
	c.leader("B", "W")
	if err := c.propose("B", note(c.fresh("B"), "others")).Err(); err != nil {
		t.Fatal(err)
	}
	c.alone("A")
	if at := c.hosts["A"].State().Incarnation.ParentIndex; at < c.hosts["B"].Status().Commit {
		t.Fatalf("A's log ends at %d, B has committed up to %d", at, c.hosts["B"].Status().Commit)
	}
	return c
}

// History 10: what B and W committed after the fork is not given up, although its index is no
// higher than that of the fork.
func TestHistory10_LedgersWithCommitsOfTheirOwnStopUntilAnOperatorChooses(t *testing.T) {
	for _, keep := range []string{"A", "B"} {
		c := apart(t)
		c.heal()
		c.until("all stop", func() bool { return c.stopped("A") && c.stopped("B") && c.stopped("W") })
		if c.text("A") != "tail0" || c.text("B") != "others" || len(c.hosts["B"].mem.Aside()) != 0 {
			t.Fatalf("A %q, B %q", c.text("A"), c.text("B"))
		}
		c.kill("A", "B", "W")
		c.start("A", "B", "W")
		_, a := c.begin("A", note(c.hosts["A"].State(), "stopped"))
		_, b := c.begin("B", note(c.hosts["B"].State(), "stopped"))
		c.steps(100)
		if a.done || b.done || !c.stopped("A") || !c.stopped("B") || !c.stopped("W") {
			t.Fatal("a restart is no decision")
		}
		if err := c.hosts["A"].OpenIncarnation("x"); !errors.Is(err, ErrStopped) {
			t.Errorf("while it is stopped: %v", err)
		}
		c.decide(keep)
		c.until("all vote", func() bool { return c.votes("A", 3) && c.votes("B", 3) && c.votes("W", 3) })
		c.equal("A", "B", "W")
		want := map[string]string{"A": "tail0", "B": "others"}[keep]
		if got := c.text("W"); got != want && got != "stopped" {
			t.Errorf("%s was kept, and W has %q", keep, got)
		}
		if err := c.hosts[keep].Keep(); !errors.Is(err, ErrNoConflict) {
			t.Errorf("a second decision: %v", err)
		}
	}
}

// decide has the operator keep the ledger of A, or that of B and W.
func (c *cluster) decide(keep string) {
	c.Helper()
	for _, n := range c.names {
		h := c.hosts[n]
		f := h.GiveUp
		if (n == "A") == (keep == "A") {
			f = h.Keep
		}
		if err := f(); err != nil {
			c.Fatalf("%s: %v", n, err)
		}
		c.ready(h)
	}
}

// A node forgets commits that it knew of when it is killed. So where a majority was possible
// without the opener, all of its log counts.
func TestHistory10_ForgottenCommitsCount(t *testing.T) {
	for seed := byte(40); seed < 80; seed++ {
		c := newCluster(t, seed, "A", "B", "W")
		c.toLeader("A")
		c.create("A", "r0", 1)
		for _, n := range c.names {
			if err := c.hosts[n].Stop(); err != nil {
				t.Fatal(err)
			}
		}
		c.start("A", "B", "W")
		c.isolate("A")
		_, others := c.begin("B", note(c.hosts["B"].State(), "others"))
		c.until("it is committed", func() bool { return others.done })
		c.kill("B", "W")
		c.alone("A")
		c.heal()
		c.start("B")
		if b := c.hosts["B"]; b.Status().Commit > c.hosts["A"].State().Incarnation.ParentIndex {
			continue // W led, and B wrote down what it knew
		}
		if others.res.Err() != nil || c.text("B") != "" {
			t.Fatalf("%v, B has %q", others.res.Err(), c.text("B"))
		}
		c.until("both stop", func() bool { return c.stopped("A") && c.stopped("B") })
		return
	}
	t.Fatal("B has never forgotten a commit")
}

// History 10: two incarnations of equal number, each opened from the same parent.
func TestHistory10_TwoChildrenOfOneParentStop(t *testing.T) {
	c := newCluster(t, 24, "A", "B")
	c.leader()
	c.create("A", "r0", 1)
	c.split("A", "B")
	c.until("nobody leads", func() bool { return !c.hosts["A"].Status().HasQuorum && !c.hosts["B"].Status().HasQuorum })
	c.alone("A")
	c.alone("B")
	for _, n := range c.names {
		if err := c.propose(n, note(c.hosts[n].State(), n)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.heal()
	c.until("both stop", func() bool { return c.stopped("A") && c.stopped("B") })
	if c.text("A") != "A" || c.text("B") != "B" {
		t.Fatalf("A %q, B %q", c.text("A"), c.text("B"))
	}
	if !c.problem("A", "lockstep ledger keep") || !c.problem("A", fmt.Sprintf("ledger.db.%x", c.hosts["A"].Status().Incarnation)) {
		t.Errorf("problem %q", c.hosts["A"].Status().Problem)
	}
	c.decide("A")
	c.until("B votes again", func() bool { return c.votes("B", 2) && c.votes("A", 2) })
	if c.equal("A", "B"); c.text("B") != "A" {
		t.Errorf("B has %q", c.text("B"))
	}
}

// No message crosses: one of the parent changes nothing in the child, whatever it says.
func TestRaft_NoMessageCrossesIncarnations(t *testing.T) {
	c := crossing(t)
	a := c.hosts["A"]
	before := a.Status()
	c.cut[[2]string{"A", "B"}] = false // what B and W say arrives, and A can answer only by relays
	c.sent = func(p packet) bool { return FrameKind(p.frame[4]) != FrameHello }
	c.heal()
	c.steps(100)
	if now := a.Status(); now.Term != before.Term || !now.IsLeader || a.foreign == 0 {
		t.Fatalf("%+v, and before %+v; %d frames refused", now, before, a.foreign)
	}
}

// crossing returns three nodes of which A is in a child of the incarnation of B and W, whose
// term is higher.
func crossing(t testing.TB) *cluster {
	t.Helper()
	c := newCluster(t, 25, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	c.isolate("A")
	c.until("A is deposed", func() bool { return !c.hosts["A"].Leads() })
	c.alone("A")
	for c.hosts["B"].Status().Term <= c.hosts["A"].Status().Term+2 {
		c.toLeader("B", "B", "W")
		c.toLeader("W", "B", "W")
	}
	return c
}

// Who missed a whole incarnation follows its child.
func TestMeet_GrandchildIsFollowed(t *testing.T) {
	c := newCluster(t, 26, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	c.kill("B", "W")
	c.until("A is deposed", func() bool { return !c.hosts["A"].Leads() })
	c.alone("A")
	c.start("W")
	c.until("W votes again", func() bool { return c.votes("W", 2) })
	if err := c.propose("W", note(c.fresh("W"), "second")).Err(); err != nil {
		t.Fatal(err)
	}
	c.kill("A")
	c.until("W is deposed", func() bool { return !c.hosts["W"].Status().HasQuorum })
	c.alone("W")
	if inc := c.hosts["W"].State().Incarnation; inc.Counter != 3 {
		t.Fatalf("incarnation %+v", inc)
	}
	c.start("A", "B")
	c.until("all vote", func() bool { return c.votes("A", 3) && c.votes("B", 3) && c.votes("W", 3) })
	if c.equal("W", "A", "B"); c.text("B") != "second" {
		t.Errorf("B has %q", c.text("B"))
	}
}

// Who has given its ledger up and was not admitted yet follows a child of what it waits for.
func TestMeet_WhoWaitsToBeAdmittedFollowsTheChild(t *testing.T) {
	c := newCluster(t, 27, "A", "B", "W")
	c.toLeader("A")
	c.create("A", "r0", 1)
	c.kill("B", "W")
	c.until("A is deposed", func() bool { return !c.hosts["A"].Leads() })
	c.alone("A")
	second := c.hosts["A"].Status().Incarnation
	c.start("W")
	c.until("W votes again", func() bool { return c.votes("W", 2) })
	c.sent = func(p packet) bool { return p.from != "B" && (p.to != "B" || p.from == "A") } // B hears A, and nobody hears B
	c.start("B")
	c.until("B gives up", func() bool { return c.problem("B", "waits for the leader") })
	c.kill("A", "B")
	c.start("B") // it remembers
	if b := c.hosts["B"]; !c.problem("B", "waits for the leader") || b.NeedsFounding() || b.Status().Incarnation != second {
		t.Fatalf("after a restart: %+v", b.Status())
	}
	c.until("W is deposed", func() bool { return !c.hosts["W"].Status().HasQuorum })
	c.alone("W")
	c.sent = nil
	c.until("B votes again", func() bool { return c.votes("B", 2) })
	if c.hosts["B"].Status().Incarnation == second {
		t.Error("B waits for an incarnation that is over")
	}
}

func TestOpenIncarnation_CrashIsBeforeOrAfter(t *testing.T) {
	for _, effect := range []bool{false, true} {
		c := newCluster(t, 28, "A", "B")
		c.toLeader("A")
		c.create("A", "r0", 1)
		parent := c.fresh("A").Incarnation.ID
		c.kill("B")
		c.begin("A", note(c.hosts["A"].State(), "tail"))
		a := c.hosts["A"]
		a.mem.FailNext(errDisk, effect)
		if err := a.OpenIncarnation("x"); !errors.Is(err, errDisk) || !errors.Is(a.Ready(), errDisk) {
			t.Fatalf("%v, then %v", err, a.Ready())
		}
		c.start("A")
		c.steps(60)
		s := a.Status()
		if opened := s.Incarnation != parent; opened != effect || a.Leads() != effect || (c.text("A") == "tail") != effect {
			t.Errorf("effect %t: %+v, state has %q", effect, s, c.text("A"))
		}
	}
}

func TestGiveUp_CrashIsBeforeOrAfter(t *testing.T) {
	for _, effect := range []bool{false, true} {
		c := newCluster(t, 29, "A", "B")
		c.toLeader("A")
		c.create("A", "r0", 1)
		c.kill("B")
		c.alone("A")
		c.start("B")
		b := c.hosts["B"]
		b.mem.FailNext(errDisk, effect) // an idle follower writes nothing before
		c.until("B fails", func() bool { return b.fault != nil })
		if n := len(b.mem.Aside()); !errors.Is(b.fault, errDisk) || (n == 1) != effect {
			t.Fatalf("effect %t: B ended with %v, %d ledgers aside", effect, b.fault, n)
		}
		c.start("B")
		c.until("B votes again", func() bool { return c.votes("B", 2) })
		c.equal("A", "B")
	}
}

func TestOpenIncarnation_Refusals(t *testing.T) {
	c := empty(t, 30, "A", "B")
	c.start("A")
	if err := c.hosts["A"].OpenIncarnation("x"); !errors.Is(err, ErrNotVoter) {
		t.Errorf("without a ledger: %v", err)
	}
	for _, f := range []func() error{c.hosts["A"].Keep, c.hosts["A"].GiveUp} {
		if err := f(); !errors.Is(err, ErrNoConflict) {
			t.Errorf("a decision about nothing: %v", err)
		}
	}
}

// A hello is believed only about the node that the connection belongs to.
func TestHello_OfAnotherNodeOrShapeIsRefused(t *testing.T) {
	c := newCluster(t, 31, "A", "B")
	c.toLeader("A")
	c.create("A", "r0", 1)
	c.kill("B")
	c.alone("A")
	own, a := c.hosts["A"].Status().Incarnation, c.hosts["A"]
	good := hello{Format: helloFormat, Node: "B", Empty: true, Aside: 1}
	for name, edit := range map[string]func(*hello, *Envelope){
		"other node": func(h *hello, _ *Envelope) { h.Node = "W" },
		"passed on":  func(_ *hello, e *Envelope) { e.Hops = 1 },
		"version":    func(h *hello, _ *Envelope) { h.Format = 2 },
		"no aside":   func(h *hello, _ *Envelope) { h.Aside = 0 },
		"no voter":   func(_ *hello, e *Envelope) { e.From = 0 },
		"stranger":   func(_ *hello, e *Envelope) { e.Incarnation = own + 1 },
		"good":       func(*hello, *Envelope) {},
	} {
		h, e := good, Envelope{From: 99, Incarnation: own}
		edit(&h, &e)
		f, err := ParseFrame(helloFrame(e, h))
		if err != nil {
			t.Fatal(err)
		}
		version := a.State().Version
		a.Receive("B", f)
		c.ready(a)
		if admitted := a.State().Version != version; admitted != (name == "good") {
			t.Errorf("%s: admitted %t", name, admitted)
		}
	}
}
