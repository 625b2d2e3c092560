package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestDecodeCommand_RefusesWhatItDoesNotKnow(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field": `{"v":1,"resource":"r0","resource_id":1,"no_op":{},"colour":"red"}`,
		"unknown kind":  `{"v":1,"resource":"r0","resource_id":1,"explode":{}}`,
		"inner unknown": `{"v":1,"resource":"r0","resource_id":1,"hold":{"on":true,"off":1}}`,
		"newer":         `{"v":2,"resource":"r0"}`,
		"no version":    `{"resource":"r0","no_op":{}}`,
		"trailing":      `{"v":1,"no_op":{}} {}`,
		"version twice": `{"v":2,"v":1,"V":3,"no_op":{}}`,
		"not an object": `[1]`,
		"empty":         ``,
		"negative":      `{"v":1,"resource_id":-1}`,
	} {
		if _, err := DecodeCommand([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeCommand(bytes.Repeat([]byte{' '}, MaxCommand+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too long: %v", err)
	}
	if _, err := EncodeCommand(Command{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("encode of nothing: %v", err)
	}
}

func TestCommandCodec_RoundTripOfEveryKind(t *testing.T) {
	x := started(t, "A", "B")
	cmds := []Command{
		x.createCmd("A", "A", "B"), x.register("A", 4), x.promote(inc("B", 1)), x.drop("B"), x.join("B"),
		x.stepDown(StepDown{Failed: true, Hold: true}), x.noOp(),
		x.on(func(c *Command) { c.ReplicaError = &ReplicaError{Node: "A", Text: "ü"} }),
		x.on(func(c *Command) { c.DeleteResource = &DeleteResource{} }),
		x.on(func(c *Command) { c.ResourceGone = &ResourceGone{Nodes: []string{"A"}} }),
		x.on(func(c *Command) { c.Resize = &Resize{Incumbent: inc("A", 1), SizeBytes: 2 * gib} }),
		x.on(func(c *Command) { c.SetPolicy = &SetPolicy{Policy: DefaultPolicy()} }),
		x.on(func(c *Command) { c.Hold = &Hold{On: true} }),
		{Version: 9, AddNode: &AddNode{Node: Node{Name: "n", VoterID: 1<<64 - 1, Addr: "a:1"}, Replaces: 3}},
		{Version: 9, RemoveNode: &RemoveNode{Name: "n"}},
		x.force(inc("B", 1), 0, word("A")),
		x.on(func(c *Command) {
			c.ForcePromote = &ForcePromote{Candidate: inc("B", 1), NewEpoch: 2, Generation: 9, Fork: 3, Own: []uint64{1<<64 - 1, 4}}
		}),
		x.on(func(c *Command) { c.SetPriority = &SetPriority{Node: "A", Priority: -3} }),
		x.on(func(c *Command) {
			c.SetServices = &SetServices{Services: []Service{{Kind: "mount", Target: "/srv", Options: []string{"device=/dev/nbd0"}, StopTimeout: second, Order: 3}}}
		}),
		x.on(func(c *Command) { c.ServicesFailed = &ServicesFailed{Node: "A", Text: "exit 1"} }),
		x.on(func(c *Command) { c.PauseFailover = &PauseFailover{On: true, Text: "moving racks"} }),
		x.attach(1, "h", "/dev/nbd0", "b", true), x.detach(Detach{Number: 3, Key: key(1)}),
		{Version: 9, NodeStarted: &NodeStarted{Node: "n", Boot: "b", Process: 4}},
		{Version: 9, FenceRequested: &FenceRequested{Target: "n", Boot: "b", Executor: "m", ID: 4}},
		{Version: 9, FenceConfirmed: &FenceConfirmed{Target: "n", Boot: "b", ID: 4, Proof: "status: off"}},
		{Version: 9, FenceFailed: &FenceFailed{Target: "n", Boot: "b", ID: 4, Text: "no answer"}},
		{Version: 9, Unfence: &Unfence{Target: "n"}},
		{Version: 9, AddToken: &AddToken{Token: someToken(1), Now: 3}},
		{Version: 9, UseToken: &UseToken{ID: someToken(1).ID, Key: someToken(1).Hash, Name: "n"}},
	}
	seen := map[Kind]bool{}
	for _, c := range cmds {
		b, err := EncodeCommand(c)
		if err != nil {
			t.Fatalf("%s: %v", &c, err)
		}
		got, err := DecodeCommand(b)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: %v, got %+v", &c, err, got)
		}
		seen[c.Kind()] = true
	}
	if len(seen) != int(kindEnd)-1 {
		t.Errorf("%d kinds tried, there are %d", len(seen), kindEnd-1)
	}
}

func TestStateCodec_RoundTripAndRefusals(t *testing.T) {
	x := started(t, "A", "B")
	b, err := EncodeState(x.s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeState(b)
	if err != nil || !reflect.DeepEqual(got, x.s) {
		t.Fatalf("%v: %+v", err, got)
	}
	bad := strings.Replace(string(b), `"in_set":true`, `"in_set":false`, 1)
	if _, err := DecodeState([]byte(bad)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a primary outside the set: %v", err)
	}
	if _, err := DecodeState(append(b[:len(b)-1:len(b)-1], []byte(`,"extra":1}`)...)); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown field: %v", err)
	}
}

func TestStateCheck_NamesWhatIsWrong(t *testing.T) {
	fence := Fence{Target: "A", Boot: "b", Executor: "B", ID: 1, Phase: FenceAsked}
	for name, tc := range map[string]struct {
		f    func(s *State, r *Resource)
		says string
	}{
		"nobody votes":       {func(s *State, _ *Resource) { s.Nodes[0].Gone, s.Nodes[1].Gone, s.Nodes[2].Gone = true, true, true }, "no node votes"},
		"boot alone":         {func(s *State, _ *Resource) { s.Nodes[0].Boot = "b" }, "with process 0"},
		"statement":          {func(s *State, _ *Resource) { s.Statement = "a\nb" }, "statement"},
		"fence of nobody":    {func(s *State, _ *Resource) { f := fence; f.Target = "Z"; s.Fences = []Fence{f} }, `fence of "Z"`},
		"fence of itself":    {func(s *State, _ *Resource) { f := fence; f.Executor = "A"; s.Fences = []Fence{f} }, `fence of "A" by "A"`},
		"fence twice":        {func(s *State, _ *Resource) { s.Fences = []Fence{fence, fence} }, "there twice"},
		"unknown phase":      {func(s *State, _ *Resource) { f := fence; f.Phase = "x"; s.Fences = []Fence{f} }, `is "x"`},
		"both shoot":         {func(s *State, _ *Resource) { f := fence; f.Target, f.Executor = "B", "A"; s.Fences = []Fence{fence, f} }, "to be turned off itself"},
		"priority":           {func(_ *State, r *Resource) { r.Replicas[0].Priority = 2000 }, "priority"},
		"paused text":        {func(_ *State, r *Resource) { r.PausedText = "\x01" }, "paused text"},
		"known nobody":       {func(_ *State, r *Resource) { r.Primary, r.PrimaryKnown = Incumbent{}, true }, "but known"},
		"end of nothing":     {func(_ *State, r *Resource) { r.LastEnd = EndStepDown }, "last primary"},
		"end of what":        {func(_ *State, r *Resource) { r.LastEnd = "x" }, `ended as "x"`},
		"epoch without end":  {func(_ *State, r *Resource) { r.LastEpoch = 1 }, "nothing says"},
		"forced later":       {func(_ *State, r *Resource) { r.Forced = []Forced{{Epoch: 9}} }, "out of order"},
		"forced often":       {func(_ *State, r *Resource) { r.Forced = make([]Forced, MaxForced+1) }, "forced promotions"},
		"cut more than told": {func(_ *State, r *Resource) { r.Forced = []Forced{{Epoch: 1, Cut: []uint64{1, 2}, CutCount: 1}} }, "shows 2"},
	} {
		t.Run(name, func(t *testing.T) {
			x := started(t, "A", "B")
			tc.f(x.s, x.r0())
			if err := x.s.Check(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v does not say %q", err, tc.says)
			}
		})
	}
}

func FuzzDecodeCommand(f *testing.F) {
	x := started(f, "A", "B")
	for _, c := range []Command{x.createCmd("A", "A", "B"), x.promote(inc("B", 1)), x.drop("B"), x.noOp(),
		x.force(inc("B", 1), x.r0().Lineage[0], word("A")), x.request("A", "W", 5), x.startedCmd("A", "b2", 7)} {
		b, err := EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"v":1,"resource":"r0","no_op":null,"hold":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		next, res := Apply(x.s, c)
		if err := next.Check(); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if (res.Code != Applied) != (next == x.s) {
			t.Fatalf("result %v and state disagree", res)
		}
		if res.Code == Applied {
			if _, err := EncodeCommand(c); err != nil {
				t.Fatalf("applied, but would not encode: %v", err)
			}
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	b, err := EncodeState(started(f, "A", "B").s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		if _, err := json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPurity_NoClockNoIONoRandomness(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"bytes": true, "cmp": true, "encoding/json": true, "errors": true, "fmt": true,
		"io": true, "slices": true, "strings": true, "github.com/lockstep-ha/lockstep/internal/planted": true}
	for _, e := range files {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if p := strings.Trim(i.Path.Value, `"`); !allowed[p] {
				t.Errorf("%s imports %s", e.Name(), p)
			}
		}
	}
}
