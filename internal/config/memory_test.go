package config

import (
	"strings"
	"testing"
)

// memoryOf reads a node file that ends with text.
func memoryOf(text string) (Memory, error) {
	n, err := parse("node.toml", "/", []byte(small+text)).finish()
	return n.Memory, err
}

func TestMemory_IsProtectedUnlessTheFileSaysNot(t *testing.T) {
	for text, want := range map[string]Memory{
		"":                               {Lock: true, IOFlusher: true, OOMProtect: true},
		"\n[memory]\nlock = false\n":     {IOFlusher: true, OOMProtect: true},
		"\n[memory]\nlimit = \"1GiB\"\n": {Lock: true, IOFlusher: true, OOMProtect: true, Limit: GiB},
		"\n[memory]\nio_flusher = false\noom_protect = false\nlock = false\n": {},
	} {
		if got, err := memoryOf(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestMemory_EncodesToItself(t *testing.T) {
	for _, m := range []Memory{{}, defaultMemory(), {Lock: true, Limit: 256 * MiB}, {IOFlusher: true, OOMProtect: true}} {
		n, err := parse("node.toml", "/", []byte(small)).finish()
		if err != nil {
			t.Fatal(err)
		}
		n.Memory = m
		if got, err := parse("node.toml", "/", n.Encode()).finish(); err != nil || got.Memory != m {
			t.Errorf("%+v came back as %+v, %v", m, got.Memory, err)
		}
		if strings.Contains(string(n.Encode()), "[memory]") == (m == defaultMemory()) {
			t.Errorf("%+v is written as\n%s", m, n.Encode())
		}
	}
}

func TestMemory_Faults(t *testing.T) {
	for text, want := range map[string]string{
		"\n[memory]\nlimit = \"1MiB\"\n": "at least 128MiB",
		"\n[memory]\nlock = 1\n":         "neither true nor false",
		"\n[memory]\nioflusher = true\n": `did you mean "io_flusher"`,
		"\n[[memory]]\nlock = true\n":    "begin it with a line [memory]",
	} {
		if _, err := memoryOf(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
