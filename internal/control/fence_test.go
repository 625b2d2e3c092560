package control

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"
)

// fenced is what the fake answers when it is asked about fences.
var fenced = struct {
	report  FenceReport
	record  FenceRecord
	unfence UnfenceResult
	history FenceHistory
}{
	FenceReport{Node: "n2", By: "n1", Works: true, Findings: []FenceFinding{{Device: "a", Severity: FenceGood, Text: "it answers"}}},
	FenceRecord{Node: "n2", Boot: "b", By: "n1", Phase: FenceConfirmed, Text: "off"},
	UnfenceResult{Attempts: []FenceAttempt{}, Was: &FenceRecord{Node: "n2", Phase: FenceFailed}},
	FenceHistory{Node: "n1", Can: []string{"n2"}, Recorded: []FenceRecord{}, Attempts: []FenceAttempt{
		{Node: "n2", Device: "a", Level: 1, Try: 2, Action: "off", Begun: time.Unix(1, 0).UTC(), Ended: time.Unix(2, 0).UTC(), Failure: "no"},
	}},
}

func (f *fake) FenceTest(_ context.Context, n string) (FenceReport, error) {
	return fenced.report, f.note("fence test %s", n)
}
func (f *fake) Fence(_ context.Context, n string, o FenceOptions) (FenceRecord, error) {
	return fenced.record, f.note("fence %s %+v", n, o)
}
func (f *fake) Unfence(_ context.Context, n string) (UnfenceResult, error) {
	return fenced.unfence, f.note("unfence %s", n)
}
func (f *fake) FenceHistory(context.Context) (FenceHistory, error) {
	return fenced.history, f.note("fence history")
}

func TestFencer_CallsReachTheBackendAndAnswersComeBack(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	for want, call := range map[string]func() (got, answer any, err error){
		"fence test n2": func() (any, any, error) { r, err := c.FenceTest(t.Context(), "n2"); return r, fenced.report, err },
		"fence n2 {By:w}": func() (any, any, error) {
			r, err := c.Fence(t.Context(), "n2", FenceOptions{By: "w"})
			return r, fenced.record, err
		},
		"unfence n2":    func() (any, any, error) { r, err := c.Unfence(t.Context(), "n2"); return r, fenced.unfence, err },
		"fence history": func() (any, any, error) { r, err := c.FenceHistory(t.Context()); return r, fenced.history, err },
	} {
		got, answer, err := call()
		if err != nil || !reflect.DeepEqual(got, answer) {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
		if call := f.take(); call != want {
			t.Errorf("called %s, want %s", call, want)
		}
	}
}

func TestFencer_NamesThatAreNoneReachNobody(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	_, err := c.Fence(t.Context(), "n 2", FenceOptions{})
	_, err2 := c.Fence(t.Context(), "n2", FenceOptions{By: "n 1"})
	_, err3 := c.Unfence(t.Context(), "n 2")
	_, err4 := c.FenceTest(t.Context(), "n 2")
	for _, err := range []error{err, err2, err3, err4} {
		if !errors.Is(err, ErrUsage) {
			t.Errorf("%v", err)
		}
	}
	if got := f.take(); got != "" {
		t.Errorf("called %s", got)
	}
}
