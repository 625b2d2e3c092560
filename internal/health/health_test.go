package health

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fake knows r0 alone.
type fake struct {
	state State
	lease atomic.Bool
	asked atomic.Int32 // how often for the lease
	look  func()       // called by Look; nil: nothing
}

func (f *fake) Look(name string) (State, bool) {
	if f.look != nil {
		f.look()
	}
	return f.state, name == "r0"
}

func (f *fake) LeaseHeld(string) bool {
	f.asked.Add(1)
	return f.lease.Load()
}

func primary() State {
	return State{Resource: "r0", Node: "n1", Role: RolePrimary, Primary: "n1", NBD: "nbd://127.0.0.1:1/r0", DiskState: "UpToDate", InSync: true, Serves: true, UpToDate: true}
}

func secondary() State {
	return State{Resource: "r0", Node: "n1", Role: RoleSecondary, Primary: "n2", NBD: "nbd://127.0.0.1:2/r0", DiskState: "UpToDate", InSync: true, UpToDate: true, Reason: "n2 is primary"}
}

func get(t *testing.T, b Backend, method, path string) *http.Response {
	t.Helper()
	rec := httptest.NewRecorder()
	NewServer(Config{Node: "n1"}, b).ServeHTTP(rec, httptest.NewRequest(method, path, nil))
	return rec.Result()
}

func TestServer_AnswersByRoleLeaseAndDisk(t *testing.T) {
	target := secondary()
	target.UpToDate, target.DiskState = false, "Inconsistent"
	none := State{Resource: "r0", Node: "n1", Role: RoleNone, Primary: "n2", Reason: "n1 holds no replica"}
	for _, tc := range []struct {
		name             string
		state            State
		lease            bool
		primary, replica int
	}{
		{"primary inside its lease", primary(), true, 200, 200},
		{"primary whose lease has run out", primary(), false, 503, 200},
		{"secondary", secondary(), false, 503, 200},
		{"secondary that became primary a moment ago", secondary(), true, 503, 200},
		{"resync target", target, false, 503, 503},
		{"no replica here", none, false, 503, 503},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{state: tc.state}
			f.lease.Store(tc.lease)
			for path, want := range map[string]int{
				"/primary/r0": tc.primary, "/replica/r0": tc.replica, "/healthz": 200,
				"/primary/r1": 404, "/replica/r1": 404, "/primary/": 404, "/primary": 404, "/primary//r0": 404, "/primary/r0/": 404,
				"/": 404, "/healthz/": 404, "/primary/../primary/r0": 404, "*": 404,
			} {
				for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
					checkAnswer(t, get(t, f, method, path), method+" "+path, want)
				}
				checkAnswer(t, get(t, f, "POST", path), "POST "+path, 405)
			}
		})
	}
}

// checkAnswer checks what is common to all answers.
func checkAnswer(t *testing.T, res *http.Response, what string, want int) {
	t.Helper()
	if res.StatusCode != want {
		t.Errorf("%s: status %d, want %d", what, res.StatusCode, want)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s may be kept in a cache: %v", what, res.Header)
	}
	if (res.Header.Get("Connection") == "close") != (want != 200) {
		t.Errorf("%s: Connection is %q", what, res.Header.Get("Connection"))
	}
	var body struct{ Node, Reason string }
	if b, err := io.ReadAll(res.Body); err != nil || json.Unmarshal(b, &body) != nil || body.Node != "n1" {
		t.Errorf("%s: body %q, %v", what, b, err)
	}
	if (body.Reason != "") != (want != 200) {
		t.Errorf("%s: reason %q", what, body.Reason)
	}
}

func TestPrimary_LeaseEndsWhileTheAnswerIsComposed_Is503(t *testing.T) {
	f := &fake{state: primary()}
	f.lease.Store(true)
	f.look = func() {
		if n := f.asked.Load(); n != 0 {
			t.Errorf("the lease was looked at %d times before there was an answer", n)
		}
		f.lease.Store(false)
	}
	res := get(t, f, "GET", "/primary/r0")
	var st State
	if err := json.NewDecoder(res.Body).Decode(&st); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 503 || st.Reason == "" || f.asked.Load() != 1 {
		t.Errorf("status %d, %+v, lease asked for %d times", res.StatusCode, st, f.asked.Load())
	}
}

func TestPrimary_BodyNamesThePrimaryAndItsAddress(t *testing.T) {
	var st State
	if err := json.NewDecoder(get(t, &fake{state: secondary()}, "GET", "/primary/r0").Body).Decode(&st); err != nil {
		t.Fatal(err)
	}
	if st.Role != RoleSecondary || st.Primary != "n2" || st.NBD != "nbd://127.0.0.1:2/r0" || st.Reason != "n2 is primary" {
		t.Errorf("%+v", st)
	}
}

// serve runs a server on loopback until the test ends and returns its address.
func serve(t *testing.T, cfg Config, b Backend) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewServer(cfg, b).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends one request as it is and returns the answer.
func ask(t *testing.T, c net.Conn, text string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return res
}

// What HAProxy sends: HTTP/1.0, without a Host unless it is told one.
func TestServe_RequestsOfHAProxy_AreAnswered(t *testing.T) {
	f := &fake{state: primary()}
	f.lease.Store(true)
	addr := serve(t, Config{Node: "n1"}, f)
	for text, want := range map[string]int{
		"OPTIONS /primary/r0 HTTP/1.0\r\n\r\n":                  200,
		"GET /primary/r0 HTTP/1.0\r\n\r\n":                      200,
		"HEAD /primary/r0 HTTP/1.0\r\n\r\n":                     200,
		"GET /primary/r0 HTTP/1.1\r\nHost: r0\r\n\r\n":          200,
		"OPTIONS / HTTP/1.0\r\n\r\n":                            404,
		"OPTIONS * HTTP/1.1\r\nHost: r0\r\n\r\n":                404,
		"GET //primary/r0 HTTP/1.0\r\n\r\n":                     404,
		"PUT /primary/r0 HTTP/1.0\r\nContent-Length: 0\r\n\r\n": 405,
	} {
		if res := ask(t, dial(t, addr), text); res.StatusCode != want {
			t.Errorf("%q: status %d, want %d", text, res.StatusCode, want)
		}
	}
}

func TestServe_NotPrimary_EndsTheConnection(t *testing.T) {
	addr := serve(t, Config{Node: "n1"}, &fake{state: secondary()})
	c := dial(t, addr)
	if res := ask(t, c, "GET /primary/r0 HTTP/1.1\r\nHost: r0\r\n\r\n"); !res.Close {
		t.Errorf("not closed: %v", res.Header)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection does not end: %v", err)
	}
}

func TestServe_SilentConnectionsByTheHundred_KeepNobodyOut(t *testing.T) {
	addr := serve(t, Config{Node: "n1", MaxConns: 8, Read: time.Hour}, &fake{state: secondary()})
	first := dial(t, addr)
	for range 300 {
		dial(t, addr)
	}
	if res := ask(t, dial(t, addr), "GET /healthz HTTP/1.0\r\n\r\n"); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the oldest connection is still open")
	}
}

func TestServe_SlowRequest_IsCutOff(t *testing.T) {
	addr := serve(t, Config{Node: "n1", Read: 50 * time.Millisecond}, &fake{state: secondary()})
	c := dial(t, addr)
	if _, err := io.WriteString(c, "GET /healthz HT"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection does not end: %v", err)
	}
}

func TestServe_LargeHeader_IsRefused(t *testing.T) {
	addr := serve(t, Config{Node: "n1"}, &fake{state: secondary()})
	res := ask(t, dial(t, addr), fmt.Sprintf("GET /healthz HTTP/1.0\r\nX: %s\r\n\r\n", strings.Repeat("x", 32<<10)))
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestConfig_ListsAllFaults(t *testing.T) {
	err := Config{MaxConns: -1, Idle: -1}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"no name", "MaxConns", "Idle"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if err := (Config{Node: "n1"}).Validate(); err != nil {
		t.Error(err)
	}
}
