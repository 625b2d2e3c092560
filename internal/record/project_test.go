package record

import (
	"reflect"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

func TestProject(t *testing.T) {
	me := quorum.Incumbent{Node: "n2", Instance: 22, Boot: "b", Process: 9}
	base := quorum.Resource{
		Name: "r0", ID: 1, SizeBytes: 1 << 20, Version: 7, Epoch: 3, Lineage: []uint64{5, 6}, Primary: me,
		Replicas: []quorum.Replica{
			{Node: "n1", Instance: 11, InSet: true},
			{Node: "n2", Instance: 22, InSet: true},
			{Node: "n3", Instance: 33, Failed: true},
		},
	}
	whole := replication.Record{
		Version: 7, Epoch: 3, Primary: "n2", PrimaryIsMe: true, SelfInSet: true, SelfKnown: true,
		InSet: []bool{true, false}, Failed: []bool{false, true}, Instances: []uint64{11, 33},
		Lineage: []uint64{5, 6}, Size: 1 << 20, Lease: 300 * time.Millisecond,
	}
	cases := []struct {
		name   string
		change func(rec *quorum.Resource, self *quorum.Incumbent, want *replication.Record)
	}{
		{"as recorded", func(*quorum.Resource, *quorum.Incumbent, *replication.Record) {}},
		{"an earlier process is not me", func(_ *quorum.Resource, self *quorum.Incumbent, want *replication.Record) {
			self.Process, want.PrimaryIsMe = 10, false
		}},
		{"an earlier boot is not me", func(_ *quorum.Resource, self *quorum.Incumbent, want *replication.Record) {
			self.Boot, want.PrimaryIsMe = "c", false
		}},
		{"another instance is neither known nor in the set", func(_ *quorum.Resource, self *quorum.Incumbent, want *replication.Record) {
			self.Instance, want.PrimaryIsMe, want.SelfInSet, want.SelfKnown = 23, false, false, false
		}},
		{"another node is primary", func(rec *quorum.Resource, _ *quorum.Incumbent, want *replication.Record) {
			rec.Primary = quorum.Incumbent{Node: "n1", Instance: 11, Boot: "b", Process: 9}
			want.Primary, want.PrimaryIsMe = "n1", false
		}},
		{"nobody is primary", func(rec *quorum.Resource, _ *quorum.Incumbent, want *replication.Record) {
			rec.Primary = quorum.Incumbent{}
			want.Primary, want.PrimaryIsMe, want.Released = "", false, []uint64{3}
		}},
		{"not registered yet", func(rec *quorum.Resource, self *quorum.Incumbent, want *replication.Record) {
			rec.Replicas[1].Instance, self.Instance = 0, 0
			want.PrimaryIsMe, want.SelfKnown, want.SelfInSet = false, false, false
		}},
		{"failed", func(rec *quorum.Resource, _ *quorum.Incumbent, want *replication.Record) {
			rec.Replicas[1].Failed, want.SelfFailed = true, true
		}},
		{"a peer that is not in the record", func(rec *quorum.Resource, _ *quorum.Incumbent, want *replication.Record) {
			rec.Replicas = rec.Replicas[:2]
			want.Failed, want.Instances = []bool{false, false}, []uint64{11, 0}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rec, self, want := base, me, whole
			rec.Replicas = append([]quorum.Replica(nil), base.Replicas...)
			c.change(&rec, &self, &want)
			if got := Project(nil, &rec, self, []string{"n1", "n3"}); !reflect.DeepEqual(*got, want) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
	t.Run("what the policy says about a lost quorum", func(t *testing.T) {
		rec := base
		rec.Policy = quorum.Policy{OnNoQuorum: quorum.NoQuorumError, FreezeDeadline: 2e9}
		if got := Project(nil, &rec, me, []string{"n1", "n3"}); !got.NoQuorumError || got.FreezeDeadline != 2*time.Second {
			t.Errorf("%+v", *got)
		}
	})
	t.Run("nobody at all is not primary of a record without one", func(t *testing.T) {
		if Project(nil, &quorum.Resource{Name: "r0"}, quorum.Incumbent{}, nil).PrimaryIsMe {
			t.Error("PrimaryIsMe")
		}
	})
}
