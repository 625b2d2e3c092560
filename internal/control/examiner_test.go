package control

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"
)

// examined is what the fake answers when it is examined.
var examined = struct {
	facts Facts
	link  LinkReport
	token DrillAnswer
}{
	Facts{
		Node: "n1", Boot: "b", Timing: Timing{Preset: "lan", Lease: 300 * time.Millisecond}, DataDir: Disk{Path: "/d", Disks: []string{"sda"}},
		Replicas: []ReplicaFacts{{Resource: "r0", Open: true, Data: Disk{Disks: []string{"sda"}}, Meta: Disk{Disks: []string{}}}},
		Peers:    []PeerFacts{{Node: "n2", RTT: 71 * time.Microsecond, ClockAhead: -3}}, Fences: []string{"n2"}, WritePath: WritePath{Lacks: []WriteLack{}, Off: []string{}},
	},
	LinkReport{From: "n1", To: "n2", Sent: 3, Answered: 2, Lost: 1, Verdict: LinkUnfit, Text: "no", Done: true},
	DrillAnswer{Token: "t"},
}

func (f *fake) Facts(context.Context) (Facts, error) { return examined.facts, f.note("facts") }

func (f *fake) LinkCheck(_ context.Context, o LinkOptions, progress func(LinkReport) error) (LinkReport, error) {
	for n := range 2 {
		if err := progress(LinkReport{Sent: n + 1, Done: true}); err != nil { // the server knows better what is done
			return LinkReport{}, err
		}
	}
	return examined.link, f.note("link %+v", o)
}

func (f *fake) Drill(_ context.Context, o DrillOrder) (DrillAnswer, error) {
	return examined.token, f.note("drill %+v", o)
}

func TestExaminer_CallsReachTheBackendAndAnswersComeBack(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	facts, err := c.Facts(t.Context())
	if err != nil || !reflect.DeepEqual(facts, examined.facts) || f.take() != "facts" {
		t.Errorf("facts: %+v, %v", facts, err)
	}
	var heard []int
	opts := LinkOptions{Peer: "n2", Count: 3, Interval: 20 * time.Millisecond, Timeout: time.Second}
	link, err := c.LinkCheck(t.Context(), opts, func(r LinkReport) error { heard = append(heard, r.Sent); return nil })
	if err != nil || !reflect.DeepEqual(link, examined.link) || !reflect.DeepEqual(heard, []int{1, 2}) {
		t.Errorf("link check: %+v, %v, heard %v", link, err, heard)
	}
	if got := f.take(); got != "link {Peer:n2 Count:3 Interval:20ms Timeout:1s}" {
		t.Errorf("called %s", got)
	}
	a, err := c.Drill(t.Context(), DrillOrder{Op: DrillStill, Token: "t", For: time.Second})
	if err != nil || a != examined.token {
		t.Errorf("drill: %+v, %v", a, err)
	}
	if got := f.take(); got != "drill {Op:still Token:t For:1s Resource: Paths:[]}" {
		t.Errorf("called %s", got)
	}
}

func TestLinkCheck_EndsWhenItsReaderHasHeardEnough(t *testing.T) {
	c := NewClient(start(t, "n1", &fake{}, nil))
	enough := errors.New("enough")
	if _, err := c.LinkCheck(t.Context(), LinkOptions{Peer: "n2", Count: 1, Interval: time.Second}, func(LinkReport) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

func TestLinkCheck_WhatIsOutOfBoundsReachesNobody(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	for _, o := range []LinkOptions{
		{}, {Peer: "n 2", Count: 1, Interval: time.Second}, {Peer: "n2", Interval: time.Second}, {Peer: "n2", Count: MaxLinkProbes + 1, Interval: time.Second},
		{Peer: "n2", Count: 1}, {Peer: "n2", Count: 1, Interval: time.Hour}, {Peer: "n2", Count: 1, Interval: time.Second, Timeout: -1},
	} {
		if _, err := c.LinkCheck(t.Context(), o, func(LinkReport) error { return nil }); !errors.Is(err, ErrUsage) || f.take() != "" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestFacts_ListsAreNeverNull(t *testing.T) {
	f := Facts{Replicas: []ReplicaFacts{{}}}
	f.normalize()
	if f.Fences == nil || f.Peers == nil || f.DataDir.Disks == nil || f.Replicas[0].Data.Disks == nil || f.Replicas[0].Meta.Disks == nil {
		t.Errorf("%+v", f)
	}
}

func TestScratchName_FitsNothingElse(t *testing.T) {
	for name, fits := range map[string]bool{"drill-s7t3avd6": true, "drill-": false, "r0": false, "drill-s7t3avd6x": false, "xdrill-s7t3avd6": false, "drill-../../a": false, "drill-S7T3AVD6": false} {
		if ScratchName.MatchString(name) != fits {
			t.Errorf("%s: %v", name, !fits)
		}
	}
}
