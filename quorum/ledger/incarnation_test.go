package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// alone stops every other node and has name go on alone.
func (c *cluster) alone(name string) {
	c.Helper()
	for _, n := range c.all() {
		if n != name {
			c.stop(n)
		}
	}
	c.until(name, "without a quorum", func(s Status) bool { return !s.HasQuorum })
	if err := c.nodes[name].OpenIncarnation(context.Background(), "the operator says that B is down"); err != nil {
		c.Fatal(err)
	}
}

// Two nodes without a witness: B dies, A goes on alone, B comes back and gives its ledger up.
func TestOpenIncarnation_PeerComesBackAsANewVoter(t *testing.T) {
	c := newCluster(t, nil, "A", "B")
	c.start("A", "B")
	c.leader("A", "B")
	c.create("A", "r0", 1)
	parent, old := c.nodes["A"].Status().Incarnation, c.nodes["B"].Status().Voter
	c.alone("A")
	c.create("A", "r1", 2)
	s := c.nodes["A"].State()
	if s.Incarnation.Parent != parent || s.Incarnation.Counter != 2 || !strings.Contains(s.Statement, "B is down") {
		t.Fatalf("%+v %q", s.Incarnation, s.Statement)
	}
	if err := c.nodes["A"].OpenIncarnation(t.Context(), "again"); !errors.Is(err, ErrAlone) {
		t.Error(err)
	}
	c.stop("A")
	c.start("A", "B")
	voting := func(s Status) bool {
		return len(s.Voters) == 2 && !s.Voters[0].Learner && !s.Voters[1].Learner && s.Problem == "" && s.HasQuorum && s.Incarnation != parent
	}
	b := c.until("B", "a voter again", voting)
	c.until("A", "with two voters", voting)
	if b.Voter == old || c.barrier("B").Find("r1") == nil {
		t.Errorf("B is voter %x, was %x; state %+v", b.Voter, old, c.nodes["B"].State())
	}
	if _, err := os.Stat(filepath.Join(c.nodes["B"].dir, fmt.Sprintf("ledger.db.%x", parent))); err != nil {
		t.Error(err)
	}
	c.stop("B")
	c.start("B")
	c.leader("A", "B")
	c.create("B", "r2", 3)
}

// Both nodes of a pair went on alone: an operator chooses.
func TestOpenIncarnation_OnBothSidesWaitsForTheOperator(t *testing.T) {
	c := newCluster(t, nil, "A", "B")
	c.start("A", "B")
	c.leader("A", "B")
	c.net.split("A", "B")
	for i, n := range c.all() {
		c.until(n, "without a quorum", func(s Status) bool { return !s.HasQuorum })
		if err := c.nodes[n].OpenIncarnation(t.Context(), "wrong"); err != nil {
			t.Fatal(err)
		}
		if err := c.propose(n, createCmd(c.barrier(n), "r"+n, uint64(i+1), n)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.net.heal("A", "B")
	for _, n := range c.all() {
		c.until(n, "stopped", func(s Status) bool { return strings.Contains(s.Problem, "lockstep ledger keep") && !s.HasQuorum })
	}
	if err := c.nodes["A"].GiveUpLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["B"].KeepLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes["B"].KeepLedger(t.Context()); !errors.Is(err, ErrNoConflict) {
		t.Error(err)
	}
	c.until("A", "a voter again", func(s Status) bool { return len(s.Voters) == 2 && s.HasQuorum && s.Problem == "" })
	if s := c.barrier("A"); s.Find("rB") == nil || s.Find("rA") != nil {
		t.Errorf("A has %+v", s.Resources)
	}
}
