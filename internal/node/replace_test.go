package node

import (
	"errors"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

func TestReplaceReplica_FailedDisk_IsHealedByANewInstanceAlone(t *testing.T) {
	c := promoted(t)
	n2 := c.nodes["n2"]
	if err := n2.ReplaceReplica(t.Context(), "r0"); !errors.Is(err, control.ErrRefused) {
		t.Errorf("in sync: %v", err)
	}
	p := c.nodes["n1"].m.find("r0").prop
	w := wish(p, replication.ProposeDrop)
	w.Failed = true
	if out, _ := p.Propose(t.Context(), w); out != replication.OutcomeApplied {
		t.Fatal(out)
	}
	old := c.record("r0").Replica("n2").Instance
	if !c.record("r0").Replica("n2").Failed {
		t.Fatal("not recorded as failed")
	}
	if err := n2.ReplaceReplica(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	now := c.record("r0").Replica("n2")
	if now.Instance == old || now.Failed || now.InSet {
		t.Errorf("recorded: %+v", now)
	}
	if rep, f := n2.m.find("r0").await(t.Context()); rep != nil && rep.Instance() != now.Instance {
		t.Errorf("open is %x, %v; recorded %x", rep.Instance(), f, now.Instance)
	}
}

func TestReplaceReplica_PathsThatCannotBeUsed_ChangeNothing(t *testing.T) {
	c := promoted(t)
	p := c.nodes["n1"].m.find("r0").prop
	if out, _ := p.Propose(t.Context(), wish(p, replication.ProposeDrop)); out != replication.OutcomeApplied {
		t.Fatal(out)
	}
	n2 := c.nodes["n2"]
	n2.opener.failWith = errors.New("read-only file system")
	old := c.record("r0").Replica("n2").Instance
	if err := n2.ReplaceReplica(t.Context(), "r0"); err == nil || errors.Is(err, control.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
	if now := c.record("r0").Replica("n2").Instance; now != old {
		t.Errorf("recorded is %x, was %x", now, old)
	}
}

func TestMayReplace(t *testing.T) {
	rec := func(change func(*quorum.Resource)) *quorum.Resource {
		r := &quorum.Resource{Name: "r0", Epoch: 2, Primary: quorum.Incumbent{Node: "n1"}, Replicas: []quorum.Replica{
			{Node: "n1", Instance: 1, InSet: true}, {Node: "n2", Instance: 2},
		}}
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		rec   *quorum.Resource
		hangs bool
		ok    bool
	}{
		"outside of the set":      {rec(func(*quorum.Resource) {}), false, true},
		"with a disk that failed": {rec(func(r *quorum.Resource) { r.Replicas[1].Failed = true }), false, true},
		"with a disk that hung":   {rec(func(*quorum.Resource) {}), true, false},
		"the primary":             {rec(func(r *quorum.Resource) { r.Primary.Node = "n2" }), false, false},
		"in sync":                 {rec(func(r *quorum.Resource) { r.Replicas[1].InSet = true }), false, false},
		"the last in sync":        {rec(func(r *quorum.Resource) { r.Replicas[0].InSet, r.Replicas[1].InSet = false, true }), false, false},
		"not made yet":            {rec(func(r *quorum.Resource) { r.Replicas[1].Instance = 0 }), false, false},
		"of a new resource":       {rec(func(r *quorum.Resource) { r.Epoch = 0 }), false, false},
		"of nobody":               {rec(func(r *quorum.Resource) { r.Replicas = r.Replicas[:1] }), false, false},
	} {
		if err := mayReplace(tc.rec, "n2", tc.hangs); (err == nil) != tc.ok || err != nil && !errors.Is(err, control.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
