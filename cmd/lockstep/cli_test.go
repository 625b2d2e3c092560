package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ha/lockstep/internal/control"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares got with the golden file, or writes it with -rewrite.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if that is right: go test ./cmd/lockstep -rewrite\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// cli runs a command line without a terminal.
func cli(ctx context.Context, vars map[string]string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(ctx, args, env{out: &o, err: &e, getenv: func(k string) string { return vars[k] }})
	return code, o.String(), e.String()
}

// fake answers err to every call that changes something and notes it.
type fake struct {
	control.Backend // nil: what a test does not expect would panic
	status          control.Status
	err             error
	call            string
	result          control.VerifyResult
	events          []control.Event
}

func (f *fake) note(format string, args ...any) error {
	f.call = fmt.Sprintf(format, args...)
	return f.err
}

func (f *fake) Status(_ context.Context, name string) (control.Status, error) {
	if name == "" || len(f.status.Resources) == 0 || f.status.Resources[0].Name == name {
		return f.status, nil
	}
	return control.Status{}, control.Errorf(control.CodeNotFound, "there is no resource %s", name)
}
func (f *fake) CreateResource(_ context.Context, q control.CreateRequest) error {
	return f.note("create %+v", q)
}
func (f *fake) DropAttachment(_ context.Context, r string, n uint64) error {
	return f.note("drop %s %d", r, n)
}
func (f *fake) DeleteResource(_ context.Context, r string) error { return f.note("delete %s", r) }
func (f *fake) ResizeResource(_ context.Context, r string, n int64) error {
	return f.note("resize %s %d", r, n)
}
func (f *fake) Promote(_ context.Context, r string, o control.PromoteOptions) error {
	return f.note("promote %s %v", r, o.TakeOver)
}
func (f *fake) Demote(_ context.Context, r string) error { return f.note("demote %s", r) }
func (f *fake) Switchover(_ context.Context, r, to string) error {
	return f.note("switchover %s %s", r, to)
}
func (f *fake) Connect(_ context.Context, r, p string) error { return f.note("connect %s %s", r, p) }
func (f *fake) Disconnect(_ context.Context, r, p string) error {
	return f.note("disconnect %s %s", r, p)
}
func (f *fake) ReplaceReplica(_ context.Context, r string) error {
	return f.note("replace %s", r)
}
func (f *fake) Invalidate(_ context.Context, r string) error   { return f.note("invalidate %s", r) }
func (f *fake) PauseResync(_ context.Context, r string) error  { return f.note("pause %s", r) }
func (f *fake) ResumeResync(_ context.Context, r string) error { return f.note("resume %s", r) }
func (f *fake) Verify(_ context.Context, r string, o control.VerifyOptions) (control.VerifyResult, error) {
	return f.result, f.note("verify %s %v %s", r, o.Repair, o.Source)
}
func (f *fake) Events(_ context.Context, since uint64, _ bool, fn func(control.Event) error) error {
	for _, ev := range f.events {
		if ev.Seq > since {
			if err := fn(ev); err != nil {
				return err
			}
		}
	}
	return f.err
}

// serve serves f as n1 and returns the environment that leads to it.
func serve(t *testing.T, f *fake) map[string]string {
	t.Helper()
	return serveAs(t, f)
}

func serveAs(t *testing.T, f control.Backend) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := control.ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.NewServer(control.Options{Node: "n1", Backend: f}).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return map[string]string{"LOCKSTEP_SOCKET": path}
}

func TestHelp_ManualHoldsTheHelpOfEveryCommand(t *testing.T) {
	var b strings.Builder
	a := &app{env: env{getenv: func(string) string { return "" }}}
	root := a.root()
	root.InitDefaultHelpFlag()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		_, help, _ := cli(t.Context(), nil, append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
		fmt.Fprintf(&b, "\n### %s\n\n", cmd.CommandPath())
		for line := range strings.Lines(help) {
			if line != "\n" {
				line = "    " + line
			}
			b.WriteString(line)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	for _, cmd := range root.Commands() {
		if !cmd.Hidden { // this program's own
			walk(cmd)
		}
	}
	const manual = "../../docs/cli.md"
	const mark = "The rest of this page is the help of each command.\n"
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(text), mark)
	if !ok {
		t.Fatalf("%s lacks the line %q", manual, mark)
	}
	golden(t, manual, head+mark+b.String())
	_, help, _ := cli(t.Context(), nil, "--help")
	golden(t, "testdata/help.golden", help)
}

func TestCommands_ReachTheNodeAsTyped(t *testing.T) {
	f := &fake{status: control.Status{Node: "n1", Resources: []control.Resource{{Name: "r0", Primary: "n1"}}}}
	vars := serve(t, f)
	for _, tc := range []struct{ line, call, out string }{
		{
			"resource create r0 --size 1GiB --replica n1=/a --replica n2=/b --source n1 --meta n2=/m",
			"create {Resource:r0 SizeBytes:1073741824 Source:n1 Replicas:[{Node:n1 DataPath:/a MetaPath:/a.meta} {Node:n2 DataPath:/b MetaPath:/m}]}",
			"created r0, 1GiB on 2 nodes; next: lockstep promote r0\n",
		},
		{"resource delete r0", "delete r0", "deleted r0; its data and metadata files are still there\n"},
		{"resource delete r0 --force", "delete r0", "deleted r0; its data and metadata files are still there\n"},
		{"attachment drop r0 3", "drop r0 3", "dropped attachment 3 of r0; another host may attach it now\n"},
		{"resource resize r0 --size 8192", "resize r0 8192", "resized r0 to 8KiB\n"},
		{"promote r0", "promote r0 false", "promoted r0: this node is primary\n"},
		{"promote r0 --on n1 --confirm-peer-down", "promote r0 true", "promoted r0: n1 is primary\n"},
		{"demote r0", "demote r0", "demoted r0; it stays without a primary until: lockstep promote r0\n"},
		{"switchover r0 --to n2", "switchover r0 n2", "switched r0 over: n2 is primary\n"},
		{"connect r0 --peer n2", "connect r0 n2", "connecting r0 with n2\n"},
		{"disconnect r0 --peer n2", "disconnect r0 n2", "disconnected r0 from n2\n"},
		{"invalidate r0 --on n1", "invalidate r0", "invalidated the replica of r0 on n1; it will be copied anew\n"},
		{"resync pause r0", "pause r0", "paused resync of r0\n"},
		{"resync resume r0", "resume r0", "resumed resync of r0\n"},
		{"verify r0", "verify r0 false ", "r0: all replicas are equal, 0B compared\n"},
		{"verify r0 --repair --source n1", "verify r0 true n1", "r0: all replicas are equal, 0B compared\n"},
		{"promote r0 --on n1 --force --confirm-down n2 --confirm-down n3", "force r0 [n2 n3]",
			"promoted r0 by force: n1 is primary of epoch 4 and alone in sync\ngiven up: the writes of d2 (primary n2, epoch 3), since generation a1; how many bytes is not known\n"},
		{"confirm-down n2", "confirm down n2", "the ledger goes on without n2; where it was primary: lockstep promote NAME --confirm-peer-down\n"},
		{"ledger keep", "ledger true", "this node's ledger is kept; on the nodes of the other one: lockstep ledger give-up\n"},
		{"ledger give-up", "ledger false", "this node's ledger is set aside; it joins the other one by itself\n"},
		{"demote r0 --json", "demote r0", "{\n  \"ok\": true\n}\n"},
	} {
		f.call = ""
		code, out, errs := cli(t.Context(), vars, strings.Fields(tc.line)...)
		if code != exitOK || f.call != tc.call || out != tc.out || errs != "" {
			t.Errorf("%s: exit %d, call %q, printed %q %q", tc.line, code, f.call, out, errs)
		}
	}
}

func TestCommands_WrongLinesAreUsageAndReachNobody(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	for _, line := range []string{
		"nonsense", "resource nonsense", "--nonsense", "status a b", "status ..", "promote", "promote r0 --on n1 --node n2",
		"switchover r0", "connect r0", "invalidate r0", "verify r0 --source n1", "resource create r0",
		"promote r0 --confirm-down n2", "promote r0 --force --confirm-peer-down", "resolve r0", "resolve --keep n1", "resolve r0 --keep n1 --node n2",
		"resolve r0 --keep n1 --no-undo --copy", "resolve r0 --keep n1 --no-undo --undo-dir /u",
		"resolve r0 --keep n1 --yes --undo-dir relative", "confirm-down", "ledger nonsense", "ledger keep n1",
		"resource create r0 --size 1GB --replica n1=/a", "resource create r0 --size 1000 --replica n1=/a",
		"resource create r0 --size 1G --replica n1", "resource create r0 --size 1G --replica n1=a",
		"resource create r0 --size 1G --replica n1=/a --replica n1=/b", "resource create r0 --size 1G --replica n1=/a --source n2",
		"resource create r0 --size 1G --replica n1=/a --meta n2=/b", "resource create r/0 --size 1G --replica n1=/a",
		"resource resize r0", "lab up", "lab up --dir x --data-nodes 0", "lab kill --dir x", "dump-meta",
	} {
		code, _, errs := cli(t.Context(), vars, strings.Fields(line)...)
		if code != exitUsage || !strings.HasPrefix(errs, "lockstep: ") || !strings.Contains(errs, "--help") {
			t.Errorf("%s: exit %d, %q", line, code, errs)
		}
	}
	if f.call != "" {
		t.Errorf("the node was called: %s", f.call)
	}
}

func TestExitCodes_TellNothingDoneFromUnknown(t *testing.T) {
	f := &fake{}
	vars := serve(t, f)
	for _, tc := range []struct {
		err  error
		code int
		want string
	}{
		{control.ErrRefused.WithHint("type this").WithSafety(control.SafetyYes), exitRefused, "data: safe"},
		{control.ErrNoQuorum, exitRefused, "not touched"},
		{control.ErrNotPrimary, exitRefused, "not touched"},
		{control.ErrDiverged.WithSafety(control.SafetyNo), exitRefused, "NOT SAFE"},
		{control.ErrExists, exitRefused, "not touched"},
		{control.ErrUnreachable, exitUnreachable, "not touched"},
		{control.ErrOutcomeUnknown, exitUnknown, "may or may not"},
		{control.ErrNotFound, exitFailed, "lockstep status"},
		{control.ErrUsage, exitUsage, "--help"},
		{errors.New("disk on fire"), exitFailed, "disk on fire"},
	} {
		f.err = tc.err
		code, out, errs := cli(t.Context(), vars, "promote", "r0")
		if code != tc.code || out != "" || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit %d, printed %q %q", tc.err, code, out, errs)
		}
		code, _, errs = cli(t.Context(), vars, "promote", "r0", "--json")
		var body struct{ Error *control.Error }
		if err := json.Unmarshal([]byte(errs), &body); code != tc.code || err != nil || body.Error == nil || body.Error.Code != control.AsError(tc.err).Code {
			if tc.code != exitUsage {
				t.Errorf("%v with --json: exit %d, %q", tc.err, code, errs)
			}
		}
	}
	code, _, errs := cli(t.Context(), map[string]string{"LOCKSTEP_SOCKET": "/nonexistent/s"}, "status")
	if code != exitUnreachable || !strings.Contains(errs, "LOCKSTEP_SOCKET") {
		t.Errorf("no daemon: exit %d, %q", code, errs)
	}
	code, _, errs = cli(t.Context(), nil, "lab", "info", "--dir", t.TempDir())
	if code != exitFailed || !strings.Contains(errs, "next: lockstep lab up --dir") {
		t.Errorf("no lab: exit %d, %q", code, errs)
	}
}

func TestVerify_DifferencesHaveAnExitCodeOfTheirOwn(t *testing.T) {
	f := &fake{result: control.VerifyResult{CheckedBytes: 1 << 30, Differences: []control.Difference{{Node: "n2", OffBytes: 8192, LenBytes: 4096}}}}
	vars := serve(t, f)
	code, out, errs := cli(t.Context(), vars, "verify", "r0")
	if code != exitDifference || errs != "" {
		t.Errorf("exit %d, %q", code, errs)
	}
	golden(t, "testdata/verify.golden", out)
	f.result.Differences[0].Repaired, f.result.RepairedBytes = true, 4096
	code, out, _ = cli(t.Context(), vars, "verify", "r0", "--repair")
	if code != exitDifference {
		t.Errorf("exit %d", code)
	}
	golden(t, "testdata/verify-repair.golden", out)
}

func TestEvents_OneLineEach(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	f := &fake{events: []control.Event{
		{Seq: 1, Time: at, Node: "n1", Resource: "r0", Kind: "promoted", Text: "n1 is primary", Attrs: map[string]string{"epoch": "3", "by": "operator"}},
		{Seq: 2, Time: at, Node: "n1", Kind: "node_lost", Text: "n2 is not heard of"},
	}}
	vars := serve(t, f)
	code, out, _ := cli(t.Context(), vars, "events")
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	golden(t, "testdata/events.golden", out)
	code, out, _ = cli(t.Context(), vars, "events", "--json", "--since", "1")
	var ev control.Event
	if err := json.Unmarshal([]byte(out), &ev); code != exitOK || err != nil || ev.Seq != 2 || strings.Count(out, "\n") != 1 {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
}

func TestCompletion_OffersResourcesAndNodes(t *testing.T) {
	f := &fake{status: control.Status{Nodes: []control.Node{{Name: "n1"}, {Name: "n2"}}, Resources: []control.Resource{{Name: "db"}, {Name: "web"}}}}
	vars := serve(t, f)
	for line, want := range map[string]string{
		"promote |":              "db\nweb\n:4\n",
		"status |":               "db\nweb\n:4\n",
		"switchover db --to |":   "n1\nn2\n:4\n",
		"resync pause |":         "db\nweb\n:4\n",
		"resource delete |":      "db\nweb\n:4\n",
		"promote db --node |":    "n1\nn2\n:4\n",
		"promote db extra |":     ":4\n",
		"invalidate db --on |":   "n1\nn2\n:4\n",
		"disconnect db --peer |": "n1\nn2\n:4\n",
	} {
		args := append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(line, "|"))...)
		code, out, _ := cli(t.Context(), vars, append(args, "")...)
		if code != exitOK || out != want {
			t.Errorf("%s: exit %d, %q", line, code, out)
		}
	}
	code, out, _ := cli(t.Context(), map[string]string{"LOCKSTEP_SOCKET": "/nonexistent"}, "__complete", "promote", "")
	if code != exitOK || out != ":4\n" {
		t.Errorf("without a node: exit %d, %q", code, out)
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := cli(t.Context(), nil, "version")
	if code != exitOK || !strings.HasPrefix(out, "lockstep ") {
		t.Errorf("exit %d, %q", code, out)
	}
}
