package node

import (
	"reflect"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

func TestParting(t *testing.T) {
	for name, tc := range map[string]struct {
		recorded, held []uint64
		fork           uint64
		beyond, own    []uint64
	}{
		"equal":                    {[]uint64{1, 2}, []uint64{1, 2}, 2, []uint64{}, []uint64{}},
		"a laggard":                {[]uint64{1, 2, 3}, []uint64{1}, 1, []uint64{2, 3}, []uint64{}},
		"two timelines":            {[]uint64{1, 4, 5}, []uint64{1, 2, 3}, 1, []uint64{4, 5}, []uint64{2, 3}},
		"cut at the front":         {[]uint64{3, 4}, []uint64{1, 2, 3, 9}, 3, []uint64{4}, []uint64{9}},
		"nothing in common":        {[]uint64{1}, []uint64{2}, 0, []uint64{1}, []uint64{2}},
		"nothing held":             {[]uint64{1}, nil, 0, []uint64{1}, nil},
		"ahead of a record's copy": {[]uint64{1}, []uint64{1, 2}, 1, []uint64{}, []uint64{2}},
	} {
		fork, beyond, own := parting(tc.recorded, tc.held)
		if fork != tc.fork || !reflect.DeepEqual(beyond, tc.beyond) || !reflect.DeepEqual(own, tc.own) {
			t.Errorf("%s: fork %d, beyond %v, own %v", name, fork, beyond, own)
		}
	}
}

// forcedRecord is r0 after n1 (epoch 3) died and n2 was forced (epoch 4): n1 opened 0xa2, n2 0xb1
// and, when it dropped another replica, 0xb2.
func forcedRecord() *quorum.Resource {
	return &quorum.Resource{
		Name: "r0", ID: 1, SizeBytes: 1 << 20, Version: 9, Epoch: 4, Lineage: []uint64{0xa0, 0xa1, 0xb1, 0xb2},
		Primary: quorum.Incumbent{Node: "n2"}, LastPrimary: quorum.Incumbent{Node: "n1"}, LastEpoch: 3,
		Replicas: []quorum.Replica{{Node: "n1", Instance: 1}, {Node: "n2", Instance: 2, InSet: true}},
		Forced:   []quorum.Forced{{Epoch: 4, Node: "n2", Fork: 0xa1, Generation: 0xb1, Cut: []uint64{0xa2, 0xa3}, CutCount: 2}},
	}
}

func TestDivergence_ShowsBothTimelinesWithWhatTheRecordKnows(t *testing.T) {
	want := &control.Divergence{
		Fork: "a1", Bytes: 4096,
		Recorded: []control.Generation{{ID: "b1", Node: "n2", Epoch: 4}, {ID: "b2", Node: "n2", Epoch: 4}},
		Own:      []control.Generation{{ID: "a2"}, {ID: "a3", Node: "n1", Epoch: 3}},
	}
	held := []uint64{0xa0, 0xa1, 0xa2, 0xa3}
	if got := divergence(forcedRecord(), held, 4096); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if d := divergence(forcedRecord(), held[:2], 4096); d != nil {
		t.Errorf("a laggard: %+v", d)
	}
	for _, bytes := range []int64{0, 1 << 20} {
		if d := divergence(forcedRecord(), held, bytes); d.Bytes != -1 {
			t.Errorf("%d of all bytes were tracked, which says nothing: %d", bytes, d.Bytes)
		}
	}
}

func TestDivergence_LaterPrimariesAreNotTakenForEarlierOnes(t *testing.T) {
	rec := forcedRecord()
	rec.Epoch, rec.LastPrimary.Node, rec.LastEpoch, rec.Primary.Node = 5, "n2", 4, "n3"
	rec.Lineage = append(rec.Lineage, 0xc1)
	d := divergence(rec, []uint64{0xa1, 0xa3}, -1)
	if d.Own[0].Node != "" || d.Recorded[1].Node != "" {
		t.Errorf("somebody is named who is not known: %+v", d)
	}
	if d.Recorded[0].Node != "n2" || d.Recorded[2] != (control.Generation{ID: "c1", Node: "n3", Epoch: 5}) {
		t.Errorf("%+v", d.Recorded)
	}
}

func TestDivergenceOf_PeerThatWasRefused(t *testing.T) {
	st := &replication.Status{Lineage: []uint64{0xa0, 0xa1, 0xb1, 0xb2}, Peers: []replication.PeerStatus{
		{Node: "n1", Timeline: &replication.Timeline{Fork: 0xa1, Ours: []uint64{0xb1, 0xb2}, Theirs: []uint64{0xa2}}},
		{Node: "n3"},
	}}
	if d := divergenceOf(forcedRecord(), "n1", st); d == nil || d.Fork != "a1" || len(d.Own) != 1 || d.Own[0].ID != "a2" || d.Bytes != -1 {
		t.Errorf("%+v", d)
	}
	if d := divergenceOf(forcedRecord(), "n3", st); d != nil {
		t.Errorf("a peer that only lags: %+v", d)
	}
}

func TestLossText_SaysWhatIsKnown(t *testing.T) {
	l := control.Loss{Fork: "a1", Generations: []control.Generation{{ID: "a2"}, {ID: "a3", Node: "n1", Epoch: 3}}, Bytes: 4096}
	got := lossText(l)
	for _, want := range []string{"2 generations", "n1 as primary, epoch 3", "since generation a1", "at most 4096 bytes"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	if got := lossText(control.Loss{}); !strings.Contains(got, "no generation") {
		t.Errorf("nothing lost: %q", got)
	}
}
