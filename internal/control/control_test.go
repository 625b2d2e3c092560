package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a Backend that records its calls and answers err.
type fake struct {
	mu     sync.Mutex
	calls  []string
	err    error
	status Status
	events []Event
	verify func(ctx context.Context) (VerifyResult, error)
}

func (f *fake) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fake) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.calls, "; ")
	f.calls = nil
	return s
}

func (f *fake) Status(_ context.Context, r string) (Status, error) {
	return f.status, f.note("status %q", r)
}
func (f *fake) CreateResource(_ context.Context, q CreateRequest) error {
	return f.note("create %+v", q)
}
func (f *fake) DropAttachment(_ context.Context, r string, n uint64) error {
	return f.note("drop %s %d", r, n)
}
func (f *fake) DeleteResource(_ context.Context, r string) error { return f.note("delete %s", r) }
func (f *fake) ResizeResource(_ context.Context, r string, n int64) error {
	return f.note("resize %s %d", r, n)
}
func (f *fake) Promote(_ context.Context, r string, o PromoteOptions) error {
	return f.note("promote %s %+v", r, o)
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
func (f *fake) Verify(ctx context.Context, r string, o VerifyOptions) (VerifyResult, error) {
	if f.verify != nil {
		return f.verify(ctx)
	}
	return VerifyResult{CheckedBytes: 42, Differences: []Difference{{Node: "n2", OffBytes: 4096, LenBytes: 4096}}}, f.note("verify %s %+v", r, o)
}
func (f *fake) Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error {
	for _, ev := range f.events {
		if ev.Seq > since {
			if err := fn(ev); err != nil {
				return err
			}
		}
	}
	if follow {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.note("events %d %v", since, follow)
}

// start serves b as node on a unix socket until the test ends.
func start(t testing.TB, node string, b Backend, fw Forwarder) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error {
		return NewServer(Options{Node: node, Backend: b, Forward: fw}).Serve(ctx, ln)
	})
	return path
}

// run runs serve until the test ends and reports its error.
func run(t testing.TB, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestClient_EveryCallReachesTheBackendUnchanged(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	ctx := t.Context()
	create := CreateRequest{Resource: "r0", SizeBytes: 1 << 20, Source: "n1", Replicas: []ReplicaCreate{
		{Node: "n1", DataPath: "/a", MetaPath: "/a.meta"}, {Node: "n2", DataPath: "/b", MetaPath: "/b.meta"},
	}}
	for want, call := range map[string]func() error{
		`status ""`:                       func() error { _, err := c.Status(ctx, ""); return err },
		`status "r0"`:                     func() error { _, err := c.Status(ctx, "r0"); return err },
		fmt.Sprintf("create %+v", create): func() error { return c.CreateResource(ctx, create) },
		"drop r0 3":                       func() error { return c.DropAttachment(ctx, "r0", 3) },
		"delete r0":                       func() error { return c.DeleteResource(ctx, "r0") },
		"resize r0 8192":                  func() error { return c.ResizeResource(ctx, "r0", 8192) },
		"promote r0 {TakeOver:true}":      func() error { return c.Promote(ctx, "r0", PromoteOptions{TakeOver: true}) },
		"demote r0":                       func() error { return c.Demote(ctx, "r0") },
		"switchover r0 n2":                func() error { return c.Switchover(ctx, "r0", "n2") },
		"connect r0 n2":                   func() error { return c.Connect(ctx, "r0", "n2") },
		"disconnect r0 n2":                func() error { return c.Disconnect(ctx, "r0", "n2") },
		"replace r0":                      func() error { return c.ReplaceReplica(ctx, "r0") },
		"invalidate r0":                   func() error { return c.Invalidate(ctx, "r0") },
		"pause r0":                        func() error { return c.PauseResync(ctx, "r0") },
		"resume r0":                       func() error { return c.ResumeResync(ctx, "r0") },
		"verify r0 {Repair:true Source:n1}": func() error {
			res, err := c.Verify(ctx, "r0", VerifyOptions{Repair: true, Source: "n1"})
			if res.CheckedBytes != 42 || len(res.Differences) != 1 {
				t.Errorf("verify: %+v", res)
			}
			return err
		},
		"events 7 false": func() error { return c.Events(ctx, 7, false, func(Event) error { return nil }) },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got := f.take(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestClient_StatusArrivesAsSent(t *testing.T) {
	f := &fake{status: Status{
		Node: "n1", Version: "1", Ledger: Ledger{Leader: "w", Quorum: true, Term: 3, Applied: 9},
		Nodes: []Node{{Name: "n1", Alive: true}},
		Resources: []Resource{{
			Name: "r0", Epoch: 2, Primary: "n1", InSync: []string{"n1"}, Role: RolePrimary, SizeBytes: 4096,
			IO: IO{State: IORunning}, DiskState: DiskUpToDate, Advice: []string{"x"},
			Replicas: []Replica{{Node: "n2", Resync: &Resync{Percent: 5, ETASeconds: -1}}},
			NBD:      NBD{Unix: "/s", Clients: 1}, Verify: &Verify{Running: true},
		}},
	}}
	got, err := NewClient(start(t, "n1", f, nil)).Status(t.Context(), "r0")
	if err != nil || !reflect.DeepEqual(got, f.status) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, f.status)
	}
}

func TestClient_ErrorsKeepTheirIdentityAcrossTheSocket(t *testing.T) {
	f := &fake{}
	c := NewClient(start(t, "n1", f, nil))
	for _, sentinel := range []*Error{
		ErrUsage, ErrNotFound, ErrExists, ErrUnsupported, ErrTooLarge, ErrRefused, ErrNotPrimary, ErrNoQuorum,
		ErrFenced, ErrDiverged, ErrBusy, ErrUnreachable, ErrOutcomeUnknown, ErrFailed,
	} {
		f.err = fmt.Errorf("promote r0: %w", sentinel.WithHint("type this").WithSafety(SafetyNo))
		err := c.Promote(t.Context(), "r0", PromoteOptions{})
		var e *Error
		if !errors.Is(err, sentinel) || !errors.As(err, &e) {
			t.Errorf("%s: got %v", sentinel.Code, err)
			continue
		}
		if e.Message != f.err.Error() || e.Hint != "type this" || e.DataSafe != SafetyNo {
			t.Errorf("%s: got %+v", sentinel.Code, e)
		}
		if errors.Is(err, ErrRefused) != (sentinel == ErrRefused) {
			t.Errorf("%s is also ErrRefused", sentinel.Code)
		}
		_, err = c.Verify(t.Context(), "r0", VerifyOptions{})
		if !errors.Is(err, sentinel) {
			t.Errorf("verify, %s: got %v", sentinel.Code, err)
		}
	}
	f.err = errors.New("odd")
	if err := c.Demote(t.Context(), "r0"); !errors.Is(err, ErrFailed) {
		t.Errorf("plain error arrives as %v", err)
	}
	f.err = context.DeadlineExceeded
	if err := c.Demote(t.Context(), "r0"); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("deadline of a change arrives as %v", err)
	}
	if _, err := c.Status(t.Context(), ""); errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("deadline of a read arrives as %v", err)
	}
}

func TestClient_NobodyListening_IsUnreachableAndNothingElse(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "none.sock"))
	if err := c.Demote(t.Context(), "r0"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestClient_Absent_OnlyWhenNobodyListens(t *testing.T) {
	absent := func(path string) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := NewClient(path).Status(ctx, "")
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", path, err)
		}
		return AsError(err).Absent
	}
	dir := t.TempDir()
	if !absent(filepath.Join(dir, "none.sock")) {
		t.Error("there is no socket")
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "left.sock")})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if !absent(left.Addr().String()) {
		t.Error("the socket is what a killed daemon left")
	}
	silent, err := net.Listen("unix", filepath.Join(dir, "silent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if absent(silent.Addr().String()) {
		t.Error("somebody listens and does not answer")
	}
}

func TestClient_AnswerLost_OutcomeIsUnknownForChangesOnly(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000)) // take the request, give no answer
			c.Close()
		}
	})
	defer wg.Wait()
	defer ln.Close()
	c := NewClient(ln.Addr().String())
	if err := c.Demote(t.Context(), "r0"); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("change: %v", err)
	}
	if _, err := c.Verify(t.Context(), "r0", VerifyOptions{}); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("verify: %v", err)
	}
	if _, err := c.Status(t.Context(), ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("read: %v", err)
	}
}

func TestClient_CallerGoesAway_VerifyEnds(t *testing.T) {
	ended := make(chan struct{})
	started := make(chan struct{})
	f := &fake{verify: func(ctx context.Context) (VerifyResult, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return VerifyResult{}, ctx.Err()
	}}
	c := NewClient(start(t, "n1", f, nil))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := c.Verify(ctx, "r0", VerifyOptions{}); err == nil {
		t.Error("no error")
	}
	<-ended
}

func TestEvents_FollowEndsWithItsContextAndErrorsOfFnComeBack(t *testing.T) {
	at := time.Unix(1e9, 0).UTC()
	f := &fake{events: []Event{{Seq: 1, Time: at, Kind: "a"}, {Seq: 2, Time: at, Kind: "b", Attrs: map[string]string{"k": "v"}}, {Seq: 3, Time: at, Kind: "c"}}}
	c := NewClient(start(t, "n1", f, nil))
	ctx, cancel := context.WithCancel(t.Context())
	var got []Event
	err := c.Events(ctx, 1, true, func(ev Event) error {
		got = append(got, ev)
		if ev.Seq == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, f.events[1:]) {
		t.Errorf("%v, %+v", err, got)
	}
	stop := errors.New("enough")
	if err := c.Events(t.Context(), 0, true, func(Event) error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}
}

func TestServer_RefusesWhatItDoesNotKnow(t *testing.T) {
	f := &fake{}
	path := start(t, "n1", f, nil)
	hc := NewClient(path).http
	const js = "application/json"
	for _, tc := range []struct {
		method, uri, ct, body string
		status                int
	}{
		{"GET", "/v1/nothing", "", "", 404},
		{"POST", "/v1/status", "", "", 405},
		{"PUT", "/v1/resources", "", "", 405},
		{"GET", "/v1/status?resourse=r0", "", "", 400},
		{"GET", "/v1/status?resource=a&resource=b", "", "", 400},
		{"GET", "/v1/status?resource=..", "", "", 400},
		{"GET", "/v1/status?node=n2", "", "", 400},
		{"GET", "/v1/status", js, "{}", 400},
		{"GET", "/v1/events?since=-1", "", "", 400},
		{"GET", "/v1/events?follow=yes", "", "", 400},
		{"POST", "/v1/resources/r%2F0/demote", "", "", 400},
		{"POST", "/v1/resources/r0/demote", js, "{}", 400},
		{"POST", "/v1/resources/r0/promote", "", "{}", 400},
		{"POST", "/v1/resources/r0/promote", "text/plain", "{}", 400},
		{"POST", "/v1/resources/r0/promote", js, "", 400},
		{"POST", "/v1/resources/r0/promote", js, "null", 400},
		{"POST", "/v1/resources/r0/promote", js, "[]", 400},
		{"POST", "/v1/resources/r0/promote", js, `{"take_over":1}`, 400},
		{"POST", "/v1/resources/r0/promote", js, `{"takeover":true}`, 400},
		{"POST", "/v1/resources/r0/promote", js, `{} {}`, 400},
		{"POST", "/v1/resources/r0/promote", js, `{"take_over":false}` + strings.Repeat(" ", maxBody), 413},
		{"POST", "/v1/resources/r0/resize", js, `{"size_bytes":-4096}`, 400},
		{"POST", "/v1/resources/r0/resize", js, `{"size_bytes":4097}`, 400},
		{"POST", "/v1/resources/r0/resize", js, `{"size_bytes":9223372036854771712}`, 400},
		{"POST", "/v1/resources/r0/connect", js, `{}`, 400},
		{"POST", "/v1/resources/r0/verify", js, `{"source":"n1"}`, 400},
		{"POST", "/v1/resources", js, `{"resource":"r0","size_bytes":4096}`, 400},
		{"POST", "/v1/resources", js, `{"resource":"r0","size_bytes":4096,"replicas":[{"node":"n1","data_path":"rel","meta_path":"/m"}]}`, 400},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://x"+tc.uri, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if tc.ct != "" {
			req.Header.Set("Content-Type", tc.ct)
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || !strings.HasPrefix(string(b), `{"error":{"code":"`) {
			t.Errorf("%s %s %.40s: %d %s", tc.method, tc.uri, tc.body, resp.StatusCode, b)
		}
	}
	if calls := f.take(); calls != "" {
		t.Errorf("the backend was called: %s", calls)
	}
}

// peers serves b as n2 for peers and returns a Forwarder that knows n2 alone.
func peers(t testing.TB, b Backend) Forwarder {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error {
		return NewServer(Options{Node: "n2", Backend: b, Forward: func(string) (*http.Client, error) {
			t.Error("a request of a peer was passed on")
			return nil, ErrNotFound
		}}).ServePeers(ctx, ln)
	})
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
		},
	}}
	return func(node string) (*http.Client, error) {
		if node == "n2" || node == "n4" {
			return hc, nil
		}
		if node == "n3" {
			dead := NewClient("/nonexistent/socket")
			return dead.http, nil
		}
		return nil, Errorf(CodeNotFound, "there is no node %s", node)
	}
}

func TestForward_RequestsReachTheNodeThatIsMeant(t *testing.T) {
	f1, f2 := &fake{}, &fake{events: []Event{{Seq: 1, Kind: "x"}}}
	c := NewClient(start(t, "n1", f1, peers(t, f2)))
	ctx := t.Context()
	if err := c.On("n2").Promote(ctx, "r0", PromoteOptions{TakeOver: true}); err != nil {
		t.Fatal(err)
	}
	if got := f2.take(); got != "promote r0 {TakeOver:true}" {
		t.Errorf("n2 got %q", got)
	}
	if _, err := c.On("n2").Verify(ctx, "r0", VerifyOptions{}); err != nil {
		t.Error(err)
	}
	n := 0
	ectx, cancel := context.WithCancel(ctx)
	if err := c.On("n2").Events(ectx, 0, true, func(Event) error { n++; cancel(); return nil }); err != nil || n != 1 {
		t.Errorf("events: %v, %d", err, n)
	}
	f2.err = ErrRefused.WithHint("h")
	if err := c.On("n2").Demote(ctx, "r0"); !errors.Is(err, ErrRefused) {
		t.Errorf("error of n2 arrives as %v", err)
	}
	if got := f1.take(); got != "" {
		t.Errorf("n1 got %q", got)
	}
	if err := c.On("n1").Demote(ctx, "r0"); err != nil || f1.take() != "demote r0" {
		t.Errorf("own name: %v", err)
	}
	for node, want := range map[string]error{"n9": ErrNotFound, "n3": ErrUnreachable, "n4": ErrUsage, "n/2": ErrUsage} {
		if err := c.On(node).Demote(ctx, "r0"); !errors.Is(err, want) {
			t.Errorf("node %s: %v", node, err)
		}
	}
}

func TestListenUnix_IsPrivateAndReplacesOnlyWhatIsDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, st.Mode())
	}
	if _, err := ListenUnix(t.Context(), path); !errors.Is(err, ErrBusy) {
		t.Errorf("second listener: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	ln, err = ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatalf("dead socket is in the way: %v", err)
	}
	ln.Close()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(t.Context(), path); err == nil {
		t.Error("a regular file was replaced")
	}
}

func FuzzDecodeCreate(f *testing.F) {
	f.Add([]byte(`{"resource":"r0","size_bytes":4096,"replicas":[{"node":"n1","data_path":"/a","meta_path":"/b"}]}`))
	f.Add([]byte(`{"resource":"r0"} x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req CreateRequest
		if err := decodeStrict(b, &req); err != nil {
			if !errors.Is(err, ErrUsage) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if err := req.Validate(); err != nil && !errors.Is(err, ErrUsage) {
			t.Fatalf("error %v", err)
		}
	})
}

func FuzzReadStream(f *testing.F) {
	f.Add([]byte("{}\n{\"event\":{\"seq\":1}}\n{\"end\":true}\n"))
	f.Add([]byte("{\"result\":{}}"))
	f.Add([]byte("null\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		idle := time.NewTimer(time.Hour)
		defer idle.Stop()
		last := false
		err := readStream(strings.NewReader(string(b)), idle, func(l line) (bool, error) {
			last = l.End || l.Result != nil || l.Error != nil
			return last, nil
		})
		if err == nil && !last {
			t.Fatal("a stream without a last line was taken as whole")
		}
	})
}
