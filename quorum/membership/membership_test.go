package membership

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var testKey = []byte(strings.Repeat("k", 32))

func config(name string, join ...string) Config {
	return Config{Cluster: "c", Node: name, Bind: netip.MustParseAddrPort("127.0.0.1:0"), Key: testKey, Join: join,
		Preset: Loopback, RetryEvery: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Meta: Meta{Addr: name + ":7700", Boot: "boot-" + name, Process: 1, Version: "test"}}
}

type running struct {
	*Membership
	stop func()
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", cfg.Node, err)
		}
	}
	t.Cleanup(stop)
	return &running{Membership: m, stop: stop}
}

// expect receives hints until the wanted one comes.
func (r *running) expect(t *testing.T, node string, alive bool) Hint {
	t.Helper()
	timeout := time.NewTimer(60 * time.Second)
	defer timeout.Stop()
	for {
		select {
		case h := <-r.Hints():
			if h.Node == node && h.Alive == alive {
				return h
			}
		case <-timeout.C:
			t.Fatalf("no hint that %s is alive=%t", node, alive)
		}
	}
}

func TestThreeNodes_SeeEachOtherComeAndGo(t *testing.T) {
	a := start(t, config("a"))
	b := start(t, config("b", a.Addr().String()))
	if h := a.expect(t, "b", true); h.Meta.Boot != "boot-b" || h.Meta.Addr != "b:7700" || h.At.IsZero() {
		t.Fatalf("hint %+v", h)
	}
	b.expect(t, "a", true)
	c := start(t, config("c", a.Addr().String(), b.Addr().String()))
	a.expect(t, "c", true)
	b.expect(t, "c", true)
	if n := a.list.NumMembers(); n != 3 {
		t.Fatalf("%d members", n)
	}
	c.stop() // says goodbye
	a.expect(t, "c", false)
	b.expect(t, "c", false)
}

func TestDeadNode_IsHinted(t *testing.T) {
	a := start(t, config("a"))
	m, err := New(config("b"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.list.Join([]string{a.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	a.expect(t, "b", true)
	if err := m.Close(); err != nil { // without a goodbye
		t.Fatal(err)
	}
	a.expect(t, "b", false)
}

func TestJoin_KeepsTryingUntilTheOtherIsThere(t *testing.T) {
	probe := start(t, config("b"))
	addr := probe.Addr()
	probe.stop()
	a := start(t, config("a", addr.String()))
	cfg := config("b")
	cfg.Bind = addr
	start(t, cfg) // knows nobody: only a's retries bring them together
	a.expect(t, "b", true)
}

func TestOtherKeyOrCluster_IsNotHeard(t *testing.T) {
	a := start(t, config("a"))
	for name, edit := range map[string]func(*Config){
		"key":     func(c *Config) { c.Key = []byte(strings.Repeat("x", 32)) },
		"cluster": func(c *Config) { c.Cluster = "d" },
	} {
		cfg := config("b")
		edit(&cfg)
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := m.list.Join([]string{a.Addr().String()}); err == nil || n != 0 {
			t.Errorf("joined with another %s", name)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := a.list.NumMembers(); n != 1 {
		t.Errorf("%d members", n)
	}
}

func TestHints_AreCoalescedByNodeAndTheNewestWaits(t *testing.T) {
	m := &Membership{hints: make(chan Hint), wake: make(chan struct{}, 1)}
	for i := range 1000 {
		m.hint(Hint{Node: "b", Alive: i%2 == 0})
		m.hint(Hint{Node: "c", Alive: i%2 == 1})
	}
	if len(m.pending) != 2 {
		t.Fatalf("%d hints wait for two nodes", len(m.pending))
	}
	h, _ := m.take() // as the forwarder does, when nobody receives
	m.hint(Hint{Node: h.Node, Alive: true})
	m.putBack(h)
	got := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.forward(ctx); close(done) }()
	for range 2 {
		x := <-m.Hints()
		got[x.Node] = x.Alive
	}
	cancel()
	<-done
	if len(got) != 2 || !got["b"] || !got["c"] {
		t.Fatalf("hints %v are not the newest", got)
	}
}

func TestConfig_ListsAllFaults(t *testing.T) {
	cfg := Config{Key: []byte("short"), Preset: "mars", Join: []string{"nowhere"}, Meta: Meta{Boot: strings.Repeat("x", 600)}}
	_, err := New(cfg)
	for _, w := range []string{"is empty", "no address to bind", "5 bytes, want 32", "mars", "address to join", "longer than 512"} {
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in %v", w, err)
		}
	}
	m, err := New(config("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("run after close: %v", err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"addr":"a:1","boot":"x","process":1,"version":"v"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeMeta(b); err != nil && !errors.Is(err, ErrMeta) {
			t.Fatal(err)
		}
	})
}

// The order of a change of the secret: at no moment may two nodes be unable to hear each other.
func TestSetKeys_ChangedStepByStep_NobodyIsLost_AndTheOldKeyIsWorthNothing(t *testing.T) {
	next := []byte(strings.Repeat("n", 32))
	a := start(t, config("a"))
	b := start(t, config("b", a.Addr().String()))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	for i, keys := range [][][]byte{{testKey, next}, {next, testKey}, {next}} {
		for _, m := range []*running{a, b} { // one after the other: between them, both ways are in use
			if err := m.SetKeys(keys...); err != nil {
				t.Fatal(err)
			}
			// A stream each way, with the keys as they are now.
			for _, x := range []*running{a, b} {
				if n, err := x.list.Join([]string{map[*running]*running{a: b, b: a}[x].Addr().String()}); n != 1 || err != nil {
					t.Fatalf("step %d: %d, %v", i, n, err)
				}
			}
		}
	}
	old, err := New(config("old", a.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if n, err := old.list.Join([]string{a.Addr().String()}); n != 0 || err == nil {
		t.Error("who has only the old key is heard")
	}
	if err := a.SetKeys(); !errors.Is(err, ErrConfig) {
		t.Errorf("no key: %v", err)
	}
	if err := a.SetKeys(next[:31]); !errors.Is(err, ErrConfig) {
		t.Errorf("a short key: %v", err)
	}
}
