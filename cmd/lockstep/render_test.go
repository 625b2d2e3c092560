package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
)

// pair is a healthy pair with a witness, seen from its primary n1.
func pair() *control.Status {
	return &control.Status{
		Node: "n1", Version: "v1", Ledger: control.Ledger{Leader: "w", Quorum: true, Term: 3, Applied: 40},
		Nodes: []control.Node{{Name: "n1", Alive: true, Voter: true}, {Name: "n2", Alive: true, Voter: true}, {Name: "w", Alive: true, Witness: true, Leader: true, Voter: true}},
		Resources: []control.Resource{{
			Name: "r0", Epoch: 4, Primary: "n1", InSync: []string{"n1", "n2"}, Role: control.RolePrimary, SizeBytes: 1 << 30,
			IO: control.IO{State: control.IORunning}, DiskState: control.DiskUpToDate,
			Replicas: []control.Replica{
				{Node: "n1", DiskState: control.DiskUpToDate, Connection: control.ConnLocal, InSync: true},
				{Node: "n2", DiskState: control.DiskUpToDate, Connection: control.ConnConnected, InSync: true, UnstableBytes: 12 << 10},
			},
			NBD: control.NBD{Unix: "/var/lib/lockstep/nbd.sock", TCP: "127.0.0.1:10809", Clients: 1},
		}},
	}
}

// states are what an operator meets; each has a golden file.
var states = map[string]func(*control.Status, *control.Resource){
	"healthy": func(*control.Status, *control.Resource) {},
	"empty":   func(st *control.Status, _ *control.Resource) { st.Resources = nil },
	"resync": func(_ *control.Status, r *control.Resource) {
		r.InSync = r.InSync[:1]
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskInconsistent, Connection: control.ConnConnected,
			DirtyBytes: 384 << 20, Resync: &control.Resync{Percent: 62.5, BytesPerSec: 96 << 20, ETASeconds: 4}}
	},
	"resync-paused": func(_ *control.Status, r *control.Resource) {
		r.InSync = r.InSync[:1]
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskInconsistent, Connection: control.ConnConnected,
			DirtyBytes: 1 << 20, Resync: &control.Resync{Percent: 99.9, ETASeconds: -1, Paused: true}}
	},
	"secondary-away": func(st *control.Status, r *control.Resource) {
		st.Nodes[1].Alive = false
		r.InSync = r.InSync[:1]
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskOutdated, Connection: control.ConnConnecting, DirtyBytes: 4 << 10}
		r.Advice = []string{"n2 is away and misses writes. The data is held by n1 alone. Next: start n2; it is copied to by itself.",
			"One line,\nand a second one."}
	},
	"frozen": func(st *control.Status, r *control.Resource) {
		st.Ledger = control.Ledger{}
		st.Nodes[1].Alive, st.Nodes[2].Alive = false, false
		r.IO = control.IO{State: control.IOFrozen, Reason: "n2 is silent and no majority records that"}
		r.Replicas[1].Connection, r.Replicas[1].DiskState = control.ConnConnecting, control.DiskUnknown
	},
	"secondary": func(st *control.Status, r *control.Resource) {
		st.Node, r.Role, r.IO.State = "n2", control.RoleSecondary, control.IONone
		r.Replicas[0].Connection, r.Replicas[1].Connection = control.ConnConnected, control.ConnLocal
		r.NBD.Clients = 0
	},
	"target": func(st *control.Status, r *control.Resource) {
		st.Node, r.Role, r.IO.State, r.DiskState = "n2", control.RoleSecondary, control.IONone, control.DiskInconsistent
		r.InSync = r.InSync[:1]
		r.Replicas[0].Connection = control.ConnConnected
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskInconsistent, Connection: control.ConnLocal,
			Resync: &control.Resync{Percent: 0.4, BytesPerSec: 900, ETASeconds: 4000}}
	},
	"no-primary": func(_ *control.Status, r *control.Resource) {
		r.Primary, r.Role, r.IO.State = "", control.RoleSecondary, control.IONone
	},
	"failed-diverged": func(_ *control.Status, r *control.Resource) {
		r.DiskState, r.Replicas[0].DiskState = control.DiskFailed, control.DiskFailed
		r.IO = control.IO{State: control.IOFailed, Reason: "write of r0.img: input/output error"}
		r.Replicas[1].DiskState, r.Replicas[1].Connection, r.Replicas[1].InSync = control.DiskDiverged, control.ConnRefused, false
	},
	"rejoining": func(st *control.Status, _ *control.Resource) { st.Nodes[1].Voter = false },
	"diverged": func(st *control.Status, r *control.Resource) {
		st.Ledger.Problem = "the ledger went on in two places; type 'lockstep ledger keep' or 'lockstep ledger give-up'"
		r.InSync = r.InSync[:1]
		var many []control.Generation
		for i := range maxGenerations + 2 {
			many = append(many, control.Generation{ID: fmt.Sprintf("d%d", i)})
		}
		many[len(many)-1].Node, many[len(many)-1].Epoch = "n2", 3
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskDiverged, Connection: control.ConnConnecting, Divergence: &control.Divergence{
			Fork: "a1", Recorded: []control.Generation{{ID: "b1", Node: "n1", Epoch: 4}}, Own: many, Bytes: 8 << 20}}
		r.Advice = []string{"n2 holds writes that the recorded history of r0 lacks."}
	},
	"diverged-here": func(st *control.Status, r *control.Resource) {
		st.Node, r.Role, r.IO.State, r.DiskState = "n2", control.RoleSecondary, control.IONone, control.DiskDiverged
		r.InSync = r.InSync[:1]
		r.Replicas[0].Connection = control.ConnConnecting
		r.Replicas[1] = control.Replica{Node: "n2", DiskState: control.DiskDiverged, Connection: control.ConnLocal, Divergence: &control.Divergence{
			Own: []control.Generation{{ID: "d2"}}, Bytes: -1}}
	},
	"verify-running": func(_ *control.Status, r *control.Resource) {
		r.Verify = &control.Verify{Running: true, Percent: 50, BytesPerSec: 1 << 30, ETASeconds: 90, Differences: 1}
	},
	"verify-done": func(_ *control.Status, r *control.Resource) {
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		r.Verify = &control.Verify{Percent: 100, Differences: 3, Repaired: 1, Finished: &at}
	},
}

func TestRenderStatus_EveryStateReadsAsPlanned(t *testing.T) {
	for name, change := range states {
		t.Run(name, func(t *testing.T) {
			st := pair()
			change(st, &st.Resources[0])
			golden(t, "testdata/status/"+name+".golden", string(renderStatus(st, false)))
		})
	}
}

func TestRenderStatus_ColoursAddNothingButColour(t *testing.T) {
	for name, change := range states {
		st := pair()
		change(st, &st.Resources[0])
		plain, coloured := string(renderStatus(st, false)), string(renderStatus(st, true))
		if strings.Contains(plain, "\x1b") || !strings.Contains(coloured, "\x1b[") {
			t.Errorf("%s: colours are wrong", name)
		}
		for _, code := range []string{colourGood, colourWarn, colourBad, colourBold, "0"} {
			coloured = strings.ReplaceAll(coloured, "\x1b["+code+"m", "")
		}
		if coloured != plain {
			t.Errorf("%s: without colours it reads:\n%s", name, coloured)
		}
	}
}

func TestBar_IsFullOnlyAtTheEnd(t *testing.T) {
	for percent, want := range map[float64]string{
		-5: "[>...................]", 0: "[>...................]", 50: "[==========>.........]",
		99.9: "[===================>]", 100: "[====================]", 200: "[====================]",
	} {
		if got := bar(percent); got != want {
			t.Errorf("%v: %s", percent, got)
		}
	}
}

func TestStatus_JSONAndColourFollowTheFlags(t *testing.T) {
	f := &fake{status: *pair()}
	vars := serve(t, f)
	code, out, _ := cli(t.Context(), vars, "status", "--json")
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	golden(t, "testdata/status.json.golden", out)
	var b strings.Builder
	for tty, vars := range map[bool]map[string]string{true: vars, false: {"LOCKSTEP_SOCKET": vars["LOCKSTEP_SOCKET"], "NO_COLOR": "1"}} {
		b.Reset()
		code = run(t.Context(), []string{"status"}, env{out: &b, err: &b, tty: true, getenv: func(k string) string { return vars[k] }})
		if code != exitOK || strings.Contains(b.String(), "\x1b") != tty {
			t.Errorf("colour %v: exit %d, %q", tty, code, b.String())
		}
	}
}

// stopWriter ends a watch after n looks.
type stopWriter struct {
	strings.Builder
	n    int
	stop context.CancelFunc
}

func (w *stopWriter) Write(p []byte) (int, error) {
	if w.n--; w.n == 0 {
		w.stop()
	}
	return w.Builder.Write(p)
}

func TestStatusWatch_EndsCleanlyWhenInterrupted(t *testing.T) {
	f := &fake{status: *pair()}
	vars := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	w := &stopWriter{n: 1, stop: cancel}
	code := run(ctx, []string{"status", "--watch"}, env{out: w, err: w, getenv: func(k string) string { return vars[k] }})
	if code != exitOK || strings.Count(w.String(), "r0 role:") != 1 {
		t.Errorf("exit %d, %q", code, w.String())
	}
}

func TestLabHints_NameThePrimaryAndQuoteForTheShell(t *testing.T) {
	st := lab.State{Dir: "/tmp/my lab", Resource: "r0", SizeBytes: 64 << 20, Nodes: []lab.Node{
		{Name: "n1", ControlSocket: "/tmp/my lab/n1/control.sock"},
		{Name: "n2", ControlSocket: "/tmp/my lab/n2/control.sock", NBDUnixURI: "nbd+unix:///r0?socket=/tmp/my%20lab/n2/nbd.sock", NBDTCPURI: "nbd://127.0.0.1:4000/r0"},
		{Name: "w", Witness: true},
	}}
	golden(t, "testdata/lab-hints.golden", labHints(&st, "n2"))
}
