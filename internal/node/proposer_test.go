package node

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// led returns a ledger in which n1 is primary of r0 over {n1, n2}, and n1's proposer.
func led(t *testing.T) (*fakeLedger, *proposer) {
	t.Helper()
	l := newFakeLedger(t, "n1", "n2", "w")
	rec := l.must(t, quorum.Command{Resource: "r0", ResourceID: 77, Version: l.state.Version, CreateResource: &quorum.CreateResource{
		SizeBytes: 1 << 20, Replicas: []quorum.NewReplica{{Node: "n1", DataPath: "/a"}, {Node: "n2", DataPath: "/b"}},
	}})
	for i, n := range []string{"n1", "n2"} {
		c := quorum.On(rec)
		c.RegisterReplica = &quorum.RegisterReplica{Node: n, Instance: uint64(i + 11)}
		rec = l.must(t, c)
	}
	self := quorum.Incumbent{Node: "n1", Instance: 11, Boot: "b", Process: 5}
	c := quorum.On(rec)
	c.Promote = &quorum.Promote{Candidate: self, NewEpoch: 1, Generation: 1001}
	rec = l.must(t, c)
	l.seen = nil
	return l, &proposer{ledger: l, log: slog.New(slog.DiscardHandler), self: self, name: "r0", id: 77, peers: []string{"n2"}, fresh: randomID, newest: rec}
}

func wish(p *proposer, k replication.ProposalKind) replication.Proposal {
	rec := p.note(nil)
	return replication.Proposal{Kind: k, Epoch: rec.Epoch, Version: rec.Version, Peers: []replication.Peer{0}}
}

func TestProposer_OutcomeFollowsTheAnswer(t *testing.T) {
	cases := []struct {
		name  string
		fates []fate
		kinds []replication.ProposalKind
		want  replication.Outcome // of the last kind
		tries int                 // of the last kind
	}{
		{"drop is applied", nil, []replication.ProposalKind{replication.ProposeDrop}, replication.OutcomeApplied, 1},
		{"drop of one that is not in the set is refused", nil, []replication.ProposalKind{replication.ProposeDrop, replication.ProposeDrop}, replication.OutcomeRefused, 1},
		{"join after a drop is applied", nil, []replication.ProposalKind{replication.ProposeDrop, replication.ProposeJoin}, replication.OutcomeApplied, 1},
		{"step down is applied", nil, []replication.ProposalKind{replication.ProposeStepDown}, replication.OutcomeApplied, 1},
		{"certainly not done", []fate{notDone}, []replication.ProposalKind{replication.ProposeDrop}, replication.OutcomeNotDone, 1},
		{"a lost answer is asked for again, and the effect found", []fate{lostAfter}, []replication.ProposalKind{replication.ProposeDrop}, replication.OutcomeApplied, 2},
		{"a lost join is found", []fate{answered, lostAfter}, []replication.ProposalKind{replication.ProposeDrop, replication.ProposeJoin}, replication.OutcomeApplied, 2},
		{"a lost step down is found", []fate{lostAfter}, []replication.ProposalKind{replication.ProposeStepDown}, replication.OutcomeApplied, 2},
		{"a lost proposal is repeated", []fate{lostBefore, lostBefore}, []replication.ProposalKind{replication.ProposeDrop}, replication.OutcomeApplied, 3},
		{"after a lost answer, not done says nothing", []fate{lostAfter, notDone}, []replication.ProposalKind{replication.ProposeDrop}, replication.OutcomeApplied, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, p := led(t)
				l.fates = c.fates
				var out replication.Outcome
				var rec *replication.Record
				for _, k := range c.kinds {
					l.seen = nil
					out, rec = p.Propose(t.Context(), wish(p, k))
				}
				if out != c.want || len(l.seen) != c.tries {
					t.Fatalf("outcome %d after %d tries, want %d after %d", out, len(l.seen), c.want, c.tries)
				}
				for _, again := range l.seen[1:] {
					if again.Version != l.seen[0].Version || again.String() != l.seen[0].String() {
						t.Errorf("%s was repeated as %s", l.seen[0].String(), again.String())
					}
				}
				if want := l.State().Find("r0").Version; rec.Version != want {
					t.Errorf("record of version %d, want the newest, %d", rec.Version, want)
				}
			})
		})
	}
}

func TestProposer_UnknownOutcomeIsAskedForUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := led(t)
		for range 1000 {
			l.fates = append(l.fates, lostBefore)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*attemptTimeout)
		defer cancel()
		out, rec := p.Propose(ctx, wish(p, replication.ProposeDrop))
		if out != replication.OutcomeUnknown || rec == nil {
			t.Fatalf("outcome %d, record %v", out, rec)
		}
		if n := len(l.seen); n < 10 || n > 60 {
			t.Errorf("asked %d times in 15 s, want the pause to grow to 500 ms", n)
		}
	})
}

func TestProposer_StaleProposalIsRefusedWithTheNewestRecord(t *testing.T) {
	l, p := led(t)
	old := wish(p, replication.ProposeDrop)
	c := quorum.On(l.State().Find("r0"))
	c.NoOp = &quorum.NoOp{}
	want := l.must(t, c).Version
	out, rec := p.Propose(t.Context(), old)
	if out != replication.OutcomeRefused || rec.Version != want || !rec.InSet[0] {
		t.Errorf("outcome %d, record %+v, want a refusal with version %d", out, rec, want)
	}
}

func TestProposer_HoldGoesWithAnOperatorsDemoteAlone(t *testing.T) {
	for _, hold := range []bool{true, false} {
		l, p := led(t)
		p.setHold(hold)
		p.Propose(t.Context(), wish(p, replication.ProposeStepDown))
		if got := l.State().Find("r0").Hold; got != hold {
			t.Errorf("hold %v recorded as %v", hold, got)
		}
	}
}
