package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// given is what the fake gives up.
var given = control.Loss{Node: "n2", Fork: "a1", Generations: []control.Generation{{ID: "d2", Node: "n2", Epoch: 3}}, Bytes: -1}

func (f *fake) ForcePromote(_ context.Context, r string, o control.ForceOptions) (control.ForceResult, error) {
	lost := given
	lost.Node = ""
	return control.ForceResult{Epoch: 4, Lost: lost}, f.note("force %s %v", r, o.ConfirmDown)
}
func (f *fake) Resolve(_ context.Context, r string, o control.ResolveOptions) (control.ResolveResult, error) {
	res := control.ResolveResult{Keep: "n1", Forced: true, Lost: []control.Loss{given}, Silent: []string{"n3"}}
	if o.DryRun {
		return res, f.err
	}
	res.Lost[0].Undo, res.Lost[0].Bytes = "/srv/r0.img.undo-d2", 8192
	return res, f.note("resolve %s %+v", r, o)
}
func (f *fake) ConfirmDown(_ context.Context, n string) error { return f.note("confirm down %s", n) }
func (f *fake) DecideLedger(_ context.Context, keep bool) error {
	return f.note("ledger %v", keep)
}

// answering is cli with a line on standard input.
func answering(ctx context.Context, vars map[string]string, answer string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(ctx, args, env{in: strings.NewReader(answer), out: &o, err: &e, getenv: func(k string) string { return vars[k] }})
	return code, o.String(), e.String()
}

func TestResolve_ShowsWhatWillBeLostAndAsks(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	for _, answer := range []string{"", "no\n", "y\n", "YES\n"} {
		f.call = ""
		code, out, errs := answering(t.Context(), vars, answer, "resolve", "r0", "--keep", "n1")
		if code != exitRefused || f.call != "" || out != "" || !strings.Contains(errs, "not confirmed, so nothing was done") {
			t.Errorf("answer %q: exit %d, call %q, %q %q", answer, code, f.call, out, errs)
		}
	}
	code, out, errs := answering(t.Context(), vars, "yes\n", "resolve", "r0", "--keep", "n1", "--copy", "--undo-dir", "/u")
	want := "resolve r0 {Undo:{Dir:/u Copy:true None:false} DryRun:false Expect:[{Node:n2 Newest:d2}]}"
	if code != exitOK || f.call != want {
		t.Errorf("exit %d, call %q", code, f.call)
	}
	golden(t, "testdata/resolve.golden", errs+"\n---\n"+out)
}

func TestResolve_YesAsksNobody(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	code, out, errs := cli(t.Context(), vars, "resolve", "r0", "--keep", "n1", "--yes", "--no-undo", "--json")
	var res control.ResolveResult
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitOK || errs != "" || res.Lost[0].Node != "n2" {
		t.Errorf("exit %d, %v, %q %q", code, err, out, errs)
	}
	if want := "resolve r0 {Undo:{Dir: Copy:false None:true} DryRun:false Expect:[]}"; f.call != want {
		t.Errorf("call %q", f.call)
	}
	f.call = ""
	if code, _, errs := cli(t.Context(), vars, "resolve", "r0", "--keep", "n1", "--json"); code != exitUsage || f.call != "" || !strings.Contains(errs, "add --yes") {
		t.Errorf("--json without --yes: exit %d, call %q, %q", code, f.call, errs)
	}
	f.err = control.ErrRefused.WithHint("type this")
	if code, _, errs := answering(t.Context(), vars, "yes\n", "resolve", "r0", "--keep", "n1"); code != exitRefused || !strings.Contains(errs, "type this") || strings.Contains(errs, "Type yes") {
		t.Errorf("a plan that is refused: exit %d, %q", code, errs)
	}
}
