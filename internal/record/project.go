package record

import (
	"time"

	"github.com/lockstep-ha/lockstep/internal/planted"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// Project returns rec as the replica self sees it, with peers in the order of
// replication.Config.Peers. A peer that the record does not list is outside the set and has
// instance 0. s is the State that rec is part of; without it, nil, no fence is known. The result
// shares rec's lineage, which is immutable.
//
// PrimaryIsMe compares node, instance, boot and process: a restarted process is not the primary
// that its predecessor was (safety rule 3).
func Project(s *quorum.State, rec *quorum.Resource, self quorum.Incumbent, peers []string) *replication.Record {
	out := &replication.Record{
		Version:     rec.Version,
		Epoch:       rec.Epoch,
		Primary:     rec.Primary.Node,
		PrimaryIsMe: !self.None() && rec.Primary == self,
		InSet:       make([]bool, len(peers)),
		Failed:      make([]bool, len(peers)),
		Instances:   make([]uint64, len(peers)),
		Lineage:     rec.Lineage,
		Size:        rec.SizeBytes,
		Lease:       time.Duration(rec.Policy.WithDefaults().Lease),
		Confirm:     rec.Policy.ReadsConfirm,
		MaxLease:    time.Duration(rec.LongestLease),
		Released:    released(s, rec),

		NoQuorumError:  rec.Policy.OnNoQuorum == quorum.NoQuorumError,
		FreezeDeadline: time.Duration(rec.Policy.FreezeDeadline),
	}
	if planted.On(planted.PrimaryFromRecord) && rec.Primary.Node == self.Node {
		out.PrimaryIsMe = true
	}
	if n := len(rec.Forced); n > 0 && rec.Forced[n-1].Epoch == rec.Epoch {
		out.Forced = true
	}
	if r := rec.Replica(self.Node); r != nil {
		out.SelfKnown = r.Instance != 0 && r.Instance == self.Instance
		// Another instance's place in the set says nothing about the data that is here.
		out.SelfInSet = r.InSet && out.SelfKnown
		out.SelfFailed = r.Failed && out.SelfKnown
	}
	for i, p := range peers {
		if r := rec.Replica(p); r != nil {
			out.InSet[i], out.Failed[i], out.Instances[i] = r.InSet, r.Failed, r.Instance
		}
	}
	return out
}

// released returns the epochs whose primary is known to serve no more.
func released(s *quorum.State, rec *quorum.Resource) []uint64 {
	if s == nil {
		s = &quorum.State{}
	}
	var out []uint64
	for _, e := range []uint64{rec.LastEpoch, rec.Epoch} {
		if s.Released(rec, e) {
			out = append(out, e)
		}
	}
	return out
}

// Peers returns the nodes that hold the other replicas of rec, sorted. The order is the order
// of bitmap slots, so it must not change while the replica lives; the record keeps it sorted.
func Peers(rec *quorum.Resource, self string) []string {
	var out []string
	for i := range rec.Replicas {
		if n := rec.Replicas[i].Node; n != self {
			out = append(out, n)
		}
	}
	return out
}
