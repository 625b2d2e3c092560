package control

import (
	"context"
	"errors"
	"reflect"
	"testing"
)

// settled is what the fake answers when something is settled.
var settled = struct {
	force   ForceResult
	resolve ResolveResult
	givenUp GivenUp
}{
	ForceResult{Epoch: 4, Lost: Loss{Fork: "a", Generations: []Generation{{ID: "b", Node: "n1", Epoch: 2}}, Bytes: -1}},
	ResolveResult{Keep: "n1", Forced: true, Silent: []string{"n3"}, Lost: []Loss{{Node: "n2", Generations: []Generation{}, Undo: "/u"}}},
	GivenUp{Undo: "/u", Shared: true},
}

func (f *fake) ForcePromote(_ context.Context, r string, o ForceOptions) (ForceResult, error) {
	return settled.force, f.note("force %s %v", r, o.ConfirmDown)
}
func (f *fake) Resolve(_ context.Context, r string, o ResolveOptions) (ResolveResult, error) {
	return settled.resolve, f.note("resolve %s %+v", r, o)
}
func (f *fake) GiveUp(_ context.Context, r string, o GiveUpOptions) (GivenUp, error) {
	return settled.givenUp, f.note("give up %s %+v", r, o)
}
func (f *fake) ConfirmDown(_ context.Context, n string) error { return f.note("confirm down %s", n) }
func (f *fake) DecideLedger(_ context.Context, keep bool) error {
	return f.note("ledger %v", keep)
}

func TestSettler_CallsReachTheBackendAndAnswersComeBack(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	ctx := t.Context()
	for want, call := range map[string]func() (got, sent any, err error){
		"force r0 [n2 n3]": func() (any, any, error) {
			res, err := c.ForcePromote(ctx, "r0", ForceOptions{ConfirmDown: []string{"n2", "n3"}})
			return res, settled.force, err
		},
		"resolve r0 {Undo:{Dir:/u Copy:true None:false} DryRun:true Expect:[{Node:n2 Newest:ff}]}": func() (any, any, error) {
			res, err := c.Resolve(ctx, "r0", ResolveOptions{Undo: Undo{Dir: "/u", Copy: true}, DryRun: true, Expect: []Expected{{"n2", "ff"}}})
			return res, settled.resolve, err
		},
		"give up r0 {Undo:{Dir: Copy:false None:true} Newest:ff Try:true}": func() (any, any, error) {
			res, err := c.GiveUp(ctx, "r0", GiveUpOptions{Undo: Undo{None: true}, Newest: "ff", Try: true})
			return res, settled.givenUp, err
		},
		"confirm down n2": func() (any, any, error) { return nil, nil, c.ConfirmDown(ctx, "n2") },
		"ledger true":     func() (any, any, error) { return nil, nil, c.DecideLedger(ctx, true) },
		"ledger false":    func() (any, any, error) { return nil, nil, c.DecideLedger(ctx, false) },
	} {
		got, sent, err := call()
		if err != nil || !reflect.DeepEqual(got, sent) {
			t.Errorf("%s: %v, got %+v, sent %+v", want, err, got, sent)
		}
		if called := f.take(); called != want {
			t.Errorf("got  %s\nwant %s", called, want)
		}
	}
}

func TestSettler_ErrorsComeBackFromStreamsToo(t *testing.T) {
	f := &fake{err: ErrDiverged.WithHint("type this").WithSafety(SafetyYes)}
	c := NewClient(start(t, "n1", f, nil))
	_, resolve := c.Resolve(t.Context(), "r0", ResolveOptions{})
	_, giveUp := c.GiveUp(t.Context(), "r0", GiveUpOptions{})
	_, force := c.ForcePromote(t.Context(), "r0", ForceOptions{})
	for _, err := range []error{resolve, giveUp, force, c.ConfirmDown(t.Context(), "n2"), c.DecideLedger(t.Context(), true)} {
		if !errors.Is(err, ErrDiverged) || AsError(err).Hint != "type this" {
			t.Errorf("%v", err)
		}
	}
}

func TestSettler_WhatMakesNoSenseReachesNobody(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	for _, u := range []Undo{{None: true, Copy: true}, {None: true, Dir: "/u"}, {Dir: "relative"}} {
		if _, err := c.Resolve(t.Context(), "r0", ResolveOptions{Undo: u}); !errors.Is(err, ErrUsage) {
			t.Errorf("resolve with %+v: %v", u, err)
		}
		if _, err := c.GiveUp(t.Context(), "r0", GiveUpOptions{Undo: u}); !errors.Is(err, ErrUsage) {
			t.Errorf("give-up with %+v: %v", u, err)
		}
	}
	if _, err := c.ForcePromote(t.Context(), "r0", ForceOptions{ConfirmDown: []string{"n 2"}}); !errors.Is(err, ErrUsage) {
		t.Errorf("a node without a name: %v", err)
	}
	if err := c.ConfirmDown(t.Context(), "n 2"); !errors.Is(err, ErrUsage) {
		t.Errorf("a node without a name: %v", err)
	}
	if got := f.take(); got != "" {
		t.Errorf("the backend was called: %s", got)
	}
}
