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

func FuzzDecodeCommand(f *testing.F) {
	x := started(f, "A", "B")
	for _, c := range []Command{x.createCmd("A", "A", "B"), x.promote(inc("B", 1)), x.drop("B"), x.noOp()} {
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
		"io": true, "slices": true, "strings": true}
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
